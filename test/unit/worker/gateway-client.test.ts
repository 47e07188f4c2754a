/** What a host and its gateway say to each other. */
import assert from 'node:assert/strict'
import { status } from '@grpc/grpc-js'
import { test } from 'node:test'
import { pino } from 'pino'
import { pollUntil } from '../../../src/lib/poll.ts'
import { codeOf } from '../../../src/worker/gateway-channel.ts'
import { gatewayReports } from '../../../src/worker/gateway-reports.ts'
import { buildGateway, hostFacts } from './gateway-rig.ts'

const ended = { taskId: 'ext-1', fence: 7, status: 'failed', error: 'timed_out' } as const

test('what a host says of itself arrives whole, numbers beyond 32 bits too, and the gateway tells of it', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  gateway.heartbeatIntervalMs = 2500
  assert.deepEqual(await client.register({ hostId: 'hst_two', status: 'draining', facts: hostFacts, apiToken: 'secret' }), { workerId: 'hst_two', heartbeatMs: 2500 })
  assert.deepEqual({ ...gateway.requests[0] }, {
    hostname: 'box',
    poolName: 'gpu',
    cpu: 4000,
    memory: 64 * 1024 ** 3,
    version: '0.1.0',
    hostId: 'hst_two',
    apiUrl: 'https://10.0.0.7:7070',
    apiToken: 'secret',
    labels: { zone: 'a' },
    free: { cpu: 2500, memory: 2 ** 45 },
    apiCa: 'PEM',
    status: 'draining',
  })
  assert.equal(await client.heartbeat('hst_two', hostFacts), undefined)
  gateway.wish = { wish: 'drain', wishNumber: 2 ** 40 }
  assert.deepEqual(await client.heartbeat('hst_two', hostFacts), { wish: 'drain', number: 2 ** 40 })
  await client.updateStatus('hst_two', 'available')
  const worker = await client.getWorker('hst_two')
  assert.deepEqual(worker, {
    id: 'hst_two',
    status: 'available',
    pool: 'gpu',
    hostname: 'box',
    version: '0.1.0',
    capacity: hostFacts.capacity,
    free: { cpuMillis: 2500, memoryBytes: 2 ** 45 },
    labels: { zone: 'a' },
    lastSeenAt: '2026-03-01T09:30:00.000Z',
    registeredAt: '2026-03-01T09:23:20.000Z',
  })
  assert.deepEqual(await client.listWorkers(), [worker])
  assert.equal(await client.getWorker('hst_three'), undefined)
  await client.deregister('hst_two')
  assert.equal(gateway.workers.size, 0)
})

test('a gateway that knows none of our fields is served all the same, by the id that it gives', async t => {
  const { gateway, open } = await buildGateway(t, { isOld: true })
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  assert.deepEqual(await client.register({ hostId: 'hst_two', status: 'available', facts: hostFacts }), { workerId: 'worker-1' })
  assert.deepEqual({ ...gateway.requests[0] }, { hostname: 'box', poolName: 'gpu', cpu: 4000, memory: 64 * 1024 ** 3, version: '0.1.0' })
  assert.equal(await client.heartbeat('worker-1', hostFacts), undefined)
  const worker = await client.getWorker('worker-1')
  assert.deepEqual([worker?.id, worker?.pool, worker?.labels, worker?.free], ['worker-1', 'gpu', {}, undefined])
  await client.allocate('lease')
  await client.setTaskStarted({ taskId: 'ext-1', fence: 7, sandboxId: 'sbx_1' })
  await client.setTaskResult(ended)
  assert.deepEqual({ ...gateway.requests.at(-1) }, { taskId: 'ext-1', exitCode: -1, error: 'timed_out' })
  assert.ok(gateway.calls.includes('allocate lease worker-1'))
})

test('a wish of a later version is none, and a number that no double holds is refused', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  await client.register({ hostId: 'hst_two', status: 'available', facts: hostFacts })
  gateway.wish = { wish: 'reboot', wishNumber: 1 }
  assert.equal(await client.heartbeat('hst_two', hostFacts), undefined)
  gateway.wish = { wish: 'drain', wishNumber: '9007199254740993' }
  await assert.rejects(client.heartbeat('hst_two', hostFacts), { code: 'gateway_nonsense' })
  gateway.nonsense.getWorker = { cpu: '9223372036854775807' }
  await assert.rejects(client.getWorker('hst_two'), { code: 'gateway_nonsense' })
  gateway.nonsense.getWorker = { lastSeenAt: '-9223372036854775808' }
  await assert.rejects(client.getWorker('hst_two'), { code: 'gateway_nonsense' })
})

test('answers without an id, or that are no messages, are errors', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  const register = () => client.register({ hostId: 'hst_two', status: 'available', facts: hostFacts })
  for (const workerId of ['', 'two\nlines', 'x'.repeat(257)]) {
    gateway.nonsense.registerWorker = { workerId }
    await assert.rejects(register(), { kind: 'unavailable', code: 'gateway_nonsense' })
  }
  gateway.isGarbled = true
  await assert.rejects(register(), error => codeOf(error) === status.INTERNAL)
})

test('errors keep the code of the call, and a call is given up when its signal says so', async t => {
  const { gateway, open } = await buildGateway(t)
  const client = await open(`127.0.0.1:${await gateway.listen()}`)
  await assert.rejects(client.heartbeat('hst_none', hostFacts), error => codeOf(error) === status.NOT_FOUND)
  gateway.token = 'another'
  await assert.rejects(client.heartbeat('hst_none', hostFacts), { code: 'gateway_refused', message: /BERTH_GATEWAY_TOKEN_FILE/ })
  gateway.isSilent = true
  const giveUp = new AbortController()
  const call = assert.rejects(client.heartbeat('hst_none', hostFacts, { signal: giveUp.signal }), error => codeOf(error) === status.CANCELLED)
  const { knocks } = gateway
  assert.ok(await pollUntil(async () => gateway.knocks > knocks, 10_000))
  giveUp.abort()
  await call
  await assert.rejects(client.heartbeat('hst_none', hostFacts, { timeoutMs: 50 }), error => codeOf(error) === status.DEADLINE_EXCEEDED)
})

test('a report that a gateway will never take is over, and one that it may take later is not', async t => {
  const { gateway, open } = await buildGateway(t)
  const reports = gatewayReports(await open(`127.0.0.1:${await gateway.listen()}`), pino({ enabled: false }))
  await reports.started({ taskId: 'ext-1', fence: 7, sandboxId: 'sbx_1' })
  assert.deepEqual({ ...gateway.requests.at(-1) }, { taskId: 'ext-1', workerId: 'hst_one', fence: 7, sandboxId: 'sbx_1' })
  for (const code of [status.NOT_FOUND, status.UNIMPLEMENTED, status.FAILED_PRECONDITION, status.INVALID_ARGUMENT]) {
    gateway.refusal = { code, details: 'never' }
    await reports.ended(ended)
  }
  for (const code of [status.UNAVAILABLE, status.INTERNAL, status.PERMISSION_DENIED, status.RESOURCE_EXHAUSTED]) {
    gateway.refusal = { code, details: 'not now' }
    await assert.rejects(reports.ended(ended), { kind: 'unavailable' })
  }
  gateway.refusal = undefined
  await reports.ended({ taskId: 'ext-1', fence: 7, status: 'complete', exitCode: 0 })
  assert.deepEqual({ ...gateway.requests.at(-1) }, { taskId: 'ext-1', exitCode: 0, error: '', workerId: 'hst_one', fence: 7, status: 'complete' })
})
