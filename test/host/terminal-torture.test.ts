/** Terminals on the real runtime under everything that output, input and those who look at it can do to them. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test, type TestContext } from 'node:test'
import xterm from '@xterm/headless'
import type { Terminal, TerminalCreate } from '../../src/schemas/terminal.ts'
import { AttachClient, createTerminal, readTerminal, until, untilEnded, type AttachOptions } from '../support/attach-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'
import { makeToolImage } from '../support/tool-image.ts'

const MiB = 1024 ** 2
/** What a sandbox and everyone else can make the daemon grow by, at most; what passes through it in these tests is many times that. */
const growthBytes = 64 * MiB
const allBytes = Buffer.from(Array.from({ length: 256 }, (_, value) => value))
const binary = Buffer.concat(Array.from({ length: 1024 }, () => allBytes))
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
const seq = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => `${from + index}\r\n`).join('')
/** How many bytes `seq(1, to)` has. */
function seqBytes (to: number): number {
  let bytes = 0
  for (let digits = 1, first = 1; first <= to; digits++, first *= 10) bytes += (Math.min(to, first * 10 - 1) - first + 1) * (digits + 2)
  return bytes
}

test('terminals under torture', async t => {
  const daemon = await TestDaemon.start(t)
  const image = makeToolImage(t, { files: { 'data/binary': binary, 'data/half': Buffer.alloc(MiB / 2, 'a line of sixty-three characters, which is as long as it gets..\n') } })
  const { id: sandboxId } = await daemon.create({ image: `dir:${image}`, env: { LC_ALL: 'C.UTF-8' }, resources: { cpuMillis: 2000, memoryBytes: 512 * MiB } })
  const start = (program: string, input: Partial<TerminalCreate> = {}) => createTerminal(daemon, sandboxId, { argv: ['/bin/bash', '-c', program], ...input })
  const attach = (t: TestContext, terminal: Terminal, options?: AttachOptions) => AttachClient.attach(t, daemon, terminal, options)
  /** Ends what a test began. */
  const remove = async ({ id }: Terminal) => {
    const { status, text } = await daemon.request('DELETE', `/v1/sandboxes/${sandboxId}/terminals/${id}`)
    assert.equal(status, 204, text)
  }

  await t.test('60 of 60 bursts at exit are complete to the last byte', async t => {
    const lines = 12_000
    const expected = `${seq(1, lines)}the end`
    let waiting = 60
    let lateComers = 0
    const work = async () => {
      while (waiting > 0) {
        const isLate = waiting-- % 3 === 0
        const terminal = await start(`seq 1 ${lines}; printf 'the end'; exit 3`)
        // Every third comes when all is over.
        if (isLate) {
          await untilEnded(daemon, terminal)
          lateComers++
        }
        const viewer = AttachClient.open(daemon, terminal, { since: 0 })
        t.after(async () => viewer.cut())
        assert.equal((await viewer.closed).code, 1000)
        assert.deepEqual(viewer.events.at(-1), { type: 'exit', reason: 'exited', exitCode: 3 })
        assert.equal(viewer.text === expected, true, `${viewer.received} of ${expected.length} bytes`)
        await remove(terminal)
      }
    }
    await Promise.all(Array.from({ length: 5 }, work))
    assert.equal(lateComers, 20)
  })

  await t.test('bytes of all values pass unchanged both ways', async t => {
    const terminal = await start('stty raw -echo; printf ready; head -c 262144 | sha256sum; cat /data/binary')
    const viewer = await attach(t, terminal, { since: 0 })
    await viewer.waitForOutput('ready')
    await viewer.paste(binary)
    await viewer.closed
    const begin = `ready${sha256(binary)}  -\n`
    assert.equal(viewer.bytes.subarray(0, begin.length).toString(), begin)
    assert.ok(viewer.bytes.subarray(begin.length).equals(binary))
    await remove(terminal)
  })

  await t.test('of 100 resizes a second the last one wins', async t => {
    const terminal = await start("trap 'stty size' WINCH; echo ready; while read -t 0.05 || :; do :; done")
    const [viewer, other] = await Promise.all([attach(t, terminal), attach(t, terminal, { role: 'read' })])
    await viewer.waitForText('ready')
    for (let step = 1; step <= 300; step++) {
      viewer.resize(40 + step % 100, 10 + step % 50)
      await new Promise(resolve => setTimeout(resolve, 10))
    }
    viewer.resize(101, 31)
    await viewer.waitFor('the program knows the last size', () => viewer.text.trimEnd().endsWith('\n31 101') || undefined)
    await other.waitFor('others know it', () => (other.size.cols === 101 && other.size.rows === 31) || undefined)
    const { cols, rows } = await readTerminal(daemon, terminal)
    assert.deepEqual({ cols, rows }, { cols: 101, rows: 31 })
    await remove(terminal)
  })

  await t.test('of 20 viewers 19 get every byte, and the one that reads nothing is told', async t => {
    const pieces = 28
    const terminal = await start('stty -echo -opost; echo ready; while read; do cat /data/half; done')
    const viewers = await Promise.all(Array.from({ length: 19 }, () => attach(t, terminal, { since: 0, role: 'read', isCounting: true })))
    const [writer, stalled] = await Promise.all([attach(t, terminal, { since: 0 }), attach(t, terminal, { since: 0, isCounting: true })])
    await writer.waitForOutput('ready')
    stalled.stall()
    for (let piece = 1; piece <= pieces; piece++) {
      writer.type('\r')
      await Promise.all(viewers.map(async viewer => await viewer.waitFor(`piece ${piece}`, () => viewer.received >= 6 + piece * MiB / 2 || undefined)))
    }
    assert.deepEqual(new Set(viewers.map(({ received, digest }) => `${received} ${digest}`)).size, 1)
    for (const viewer of viewers) assert.deepEqual(viewer.events.map(({ type }) => type), ['ready'])
    writer.type('\x04')
    const end = (await untilEnded(daemon, terminal)).output.endOffset
    stalled.flow()
    await stalled.closed
    assert.notEqual(stalled.eventsOf('gap').length, 0)
    assert.equal(stalled.eventsOf('screen').length, stalled.eventsOf('gap').length)
    assert.equal(stalled.offset, end)
    assert.equal(stalled.received + stalled.eventsOf('gap').reduce((sum, { bytes }) => sum + bytes, 0), end)
    await remove(terminal)
  })

  await t.test('much output is kept in bounds, whoever does not read it', async t => {
    const terminal = await start('stty -echo -opost; read; head -c 100663296 /dev/zero | tr "\\0" x; echo; echo done')
    const stalled = await attach(t, terminal, { since: 0, isCounting: true })
    stalled.stall()
    const { before, most } = await watchMemory(daemon.pid, async () => {
      const writer = await attach(t, terminal, { isCounting: true })
      writer.type('\r')
      await until('it has ended', async () => (await readTerminal(daemon, terminal)).status === 'ended' || undefined, 60_000)
      writer.cut()
    })
    assert.ok(most - before < growthBytes, `the daemon grew from ${before} to ${most} bytes`)
    const late = AttachClient.open(daemon, terminal, { since: 0, isCounting: true })
    t.after(async () => late.cut())
    await late.closed
    const { output } = await readTerminal(daemon, terminal)
    assert.ok(output.endOffset - output.oldestOffset < 10 * MiB + MiB, 'what is kept is bounded')
    const [gap] = late.eventsOf('gap')
    assert.ok(gap && gap.offset >= output.oldestOffset)
    assert.equal(late.received, output.endOffset - gap.offset)
    await remove(terminal)
  })

  await t.test('what is older than what is kept is a gap, a screen and the rest', async t => {
    const pieces = 18
    const perPiece = 100_000
    const lines = pieces * perPiece
    const terminal = await start(`stty -echo; printf '!'; for i in {0..${pieces - 1}}; do read; seq $((i * ${perPiece} + 1)) $(((i + 1) * ${perPiece})); done; printf '\\e[31mlast'`, { cols: 60, rows: 12 })
    const writer = await attach(t, terminal, { since: 0, isCounting: true })
    for (let piece = 0; piece <= pieces; piece++) {
      if (piece > 0) writer.type('\r')
      await writer.waitFor(`piece ${piece}`, () => writer.received >= 1 + seqBytes(piece * perPiece) || undefined)
      // Whoever paints screens has come so far: it is not left behind by what is kept.
      if (piece < pieces) (await attach(t, terminal, { role: 'read', isCounting: true }).then(async viewer => { await viewer.waitForEvent('screen'); return viewer })).cut()
    }
    const { output } = await untilEnded(daemon, terminal)
    const whole = Buffer.from(`!${seq(1, lines)}\x1b[31mlast`)
    assert.equal(output.endOffset, whole.length)
    assert.ok(output.oldestOffset > 0)
    for (const since of [0, output.oldestOffset - 1, output.oldestOffset, output.endOffset - 4, output.endOffset]) {
      const viewer = AttachClient.open(daemon, terminal, { since })
      t.after(async () => viewer.cut())
      await viewer.closed
      const [stretch] = viewer.stretches.slice(-1)
      const from = Math.max(since, output.oldestOffset)
      assert.equal(stretch?.offset, from)
      assert.ok(stretch.bytes.equals(whole.subarray(from)), `the rest from ${from}`)
      assert.deepEqual(viewer.events.map(({ type }) => type), since < from ? ['ready', 'gap', 'screen', 'exit'] : ['ready', 'exit'])
      const shown = await viewer.lines()
      assert.equal(shown.includes(String(lines)), since <= output.oldestOffset, `the screen since ${since}`)
      assert.equal(shown.includes('last'), since < output.endOffset, `the screen since ${since}`)
    }
    const fresh = AttachClient.open(daemon, terminal)
    t.after(async () => fresh.cut())
    await fresh.closed
    assert.equal(fresh.received, 0)
    assert.deepEqual(await fresh.lines(), await paint(whole, 60, 12))
    await remove(terminal)
  })

  await t.test('input that nobody reads is kept in bounds, and harms no other terminal', async t => {
    const deaf = await start('stty raw -echo; echo ready; sleep 1000')
    const other = await start('exec bash --norc', { env: { PS1: '$ ' } })
    const [flooder, viewer] = await Promise.all([attach(t, deaf), attach(t, other)])
    await flooder.waitForText('ready')
    const { before, most } = await watchMemory(daemon.pid, async () => {
      const piece = randomBytes(MiB)
      const flood = (async () => { for (let sent = 0; sent < 128; sent++) await flooder.paste(piece) })().catch(() => {})
      for (let round = 0; round < 20; round++) assert.equal(await viewer.run(`echo $((${round} * 7))`), `${round * 7}\n`)
      await Promise.race([flood, new Promise(resolve => setTimeout(resolve, 1000))])
    })
    flooder.cut()
    assert.ok(most - before < growthBytes, `the daemon grew from ${before} to ${most} bytes`)
    await remove(deaf)
    await remove(other)
  })

  await t.test('8 MiB that are pasted arrive whole', async t => {
    const pasted = randomBytes(8 * MiB)
    const terminal = await start('stty raw -echo; printf ready; head -c 8388608 > /tmp/pasted; sha256sum < /tmp/pasted')
    const viewer = await attach(t, terminal, { since: 0 })
    await viewer.waitForOutput('ready')
    await viewer.paste(pasted)
    await viewer.closed
    assert.equal(viewer.text, `ready${sha256(pasted)}  -\n`)
    await remove(terminal)
  })

  await t.test('characters and sequences that are cut anywhere are whole on every screen', async t => {
    const text = 'a\u00fcb\u6f22c\u{1f44d}d\x1b[38;5;208me\x1b[0mf\x1b]2;title\x07g'
    const bytes = Buffer.from(text)
    const pieces = [...bytes].map(byte => `\\x${byte.toString(16).padStart(2, '0')}`)
    const terminal = await start(`stty -echo; printf '<'; for piece in ${pieces.map(piece => `'${piece}'`).join(' ')}; do read; printf "$piece"; done; read; printf '>'; read`)
    const writer = await attach(t, terminal, { since: 0 })
    await writer.waitForText('<')
    const viewers: AttachClient[] = []
    for (let count = 1; count <= bytes.length; count++) {
      writer.type('\r')
      await writer.waitFor(`byte ${count}`, () => writer.received === 1 + count || undefined)
      viewers.push(await attach(t, terminal))
    }
    writer.type('\r')
    const expected = await paint(Buffer.from(`<${text}>`), 80, 24)
    assert.equal(expected[0], '<a\u00fcb\u6f22c\u{1f44d}defg>')
    for (const [index, viewer] of [writer, ...viewers].entries()) {
      await viewer.waitForText('>')
      assert.deepEqual((await viewer.lines())[0], expected[0], `who came after ${index} bytes`)
      const orange = await viewer.cell(0, 9)
      assert.deepEqual([orange.text, orange.foreground], ['e', 208], `who came after ${index} bytes`)
    }
    await remove(terminal)
  })
})

/** The lines of a screen after these bytes. */
async function paint (bytes: Buffer, cols: number, rows: number): Promise<string[]> {
  const screen = new xterm.Terminal({ cols, rows, allowProposedApi: true })
  await new Promise<void>(resolve => screen.write(bytes, resolve))
  const { active } = screen.buffer
  return Array.from({ length: rows }, (_, row) => active.getLine(active.baseY + row)?.translateToString(true).trimEnd() ?? '')
}

/** How much memory a process has before something, and at most meanwhile; in bytes. */
async function watchMemory (pid: number, run: () => Promise<void>): Promise<{ before: number, most: number }> {
  const read = () => Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) * 1024
  const before = read()
  let most = before
  const timer = setInterval(() => { most = Math.max(most, read()) }, 20)
  try {
    await run()
  } finally {
    clearInterval(timer)
  }
  return { before, most }
}
