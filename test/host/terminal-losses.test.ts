/** Terminals on the real runtimes, and what is left of them when something under them is gone. */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { AttachClient, createTerminal, readTerminal, until, untilEnded } from '../support/attach-client.ts'
import { TestDaemon } from '../support/test-daemon.ts'

test('kill -9 of the daemon while a program writes: each byte is had once', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  // A line each few milliseconds until it is told to stop: something is always under way.
  const terminal = await createTerminal(daemon, id, { argv: ['sh', '-c', 'i=0; until [ -e /tmp/stop ]; do i=$((i+1)); echo $i; [ $((i % 10)) = 0 ] && usleep 20000; done; exit 9'] })
  let all = ''
  for (let kill = 1; kill <= 3; kill++) {
    const viewer = await AttachClient.attach(t, daemon, terminal, { since: all.length })
    await viewer.waitFor('some more', () => viewer.received > 1000 || undefined)
    await daemon.end('SIGKILL')
    await viewer.closed
    all += viewer.text
    await daemon.start()
  }
  assert.equal((await readTerminal(daemon, terminal)).status, 'running', 'it went on')
  const [rest, anew] = [AttachClient.open(daemon, terminal, { since: all.length }), AttachClient.open(daemon, terminal, { since: 0 })]
  t.after(async () => { for (const viewer of [rest, anew]) viewer.cut() })
  assert.equal((await daemon.exec(id, ['touch', '/tmp/stop'])).exitCode, 0)
  await Promise.all([rest.closed, anew.closed])
  all += rest.text
  const lines = all.split('\r\n').length - 1
  assert.equal(all === Array.from({ length: lines }, (_, index) => `${index + 1}\r\n`).join(''), true, `${all.length} bytes, ${lines} lines`)
  assert.equal(anew.text, all)
  assert.deepEqual(rest.events.at(-1), { type: 'exit', reason: 'exited', exitCode: 9 })
})

test('one that ended while no daemon was there says how', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  const terminal = await createTerminal(daemon, id, { argv: ['sh', '-c', 'sleep 1; echo last; exit 6'], cols: 99 })
  const typed = await createTerminal(daemon, id, { argv: ['sh'] })
  await daemon.end('SIGKILL')
  await new Promise(resolve => setTimeout(resolve, 1500))
  await daemon.start()
  const { end, cols } = await untilEnded(daemon, terminal)
  assert.deepEqual([end?.reason, end?.exitCode, cols], ['exited', 6, 99])
  const viewer = AttachClient.open(daemon, terminal, { since: 0 })
  t.after(async () => viewer.cut())
  await viewer.closed
  assert.equal(viewer.text, 'last\r\n')
  // One that did not end takes input as before.
  const shell = await AttachClient.attach(t, daemon, typed)
  assert.equal(await shell.run('echo $((6 * 7))'), '42\n')
})

test('kill -9 of the process that holds the terminals: they end, what ran in them too, and new ones work', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  const terminals = await Promise.all(['4711', '4712', '4713'].map(time => createTerminal(daemon, id, { argv: ['sh', '-c', `trap '' HUP; echo ready; sleep ${time}; sleep ${time}`] })))
  const viewers = await Promise.all(terminals.map(terminal => AttachClient.attach(t, daemon, terminal, { since: 0 })))
  for (const viewer of viewers) await viewer.waitForText('ready')
  for (let round = 0; round < 2; round++) {
    const [pid, ...others] = ptyHosts(daemon)
    assert.ok(pid)
    assert.deepEqual(others, [])
    process.kill(pid, 'SIGKILL')
    await until('another one is there, or one is started when it is needed', async () => !ptyHosts(daemon).includes(pid) || undefined)
    const terminal = await until('a new terminal can be had', async () => {
      const answer = await daemon.request<Parameters<typeof readTerminal>[1]>('POST', `/v1/sandboxes/${id}/terminals`, { argv: ['sh'] })
      return answer.status === 201 ? answer.body : undefined
    })
    const shell = await AttachClient.attach(t, daemon, terminal)
    assert.equal(await shell.run('echo $((6 * 7))'), '42\n')
    assert.equal(await shell.run('echo again'), 'again\n')
  }
  for (const [index, terminal] of terminals.entries()) {
    assert.equal((await untilEnded(daemon, terminal)).end?.reason, 'pty_host_lost')
    await viewers[index]?.closed
    assert.equal(viewers[index]?.eventsOf('exit')[0]?.reason, 'pty_host_lost')
    assert.equal(viewers[index]?.text, 'ready\r\n')
  }
  await until('nothing of them runs', async () => !/sleep 471/.test((await daemon.exec(id, ['ps'])).stdout) || undefined)
  // Also when the daemon is not there to see it.
  const [pid = 0] = ptyHosts(daemon)
  const terminal = await createTerminal(daemon, id, { argv: ['sh', '-c', "trap '' HUP; sleep 4714; sleep 4714"] })
  await daemon.end('SIGKILL')
  process.kill(pid, 'SIGKILL')
  await daemon.start()
  assert.equal((await untilEnded(daemon, terminal)).end?.reason, 'pty_host_lost')
  await until('nothing of it runs', async () => !/sleep 471/.test((await daemon.exec(id, ['ps'])).stdout) || undefined)
})

test('a terminal ends with its sandbox, and says so', async t => {
  const daemon = await TestDaemon.start(t)
  const [stopped, exiting, deleted] = await Promise.all([daemon.create(), daemon.create({ entrypoint: ['sh', '-c', 'sleep 3'] }), daemon.create()])
  const watch = async (id: string) => {
    const terminal = await createTerminal(daemon, id, { argv: ['sh', '-c', "trap '' HUP TERM; echo here; while :; do sleep 1; done"] })
    const viewer = await AttachClient.attach(t, daemon, terminal, { since: 0 })
    await viewer.waitForText('here')
    return { terminal, viewer }
  }
  const [first, second, third] = await Promise.all([watch(stopped.id), watch(exiting.id), watch(deleted.id)])
  assert.equal((await daemon.request('POST', `/v1/sandboxes/${stopped.id}/stop`, { graceMs: 200 })).status, 200)
  await daemon.wait(exiting.id)
  await daemon.remove(deleted.id)
  for (const { viewer } of [first, second, third]) {
    await viewer.closed
    assert.equal(viewer.eventsOf('exit')[0]?.reason, 'sandbox_ended')
  }
  for (const { terminal } of [first, second]) {
    assert.equal((await untilEnded(daemon, terminal)).end?.reason, 'sandbox_ended')
    const late = AttachClient.open(daemon, terminal)
    t.after(async () => late.cut())
    await late.closed
    assert.equal((await late.lines())[0], 'here')
  }
  const refused = await daemon.request<{ code: string }>('POST', `/v1/sandboxes/${stopped.id}/terminals`, {})
  assert.deepEqual([refused.status, refused.body.code], [409, 'invalid_state'])
})

test('on runc, too', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ runtime: 'runc' })
  const terminal = await createTerminal(daemon, id, { cols: 77, rows: 21 })
  const viewer = await AttachClient.attach(t, daemon, terminal, { since: 0 })
  assert.equal(await viewer.run('stty size'), '21 77\n')
  viewer.resize(88, 22)
  await viewer.waitFor('the shell knows', async () => (await viewer.run('stty size')) === '22 88\n' || undefined)
  viewer.type('sleep 1000\r')
  await viewer.waitForOutput('sleep 1000')
  await viewer.waitFor('it is interrupted', async () => {
    viewer.type('\x03')
    return (await viewer.lines()).join('\n').includes('^C') || undefined
  })
  viewer.type('exit 5\r')
  await viewer.closed
  assert.deepEqual(viewer.events.at(-1), { type: 'exit', reason: 'exited', exitCode: 5 })
})

/** Pids of the processes that hold this daemon's terminals. */
function ptyHosts ({ runDir }: TestDaemon): number[] {
  return readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(Number).filter(pid => {
    try {
      const argv = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
      return argv.some(argument => argument.endsWith('pty-host.ts')) && argv.some(argument => argument.startsWith(`${runDir}/`))
    } catch {
      return false
    }
  })
}
