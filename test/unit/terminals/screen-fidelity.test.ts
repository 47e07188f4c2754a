/** Whoever comes at any byte of the output sees in the end what one saw who was there all the time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import headless, { type Terminal } from '@xterm/headless'
import { HeadlessScreen } from '../../../src/services/terminals/server/headless-screen.ts'

const [cols, rows] = [24, 8]
const full = 'x'.repeat(cols)

const outputs: Readonly<Record<string, string>> = {
  'characters of every length': 'a\u00fcb\u6f22c\u{1f44d}d\u00e9\r\nz\u0301 \u4e2d\u6587',
  'colours and modes': 'a\x1b[38;5;208mb\x1b[48;2;1;2;3mc\x1b[0md\x1b[1;4;7me\x1b[22;24;27mf\x1b[?2004h\x1b[?1hg',
  'strings with both ends': '\x1b]2;a title\x07a\x1b]0;another\x1b\\b\x1bP1$r0m\x1b\\c',
  'a scroll region that is scrolled in': '1\r\n2\r\n3\r\n4\r\n5\r\n6\x1b[2;4r\x1b[4;1Hnew\r\nlines\r\nscroll\r\nhere\x1bM\x1b[r\x1b[8;3Hend',
  'a region with its own origin': '1\r\n2\r\n3\r\n4\x1b[2;5r\x1b[?6h\x1b[2;3Habc\x1b[4;1Hdef\r\nghi\x1b[?6l\x1b[rj',
  'full lines': `\x1b[${rows};1H${full}\x1b[3;9Hhere\x1b[${rows};1H${full}\x1b[2;2Hthere${full}and more`,
  'another screen and back': 'before\x1b[?1049h\x1b[H\x1b[2Jother\x1b[3;5Hscreen\x1b[?1049l after',
  'lines that are drawn': 'a\x1b(0lqqk\x1b(Bb\r\n\x1b)0\x0exqx\x0fc',
  'what has scrolled by': Array.from({ length: 30 }, (_, index) => `line ${index}`).join('\r\n'),
  'a hidden cursor and a mouse': '\x1b[?25la\x1b[?1000h\x1b[?1006hb\x1b[?25hc',
}

for (const [name, output] of Object.entries(outputs)) {
  test(`a screen that is taken anywhere in ${name}`, async () => {
    const bytes = Buffer.from(output)
    const expected = await stateOf([bytes])
    for (const chunk of [1, 5]) {
      const screen = new HeadlessScreen(cols, rows)
      for (let at = 0; at < bytes.length;) {
        const end = Math.min(at + chunk, bytes.length)
        await screen.write(bytes.subarray(at, end))
        at = end
        const { offset, data } = screen.at(at)
        assert.ok(offset <= at)
        assert.deepEqual(await stateOf([data, bytes.subarray(offset)]), expected, `by ${chunk}, after ${at} bytes: ${JSON.stringify(data)}`)
        const exact = screen.atExactly(at)
        assert.equal(exact.offset, at)
        if (bytes.subarray(offset, at).every(byte => byte < 0x80)) assert.deepEqual(await stateOf([exact.data, bytes.subarray(at)]), expected, `exactly after ${at} bytes`)
      }
      screen.dispose()
    }
  })
}

test('a string that does not end is not kept', async () => {
  const screen = new HeadlessScreen(cols, rows)
  await screen.write(Buffer.from('a\x1b]2;'))
  assert.equal(screen.at(100).offset, 96)
  for (let count = 0; count < 20; count++) await screen.write(Buffer.alloc(1024, 'x'))
  assert.equal(screen.at(100_000).offset, 100_000)
  await screen.skip()
  assert.equal(screen.at(100_000).offset, 100_000)
})

interface Core {
  coreService: { isCursorHidden: boolean }
  coreMouseService: { activeEncoding: string }
  buffer: { scrollTop: number, scrollBottom: number }
}

async function stateOf (pieces: ReadonlyArray<string | Uint8Array>) {
  const terminal: Terminal = new headless.Terminal({ cols, rows, scrollback: 100, allowProposedApi: true, logLevel: 'off' })
  for (const piece of pieces) await new Promise<void>(resolve => terminal.write(piece, resolve))
  const { _core: core } = terminal as unknown as { _core: Core }
  const { active } = terminal.buffer
  const lines = Array.from({ length: active.length }, (_, row) => active.getLine(row))
  const state = {
    lines: lines.map(line => line?.translateToString(true)),
    colours: lines.flatMap((line, row) => Array.from({ length: cols }, (_, column) => line?.getCell(column)).flatMap((cell, column) =>
      cell && cell.getChars().trim() !== '' && (cell.getFgColorMode() !== 0 || cell.isInverse() !== 0) ? [[row, column, cell.getFgColor(), cell.getBgColor(), cell.isInverse(), cell.isBold()]] : [])),
    cursor: [active.cursorX, active.cursorY],
    kind: active.type,
    modes: terminal.modes,
    isCursorHidden: core.coreService.isCursorHidden,
    mouse: core.coreMouseService.activeEncoding,
    region: [core.buffer.scrollTop, core.buffer.scrollBottom],
  }
  terminal.dispose()
  return state
}
