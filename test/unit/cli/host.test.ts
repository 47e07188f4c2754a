import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Host } from '../../../src/schemas/host.ts'
import { refuse, run, start, startFakeDaemon, type Handler } from './fake-daemon.ts'

const host = (other: Partial<Host> = {}): Host => ({
  id: 'hst_4k2m9tq7t1c8v3h5npaa',
  hostname: 'box',
  version: '0.1.0',
  status: 'ready',
  startedAt: new Date(Date.now() - 300_000).toISOString(),
  pid: 7,
  kernel: '6.18',
  node: 'v24',
  cgroupVersion: 2,
  runtimes: [],
  capacity: { cpuMillis: 2000, memoryBytes: 2 ** 30, diskBytes: 2 ** 30 },
  usage: { sandboxes: {}, requestedCpuMillis: 0, requestedMemoryBytes: 0, memoryBytes: 0, diskBytes: 0, loadAverage: [0, 0, 0] },
  ...other,
})
const drained = host({ status: 'draining', drain: { since: new Date(Date.now() - 120_000).toISOString() } })
const queue = (counts: number[]): Handler => () => {
  const [scheduled = 0, running = 0] = counts.splice(0, 2)
  return { pools: [{ scheduled, running: 0 }, { scheduled: 0, running }] }
}

test('host status is host, and both tell of a drain and a fleet', async t => {
  const stopAt = new Date(Date.now() + 3_650_000).toISOString()
  const fake = await startFakeDaemon(t, {
    'GET /v1/host': () => host({
      status: 'draining',
      drain: { since: new Date(Date.now() - 120_000).toISOString(), stopAt },
      gateway: { target: 'gw:9090', isConnected: false, problem: 'the gateway does not answer', lastHeartbeatAt: new Date(Date.now() - 60_000).toISOString() },
      queue: { isConnected: true, pool: 'gpu' },
    }),
  })
  const { exitCode, stdout } = await run(fake, ['host', 'status'])
  assert.equal(exitCode, 0)
  assert.match(stdout, /^Status: +draining, up 5 minutes/m)
  assert.match(stdout, /^Drained: +for 2 minutes, stops its tasks in 1 hour$/m)
  assert.match(stdout, /^Gateway: +gw:9090, not connected: the gateway does not answer, heartbeat 1 minute ago$/m)
  assert.match(stdout, /^Queue: +pool gpu, connected$/m)
  assert.equal((await run(fake, ['host'])).stdout, stdout)
  assert.equal(JSON.parse((await run(fake, ['host', 'status', '--json'])).stdout).drain.stopAt, stopAt)
  const unknown = await run(fake, ['host', 'reboot'])
  assert.deepEqual([unknown.exitCode, unknown.stdout], [125, ''])
})

test('drain asks for it and prints the host, and waits when told to until no task is left', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/host/drain': () => drained,
    'POST /v1/host/undrain': () => host(),
    'GET /v1/host': () => drained,
    'GET /v1/queue': queue([1, 2, 0, 1, 0, 0]),
  })
  assert.deepEqual(await run(fake, ['host', 'drain', '--stop-after', '90s']), { exitCode: 0, stdout: `${drained.id}\n`, stderr: '' })
  assert.deepEqual(fake.callsTo('GET /v1/queue'), [])
  assert.deepEqual(await run(fake, ['host', 'drain', '--wait']), { exitCode: 0, stdout: `${drained.id}\n`, stderr: 'berth: 3 tasks left\nberth: 1 task left\n' })
  assert.deepEqual(fake.callsTo('POST /v1/host/drain').map(({ body }) => body), [{ stopAfterMs: 90_000 }, {}])
  assert.deepEqual(await run(fake, ['host', 'undrain']), { exitCode: 0, stdout: `${drained.id}\n`, stderr: '' })
  assert.equal(JSON.parse((await run(fake, ['host', 'undrain', '--json'])).stdout).status, 'ready')
})

test('waiting for a drain ends with its time, with Ctrl-C, and where somebody undrains', async t => {
  let state = drained
  const fake = await startFakeDaemon(t, {
    'POST /v1/host/drain': () => drained,
    'GET /v1/host': () => state,
    'GET /v1/queue': () => ({ pools: [{ scheduled: 0, running: 2 }] }),
  })
  const late = await run(fake, ['host', 'drain', '--wait', '--timeout', '50ms'])
  assert.deepEqual([late.exitCode, late.stdout], [125, ''])
  assert.match(late.stderr, /there are still 2 tasks; the host stays drained/)
  const interrupted = start(fake, ['host', 'drain', '--wait'])
  const before = fake.calls.length
  while (fake.calls.length < before + 2) await new Promise(resolve => setImmediate(resolve))
  interrupted.signal('SIGINT')
  assert.equal((await interrupted.done).exitCode, 130)
  state = host()
  const undrained = await run(fake, ['host', 'drain', '--wait'])
  assert.equal(undrained.exitCode, 125)
  assert.match(undrained.stderr, /undrained meanwhile/)
})

test('what makes no sense, or is not allowed, drains nothing', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/host/drain': (_call, response) => refuse(response, 403, 'permission_denied', 'scope_insufficient', 'use an admin token') })
  for (const flags of [['--timeout', '5s'], ['--stop-after', 'soon'], ['--wait', '--timeout', 'x'], ['now']]) {
    assert.equal((await run(fake, ['host', 'drain', ...flags])).exitCode, 125, flags.join(' '))
  }
  assert.deepEqual(fake.calls, [])
  const { exitCode, stderr } = await run(fake, ['host', 'drain'])
  assert.deepEqual([exitCode, stderr], [125, 'berth: use an admin token\n'])
})
