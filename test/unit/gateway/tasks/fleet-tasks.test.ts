import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { FleetTasks } from '../../../../src/gateway/tasks/fleet-tasks.ts'
import type { FleetPrincipal, WorkerRecord } from '../../../../src/gateway/worker-record.ts'
import type { FleetTaskFilter } from '../../../../src/services/fleet-queue/fleet-queue-types.ts'
import { openTaskDatabase } from '../../../../src/services/database.ts'
import type { TaskRecord } from '../../../../src/services/tasks/task-record.ts'
import { openTaskStore } from '../../../../src/services/tasks/task-store.ts'
import { queueDefaults } from '../../../contract/queue-rig.ts'
import { admin, buildFleetRig } from './fleet-rig.ts'
import { makeRecord } from './fleet-record.ts'

const GiB = 1024 ** 3
const image = 'berth/base'
const blue: FleetPrincipal = { id: 'tok_blue', scope: 'client', pools: ['blue', 'default'] }
const reader: FleetPrincipal = { id: 'tok_reader', scope: 'read' }
const forever = new AbortController().signal

/** The service on the queue of a host, which keeps the same contract. */
async function build (t: TestContext, { workers = [] as Partial<WorkerRecord>[] } = {}) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-fleet-tasks-'))
  const store = openTaskStore({ db: openTaskDatabase(join(dir, 'tasks.db')), options: queueDefaults })
  t.after(async () => {
    await store.close()
    rmSync(dir, { recursive: true })
  })
  const { queue, table } = store
  const listedPools: unknown[] = []
  const reported: string[] = []
  const dropped: string[] = []
  const tasks = new FleetTasks({
    queue,
    table: {
      get: async id => table.get(id),
      list: async ({ pools, ...filter }: FleetTaskFilter & { limit: number, cursor?: string }) => {
        listedPools.push(pools)
        return table.list(filter)
      },
      remove: async id => await table.remove(id),
      watch: (id, listener) => table.watch(id, listener),
    },
    workers: { list: async ({ pools }: { pools?: readonly string[] } = {}) => (workers as WorkerRecord[]).filter(({ pool }) => !pools || pools.includes(pool)) },
    reportEnd: async ({ id }: TaskRecord) => { reported.push(id) },
    dropOutput: async taskKey => { dropped.push(taskKey) },
  })
  const claim = async (owner = 'hst_a') => {
    const room = { cpuMillis: 64_000, memoryBytes: 256 * GiB }
    return (await queue.claim({ owner, pools: ['default', 'blue'], limit: 1, leaseMs: 60_000, room, capacity: room }))[0]!
  }
  return { tasks, queue, claim, listedPools, reported, dropped }
}

test('a task is queued with every default, for any host that could have it', async t => {
  const { tasks } = await build(t)
  const big = { image, resources: { cpuMillis: 32_000, memoryBytes: 128 * GiB, pids: 512 }, hostLabels: { gpu: 'a100' }, outputs: [{ type: 's2' as const }], runtime: 'runc' }
  const task = await tasks.of(admin).create(big, {})
  assert.match(task.id, /^tsk_[0-9a-v]{20}$/)
  assert.deepEqual([task.status, task.pool, task.hostLabels, task.requests, task.outputs],
    ['pending', 'default', { gpu: 'a100' }, { cpuMillis: 32_000, memoryBytes: 128 * GiB }, [{ type: 's2' }]])
  assert.deepEqual((await tasks.of(admin).create({ image }, {})).outputs, [])
})

test('of a batch all are queued or none, and a key answers the tasks of the first time', async t => {
  const { tasks, queue } = await build(t)
  const service = tasks.of(blue)
  await assert.rejects(service.createBatch([{ image }, { image, pool: 'gpu' }], {}), { kind: 'permission_denied', code: 'pool_forbidden', message: /tasks\[1\].*pool gpu.*none of the batch/ })
  assert.deepEqual(await queue.stats(), [])
  const first = await service.createBatch([{ image }, { image, pool: 'blue' }], { idempotencyKey: 'tok_blue/k' })
  const again = await service.createBatch([{ image }, { image, pool: 'blue' }], { idempotencyKey: 'tok_blue/k' })
  assert.deepEqual(again.map(({ id }) => id), first.map(({ id }) => id))
})

test('a token of some pools neither sees nor changes tasks of others, and one that reads changes none', async t => {
  const { tasks, listedPools } = await build(t)
  const { id } = await tasks.of(admin).create({ image, pool: 'gpu' }, {})
  const service = tasks.of(blue)
  const notFound = { kind: 'not_found', code: 'task_not_found' } as const
  const asked = [service.get(id), service.cancel(id), service.retry(id), service.remove(id), service.wait(id, { timeoutMs: 10, signal: forever })]
  for (const answer of asked) await assert.rejects(answer, notFound)
  await assert.rejects(service.create({ image, pool: 'gpu' }, {}), { code: 'pool_forbidden' })
  await service.list({ limit: 10 })
  assert.deepEqual(listedPools, [['blue', 'default']])
  const reading = tasks.of(reader)
  assert.equal((await reading.get(id)).pool, 'gpu')
  const changes = [reading.create({ image }, {}), reading.cancel(id), reading.retry(id), reading.remove(id)]
  for (const change of changes) await assert.rejects(change, { kind: 'permission_denied', code: 'scope_insufficient' })
})

test('whoever waits hears of a start and of an end, and otherwise how far it is', async t => {
  const { tasks, queue, claim } = await build(t)
  const service = tasks.of(admin)
  const { id } = await service.create({ image }, {})
  await assert.rejects(service.wait(id, { timeoutMs: 5, signal: forever }), { kind: 'timed_out', message: /still pending/ })
  const running = service.wait(id, { timeoutMs: 60_000, signal: forever, until: 'running' })
  const ended = service.wait(id, { timeoutMs: 60_000, signal: forever })
  const delivery = await claim()
  await queue.start(delivery, { sandboxId: `sbx_${'a'.repeat(20)}`, logCursor: '0:0', startedAt: new Date().toISOString(), timings: [] })
  const [attempt] = (await running).attempts
  assert.equal(attempt?.logCursor, `${delivery.fence}.0:0`, 'the place in the log of the task in the fleet')
  await queue.settle(delivery, { status: 'complete', end: { reason: 'exited', at: new Date().toISOString(), exitCode: 0 }, isRetryable: false })
  assert.equal((await ended).status, 'complete')
  const gone = service.wait((await service.create({ image }, {})).id, { timeoutMs: 60_000, signal: AbortSignal.abort() })
  await assert.rejects(gone, { kind: 'cancelled' })
})

test('a cancelled task that came over the wire is reported there, unless a host had it', async t => {
  const { tasks, queue, claim, reported } = await build(t)
  const service = tasks.of(admin)
  const push = async (index: number, fleet: boolean) => {
    const { spec } = makeRecord()
    const id = `tsk_${String(index).repeat(20)}`
    await queue.push([{ id, spec: { ...spec, ...(fleet && { fleet: { taskId: id, fence: 0, attempt: 1, externalId: `ext-${index}` } }) }, delayMs: 0 }])
    return id
  }
  const foreign = await push(1, true)
  assert.equal((await service.cancel(foreign)).status, 'cancelled')
  assert.equal((await service.cancel(foreign)).fleet?.externalId, 'ext-1')
  await service.cancel(await push(2, false))
  const running = await push(3, true)
  const delivery = await claim()
  assert.notEqual((await service.cancel(running)).cancelRequestedAt, undefined)
  await queue.settle(delivery, { status: 'cancelled', end: { reason: 'cancelled', at: new Date().toISOString() }, isRetryable: false })
  assert.equal((await service.cancel(running)).status, 'cancelled')
  assert.deepEqual(reported, [foreign, foreign])
})

test('the queue counts by pool, and adds up the room of workers that take tasks', async t => {
  const room = (cores: number) => ({ cpuMillis: cores * 1000, memoryBytes: cores * GiB })
  const worker = (pool: string, more: Partial<WorkerRecord> = {}) => ({ pool, status: 'available' as const, isLost: false, capacity: room(8), free: room(3), ...more })
  const { tasks } = await build(t, { workers: [worker('default'), worker('blue'), worker('blue', { status: 'draining' }), worker('blue', { isLost: true }), worker('gpu')] })
  await tasks.of(admin).createBatch([{ image }, { image, pool: 'gpu' }, { image, pool: 'unserved' }], {})
  const all = await tasks.of(admin).queue()
  assert.deepEqual(all.pools.map(({ pool, pending, isServed }) => [pool, pending, isServed]).sort(), [['blue', 0, true], ['default', 1, true], ['gpu', 1, true], ['unserved', 1, false]])
  assert.deepEqual([all.capacity, all.free], [room(24), room(9)])
  const own = await tasks.of(blue).queue()
  assert.deepEqual(own.pools.map(({ pool }) => pool).sort(), ['blue', 'default'])
  assert.deepEqual(own.capacity, room(16))
})

test('the routes are those of a host, take labels of hosts, and refuse what they do not know', async t => {
  const { queue } = await build(t)
  const { app, as } = await buildFleetRig(t, { tasks: { queue } })
  const post = (payload: object) => app.inject({ method: 'POST', url: '/v1/tasks', payload })
  const one = await post({ image, hostLabels: { zone: 'a' }, pool: 'blue' })
  assert.equal(one.statusCode, 201, one.body)
  assert.equal(one.headers.location, `/v1/tasks/${one.json().id}`)
  assert.deepEqual(one.json().hostLabels, { zone: 'a' })
  const batch = await post({ tasks: [{ image, hostLabels: { zone: 'b' } }, { image }] })
  assert.equal(batch.json().items.length, 2, batch.body)
  assert.equal((await post({ image, hostlabels: {} })).statusCode, 400)
  as(blue)
  assert.deepEqual([(await post({ image, pool: 'gpu' })).statusCode, (await app.inject('/v1/queue')).statusCode], [403, 200])
})

test('with a task goes what the fleet keeps of its output, by the name of whoever made it', async t => {
  const { tasks, queue, dropped, reported } = await build(t)
  const service = tasks.of(admin)
  const { id } = await service.create({ image }, {})
  await assert.rejects(service.remove(id), { code: 'invalid_state' })
  assert.deepEqual(dropped, [], 'what runs keeps its output')
  await service.cancel(id)
  await service.remove(id)
  const { spec } = makeRecord()
  const [foreign] = await queue.push([{ id: 'tsk_0000000000000000000f', delayMs: 0, spec: { ...spec, fleet: { taskId: 'tsk_0000000000000000000f', fence: 0, attempt: 1, externalId: 'theirs' } } }])
  await service.cancel(foreign!.id)
  await service.remove(foreign!.id)
  assert.deepEqual(dropped, [id, 'theirs'])
  assert.deepEqual(reported, [foreign!.id, foreign!.id], 'nobody could tell its end later')
  await assert.rejects(service.remove(id), { code: 'task_not_found' })
})
