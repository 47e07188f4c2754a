import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pollUntil } from '../../../src/lib/poll.ts'
import { OutputReader } from '../../../src/services/terminals/output-reader.ts'
import { OutputWriter } from '../../../src/services/terminals/server/output-writer.ts'
import { maxBehindBytes } from '../../../src/services/terminals/server/screen-follower.ts'
import { ScreenKeeper } from '../../../src/services/terminals/server/screen-keeper.ts'
import { maxScreenBytes, HeadlessScreen } from '../../../src/services/terminals/server/headless-screen.ts'

async function paint (output: string, cols = 20, rows = 5): Promise<HeadlessScreen> {
  const screen = new HeadlessScreen(cols, rows)
  await screen.write(Buffer.from(output))
  return screen
}

/** What a screen looks like to one who paints it anew: its painting, painted, and painted again. */
async function repainted (screen: HeadlessScreen): Promise<string> {
  const { cols, rows, data } = screen.at(0)
  return (await paint(data, cols, rows)).at(0).data
}

test('a screen painted from its data is the same screen', async () => {
  const outputs = [
    'plain\r\ntext', 'gr\u00fcn \u4f60\u597d e\u0301 \u{1f600}', '\x1b[1;31;48;5;22mcolours\x1b[0m \x1b[38;2;1;2;3mtrue', '\x1b[3;4Hx\x1b[1;1Hy', `${'line\r\n'.repeat(40)}end`,
    'shell\x1b[?1049h\x1b[2J\x1b[2;2Hfull screen', '\x1b[?2004h\x1b[?1h\x1b[?1000hmodes',
  ]
  for (const output of outputs) {
    const screen = await paint(output)
    assert.equal(await repainted(screen), screen.at(0).data, JSON.stringify(output))
  }
})

test('scrollback is kept, and not more of it than a thousand lines or than its cells allow', async () => {
  const narrow = await paint(Array.from({ length: 3000 }, (_, index) => `n${index}`).join('\r\n'))
  assert.ok(narrow.at(0).data.startsWith('n1995\r\n'))
  const wide = await paint(Array.from({ length: 3000 }, (_, index) => `n${index}`).join('\r\n'), 1000, 5)
  assert.ok(wide.at(0).data.startsWith('n2795\r\n'))
})

test('hostile output costs neither much memory nor much time', { timeout: 20_000 }, async () => {
  // One character and 16 marks a cell, and no more cells than there are.
  const marks = (await paint('e' + '\u0301'.repeat(400_000), 10, 3)).at(0).data.length
  assert.ok(marks > 0 && marks <= 1003 * 10 * 17, `${marks} characters`)
  await paint(`q${['b', 'S', 'T', 'L', 'M', '@', 'P', 'I', 'Z'].map(final => `\x1b[2147483647${final}`).join('').repeat(100)}`)
  const links = await paint(`\x1b]8;;http://x/${'y'.repeat(100_000)}\x1b\\link\x1b]8;;\x1b\\\x1b]0;${'t'.repeat(100_000)}\x07`.repeat(20))
  assert.ok(!links.at(0).data.includes('yyy'))
  const bright = await paint(Array.from({ length: 200_000 }, (_, index) => `\x1b[38;2;${index % 251};${index % 241};${index % 239};48;2;255;${index % 233};254m#`).join(''), 1000, 200)
  const screen = bright.at(0)
  assert.ok(Buffer.byteLength(JSON.stringify(screen)) <= maxScreenBytes)
  assert.ok(screen.data.includes('####'))
})

test('the thread follows files, keeps screens at their beginnings, and survives what it cannot read', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-screens-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const logged: unknown[] = []
  const keeper = new ScreenKeeper({ logger: { error: (...facts: unknown[]) => { logged.push(facts) }, warn: (...facts: unknown[]) => { logged.push(facts) } } })
  keeper.start()
  t.after(() => keeper.close())
  const id = 'trm_00000000000000000001'
  const windowBytes = 16 * maxBehindBytes
  const writer = new OutputWriter({ dir, windowBytes, onFailed: error => { throw error } })
  keeper.add({ id, dir, cols: 80, rows: 24, offset: 0 })
  const append = (text: string) => {
    writer.append(Buffer.from(text))
    keeper.advance(id, writer.offset)
  }
  append('one\r\n\x1b[?2004h')
  assert.equal((await keeper.screen(id, writer.offset)).data, 'one\x1b[1B\x1b[3D\x1b[?2004h\x1b[2;1H')
  keeper.resize(id, writer.offset, 40, 10)
  append('two')
  const second = await keeper.screen(id, writer.offset)
  assert.deepEqual([second.cols, second.rows, second.offset, second.data], [40, 10, writer.offset, 'one\r\ntwo\x1b[?2004h'])
  // So much at once that it skips: the modes of before stay, and what is shown is the present.
  append(`${'x'.repeat(38)}\r\n`.repeat(300_000))
  append('\x1b[2J\x1b[Hthree')
  const third = await keeper.screen(id, writer.offset)
  assert.ok(third.data.includes('three') && third.data.includes('\x1b[?2004h'))
  for (let round = 0; writer.offset < 1.2 * windowBytes; round++) {
    append(`${round} ${'y'.repeat(60_000)}\r\n`)
    if (round % 5 === 0) await keeper.screen(id, writer.offset)
  }
  await keeper.screen(id, writer.offset)
  const reader = new OutputReader(dir)
  assert.ok((await reader.screenAt(windowBytes))?.data.includes('yyyy'))
  keeper.end(id, writer.offset)
  assert.ok(await pollUntil(async () => (await reader.screenAt(writer.offset)) !== undefined, 10_000))
  assert.deepEqual((await readdir(dir)).filter(name => name.endsWith('.tmp')), [])
  writer.close()
  await rm(dir, { recursive: true })
  keeper.advance(id, writer.offset + 100)
  assert.equal((await keeper.screen(id, writer.offset + 100)).offset, writer.offset + 100)
  keeper.remove(id)
  await assert.rejects(keeper.screen(id, 0), { code: 'screen_unavailable' })
  assert.deepEqual(logged, [])
})
