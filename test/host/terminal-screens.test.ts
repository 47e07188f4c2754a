/** Terminals as people use them, on the real runtime: what is on the screen, and who gets which signal. */
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { Terminal, TerminalCreate } from '../../src/schemas/terminal.ts'
import { AttachClient, createTerminal, readTerminal, until, untilEnded, type AttachOptions } from '../support/attach-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'
import { makeToolImage } from '../support/tool-image.ts'

const text = Array.from({ length: 200 }, (_, index) => `line ${index + 1} of a text`).join('\n')

test('programs at a terminal', async t => {
  const daemon = await TestDaemon.start(t)
  const image = makeToolImage(t, { files: { 'data/text': `${text}\n` } })
  const { id: sandboxId } = await daemon.create({ image: `dir:${image}`, env: { LC_ALL: 'C.UTF-8', PS1: '$ ', HOME: '/tmp' }, resources: { cpuMillis: 2000, memoryBytes: 512 * 1024 ** 2 } })
  const start = (input: Partial<TerminalCreate> = {}) => createTerminal(daemon, sandboxId, { argv: ['/bin/bash', '--norc', '--noprofile'], ...input })
  const attach = (t: TestContext, terminal: Terminal, options?: AttachOptions) => AttachClient.attach(t, daemon, terminal, options)
  const shell = async (t: TestContext, input: Partial<TerminalCreate> = {}) => {
    const terminal = await start(input)
    const viewer = await attach(t, terminal, { since: 0 })
    await viewer.waitForText(/\$$/m)
    return { terminal, viewer }
  }
  /** Someone who comes now sees what another sees who was there all the time. */
  const agree = async (t: TestContext, terminal: Terminal, viewer: AttachClient) => {
    const newcomer = await attach(t, terminal, { role: 'read' })
    const see = async (one: AttachClient) => JSON.stringify([await one.lines(), await one.cursor()])
    await newcomer.waitFor(`what others see: ${await see(viewer)}`, async () => await see(newcomer) === await see(viewer) || undefined)
    newcomer.cut()
  }

  await t.test('the tty is a real one, of the size that was asked for', async t => {
    const { viewer } = await shell(t, { cols: 91, rows: 33 })
    assert.equal(await viewer.run('stty size; tput colors; echo $TERM; tput cols; tput lines; id -un'), '33 91\n256\nxterm-256color\n91\n33\nu\n')
    assert.equal(await viewer.run('test -t 0 && test -t 1 && test -t 2 && echo terminal'), 'terminal\n')
    viewer.resize(120, 40)
    await viewer.waitForEvent('resize')
    await viewer.waitFor('the shell knows', async () => (await viewer.run('stty size')) === '40 120\n' || undefined)
    viewer.type('exit 4\r')
    await viewer.closed
    assert.deepEqual(viewer.events.at(-1), { type: 'exit', reason: 'exited', exitCode: 4 })
  })

  await t.test('a size that comes by PATCH, and with an attachment, is everybody\'s', async t => {
    const { terminal, viewer } = await shell(t)
    const { status } = await daemon.request('PATCH', `/v1/sandboxes/${sandboxId}/terminals/${terminal.id}`, { cols: 70, rows: 20, name: 'mine' })
    assert.equal(status, 200)
    await viewer.waitFor('one is told', () => viewer.size.cols === 70 || undefined)
    await viewer.waitFor('the shell knows', async () => (await viewer.run('stty size')) === '20 70\n' || undefined)
    const second = await attach(t, terminal, { cols: 66, rows: 22 })
    await viewer.waitFor('the first is told', () => viewer.size.cols === 66 || undefined)
    // One who only looks has no say.
    await attach(t, terminal, { role: 'read' })
    await viewer.waitFor('the shell knows', async () => (await viewer.run('stty size')) === '22 66\n' || undefined)
    assert.deepEqual(second.size, { cols: 66, rows: 22 })
    assert.equal((await readTerminal(daemon, terminal)).name, 'mine')
    assert.deepEqual((await readTerminal(daemon, terminal)).viewers, { write: 2, read: 1 })
  })

  await t.test('Ctrl-C, Ctrl-Z, fg, Ctrl-D and Ctrl-\\ do what they do', async t => {
    const { viewer } = await shell(t)
    // It says itself that it is there: an interrupt that comes before the shell has given it the terminal is not for it.
    viewer.type("sh -c \"echo begu''n; exec sleep 1000\"\r")
    await viewer.waitForText('begun')
    viewer.type('\x03')
    await viewer.waitFor('it is interrupted', async () => (await viewer.lines()).some((line, row) => line === '$' && row > 0) || undefined)
    assert.equal(await viewer.run('echo ended $?'), 'ended 130\n')
    viewer.type("echo start''ed; cat\r")
    await viewer.waitForText('started')
    viewer.type('one\r')
    await viewer.waitForText(/one\none/)
    viewer.type('\x1a')
    await viewer.waitForText(/Stopped +cat/)
    assert.match(await viewer.run('jobs'), /^\[1\]\+ +Stopped +cat\n$/)
    viewer.type('fg\r')
    await viewer.waitForText(/fg\ncat/)
    viewer.type('two\r')
    await viewer.waitForText(/two\ntwo/)
    viewer.type('\x04')
    assert.equal((await viewer.run('echo ended $?')).trim(), 'ended 0')
    const quit = await attach(t, await start({ argv: ['/bin/sleep', '1000'] }))
    await quit.waitFor('it has ended', async () => {
      if (!quit.isClosed) quit.type('\x1c')
      return quit.eventsOf('exit')[0]
    })
    assert.deepEqual(quit.events.at(-1), { type: 'exit', reason: 'exited', exitCode: 131, signal: 'SIGQUIT' })
  })

  await t.test('colours and wide characters stand where they belong', async t => {
    const { terminal, viewer } = await shell(t)
    viewer.type("clear; for c in {0..255}; do printf '\\e[38;5;%dm#' $c; done; printf '\\e[0m\\e[1;7m\u6f22\u5b57\\e[0m|\\n'\r")
    await viewer.waitForText('\u6f22\u5b57|')
    await agree(t, terminal, viewer)
    const newcomer = await attach(t, terminal)
    await newcomer.waitForText('\u6f22\u5b57|')
    for (const one of [viewer, newcomer]) {
      for (const colour of [1, 79, 80, 200, 239]) assert.equal((await one.cell(Math.floor(colour / 80), colour % 80)).foreground, colour)
      const wide = await one.cell(3, 16)
      assert.deepEqual([wide.text, wide.width, wide.isBold, wide.isInverse], ['\u6f22', 2, true, true])
    }
  })

  await t.test('vim: a file is edited and written, over a resize', async t => {
    const { terminal, viewer } = await shell(t)
    viewer.type('vim.tiny -u NONE /tmp/edited\r')
    await viewer.waitForText(/edited" \[New/)
    viewer.type('ihello \u00fcber\x1b')
    await viewer.waitForScreen('what was typed', lines => lines[0] === 'hello \u00fcber' && lines[1] === '~')
    viewer.resize(100, 30)
    await viewer.waitForScreen('thirty lines', lines => lines.length === 30 && lines[28] === '~')
    viewer.type('yy10p')
    await viewer.waitForScreen('eleven lines', lines => lines.slice(0, 11).every(line => line === 'hello \u00fcber') && lines[11] === '~')
    await agree(t, terminal, viewer)
    viewer.type(':wq\r')
    await viewer.waitForText(/\$$/m)
    assert.equal(await viewer.run('wc -l < /tmp/edited'), '11\n')
  })

  await t.test('less: pages, a search, and the screen before it is back', async t => {
    const { terminal, viewer } = await shell(t)
    await viewer.run('echo before')
    viewer.type('less /data/text\r')
    await viewer.waitForScreen('the first page', lines => lines[0] === 'line 1 of a text' && lines[22] === 'line 23 of a text')
    viewer.type(' ')
    await viewer.waitForScreen('the second page', lines => lines[0] === 'line 24 of a text')
    viewer.type('/line 150\r')
    await viewer.waitForScreen('what was searched for', lines => lines[0] === 'line 150 of a text')
    assert.equal((await viewer.cell(0, 0)).isInverse, true)
    await agree(t, terminal, viewer)
    viewer.type('q')
    await viewer.waitForScreen('the shell', lines => lines.includes('before') && !lines.includes('line 150 of a text'))
    viewer.type('seq 1 100 | less\r')
    await viewer.waitForScreen('the first page', lines => lines[0] === '1' && lines[22] === '23')
    viewer.type(' ')
    await viewer.waitForScreen('the second page', lines => lines[0] === '24')
    viewer.type('q')
    await viewer.waitForScreen('the shell', lines => lines.includes('before'))
    await agree(t, terminal, viewer)
  })

  await t.test('top: shows what runs, and takes a key', async t => {
    const { terminal, viewer } = await shell(t, { cols: 100 })
    viewer.type('top\r')
    const lines = await viewer.waitForText(/PID USER[^\n]*\n[^]*top\b/)
    assert.match(lines[0] ?? '', /^top - /)
    await attach(t, terminal)
    viewer.type('q')
    await viewer.waitForText(/^\$$/m)
    assert.equal((await viewer.run('echo ended $?')).trim(), 'ended 0')
  })

  await t.test('tmux: two panes, a detach and an attach in another terminal', async t => {
    const { terminal, viewer } = await shell(t, { cols: 100, rows: 30 })
    viewer.type('tmux -u -f /dev/null new -s work bash --norc\r')
    await viewer.waitForText('[work]')
    viewer.type('echo left$((40+2))\r')
    await viewer.waitForText('left42')
    viewer.type('\x02%')
    await viewer.waitForText('\u2502')
    viewer.type('echo right$((50+5))\r')
    await viewer.waitForScreen('both panes', lines => lines.some(line => line.startsWith('left42')) && lines.some(line => line.includes('\u2502right55')))
    viewer.resize(80, 24)
    await viewer.waitForScreen('the smaller size', lines => lines.length === 24 && /^\[work\]/.test(lines[23] ?? ''))
    await agree(t, terminal, viewer)
    viewer.type('\x02d')
    await viewer.waitForText('[detached (from session work)]')
    const second = await shell(t)
    second.viewer.type('tmux -u attach\r')
    await second.viewer.waitForScreen('both panes', lines => lines.some(line => line.startsWith('left42')) && lines.some(line => line.includes('\u2502right55')))
    assert.match(await viewer.run('tmux kill-server; tmux ls 2>&1'), /no server running|error connecting|server exited/)
  })

  await t.test('who only looks can neither type nor resize', async t => {
    const { terminal, viewer } = await shell(t)
    const reader = await attach(t, terminal, { role: 'read' })
    assert.deepEqual(reader.eventsOf('ready')[0]?.role, 'read')
    reader.type('echo typed by a reader\r')
    assert.equal((await reader.waitForEvent('error')).code, 'read_only')
    const second = await attach(t, terminal, { role: 'read' })
    second.resize(20, 10)
    assert.equal((await second.waitForEvent('error')).code, 'read_only')
    await viewer.run('echo typed by a writer')
    const third = await attach(t, terminal, { role: 'read' })
    await third.waitForText('typed by a writer')
    assert.equal((await third.lines()).join('\n').includes('reader'), false)
    assert.deepEqual(viewer.size, { cols: 80, rows: 24 })
  })

  await t.test('DELETE ends a program that ignores SIGHUP, and all that it started there', async t => {
    const terminal = await start({ argv: ['/bin/bash', '-c', "trap '' HUP TERM INT; sleep 4711 & echo ready; while :; do sleep 0.1; done"] })
    const viewer = await attach(t, terminal)
    await viewer.waitForText('ready')
    const { status, text } = await daemon.request('DELETE', `/v1/sandboxes/${sandboxId}/terminals/${terminal.id}`)
    assert.equal(status, 204, text)
    await viewer.closed
    assert.equal(viewer.eventsOf('exit')[0]?.reason, 'deleted')
    assert.equal((await daemon.request('GET', `/v1/sandboxes/${sandboxId}/terminals/${terminal.id}`)).status, 404)
    await until('nothing of it runs', async () => !(await daemon.exec(sandboxId, ['ps', 'axo', 'args'])).stdout.includes('trap') || undefined)
  })

  await t.test('one that nobody uses ends after its idle time, one that is looked at does not', async t => {
    const [alone, seen] = await Promise.all([start({ idleTimeoutMs: 1000 }), start({ idleTimeoutMs: 1000 })])
    const viewer = await attach(t, seen)
    const { end } = await untilEnded(daemon, alone)
    assert.equal(end?.reason, 'idle')
    assert.equal((await readTerminal(daemon, seen)).status, 'running')
    await viewer.close()
    assert.equal((await untilEnded(daemon, seen)).end?.reason, 'idle')
  })

  await t.test('a program that is not there is said to be missing', async () => {
    const answer = await daemon.request<{ id?: string, code?: string }>('POST', `/v1/sandboxes/${sandboxId}/terminals`, { argv: ['/no/such'] })
    if (answer.status !== 201) assert.equal(answer.status, 400, answer.text)
    else assert.equal((await untilEnded(daemon, { sandboxId, id: answer.body.id ?? '' })).end?.exitCode, 127)
  })
})
