import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { deliveryId } from '../../../src/services/tasks/delivery-id.ts'
import { leaseMs, plenty } from '../../contract/queue-rig.ts'
import { DeliveriesRig } from './deliveries-rig.ts'

test('a task of the fleet is run here as a task of this host, and the fleet is told everything in order', async t => {
  const rig = new DeliveriesRig(t)
  const [id] = await rig.push({ labels: { tenant: 'a' }, maxAttempts: 3, outputs: [{ type: 'console' }] })
  const { scheduler } = await rig.start()
  await rig.until(() => scheduler.counts.running === 1 && rig.told.includes(`gateway started ${id}`))
  const local = rig.local.get(deliveryId({ taskId: id!, fence: 1 }))!
  assert.deepEqual(local.spec.fleet, { taskId: id, fence: 1, attempt: 1 })
  assert.equal(local.spec.maxAttempts, 1)
  assert.deepEqual(local.spec.outputs, [{ type: 'console' }, { type: 'fleet' }])
  assert.equal(rig.task(id!).status, 'running')
  rig.sandbox(id!)!.end({ exitCode: 0 })
  await rig.untilReported(id!)
  assert.deepEqual(rig.told, [
    `taken ${id}`, `start ${id}`, `started ${id}`, `gateway started ${id}`, `settle ${id} complete`, `ended complete ${id}`, `gateway complete ${id}`,
  ])
  assert.equal(rig.local.get(local.id)?.report, 'done')
})

test('what ends while the queue is away is told when it is back, in the order in which it ended', async t => {
  const rig = new DeliveriesRig(t)
  const ids = await rig.push({}, {}, {})
  await rig.start()
  await rig.until(() => rig.told.filter(line => line.startsWith('gateway started')).length === 3)
  rig.isFleetAway = true
  const order = [ids[2]!, ids[0]!, ids[1]!]
  for (const id of order) {
    rig.sandbox(id)!.end({ exitCode: 1 })
    await rig.until(() => rig.local.get(deliveryId({ taskId: id, fence: 1 }))?.status === 'failed')
  }
  // The daemon that tells is another one.
  await rig.kill()
  await rig.start()
  assert.equal(rig.local.unreported().length, 3)
  rig.isFleetAway = false
  await rig.untilReported(...ids)
  assert.deepEqual(rig.told.filter(line => line.startsWith('settle')), order.map(id => `settle ${id} failed`))
})

test('a gateway that is away keeps nothing from the queue, and is told all of it later', async t => {
  const rig = new DeliveriesRig(t)
  rig.endOf = () => ({ exitCode: 0 })
  rig.isGatewayAway = true
  const ids = await rig.push({}, {})
  await rig.start()
  await rig.until(() => ids.every(id => rig.told.includes(`ended complete ${id}`)))
  assert.equal(rig.local.unreported().length, 2)
  await rig.kill()
  await rig.start()
  rig.isGatewayAway = false
  await rig.untilReported(...ids)
  for (const id of ids) assert.deepEqual(rig.told.filter(line => line.startsWith('gateway') && line.endsWith(id)), [`gateway started ${id}`, `gateway complete ${id}`])
})

test('a host that starts without a queue goes on with what it has, and takes more once the queue is there', async t => {
  const rig = new DeliveriesRig(t)
  const [first] = await rig.push({})
  await rig.start()
  await rig.until(() => rig.sandboxes.length === 1)
  await rig.kill()
  rig.isFleetAway = true
  const { scheduler } = await rig.start()
  assert.equal(scheduler.counts.running, 1, 'it was adopted')
  rig.sandbox(first!)!.end()
  await rig.until(() => rig.sandboxes.length === 0)
  rig.endOf = () => ({ exitCode: 0 })
  const [second] = await rig.push({})
  rig.isFleetAway = false
  await rig.untilReported(first!, second!)
  assert.equal(rig.made.length, 2)
})

for (const fault of ['loses its answer', 'hangs'] as const) {
  test(`a claim that ${fault} is neither lost nor run twice`, async t => {
    const rig = new DeliveriesRig(t, { callTimeoutMs: 30 })
    rig.endOf = () => ({ exitCode: 0 })
    rig.faults.set('claim', [fault, fault])
    const ids = await rig.push({}, {}, {})
    await rig.start()
    await rig.untilReported(...ids)
    assert.equal(rig.made.length, 3)
    assert.deepEqual(ids.map(id => rig.task(id).attempts.length), [1, 1, 1])
  })
}

test('reports that fail, hang or lose their answers are made until they are taken', async t => {
  const rig = new DeliveriesRig(t, { callTimeoutMs: 30 })
  rig.endOf = () => ({ exitCode: 3 })
  rig.faults.set('start', ['loses its answer', 'hangs', 'fails'])
  rig.faults.set('settle', ['hangs', 'loses its answer', 'fails'])
  const [id] = await rig.push({})
  await rig.start()
  await rig.untilReported(id!)
  assert.equal(rig.task(id!).end?.exitCode, 3)
  assert.equal(rig.made.length, 1)
  assert.ok(rig.told.includes(`gateway failed ${id}`))
})

test('a delivery that somebody else has taken is ended here, and nothing is told of it', async t => {
  const rig = new DeliveriesRig(t)
  const [id] = await rig.push({})
  await rig.start()
  await rig.until(() => rig.told.includes(`gateway started ${id}`))
  await rig.kill()
  const sandbox = rig.sandboxes[0]!
  rig.offsetMs = 120_000
  const [taken] = await rig.fleet.queue.claim({ owner: 'hst_other', pools: ['default'], limit: 1, leaseMs, room: plenty, capacity: plenty })
  assert.equal(taken?.taskId, id)
  const before = rig.told.length
  await rig.start()
  await rig.until(() => sandbox.stops.length === 1 && rig.sandboxes.length === 0)
  assert.equal(rig.local.get(deliveryId({ taskId: id!, fence: 1 }))?.report, 'abandoned')
  await rig.fleet.queue.settle(taken!, { status: 'complete', end: { reason: 'exited', at: new Date().toISOString(), exitCode: 0 }, isRetryable: false })
  assert.deepEqual(rig.told.slice(before).filter(line => !line.startsWith('gateway started')), [])
})

test('a task that is cancelled in the fleet is cancelled here, by news or with the next renewal', async t => {
  const rig = new DeliveriesRig(t, { leaseMs: 300 })
  const [heard, unheard] = await rig.push({}, {})
  await rig.start()
  await rig.until(() => rig.sandboxes.length === 2)
  await rig.fleet.queue.cancel(heard!)
  await rig.until(() => rig.task(heard!).status === 'cancelled')
  rig.isFleetAway = true
  await rig.fleet.queue.cancel(unheard!)
  rig.isFleetAway = false
  await rig.untilReported(heard!, unheard!)
  assert.equal(rig.task(unheard!).status, 'cancelled')
  assert.ok(rig.told.includes(`gateway cancelled ${unheard}`))
})

test('a task that this host cannot run fails in the fleet with what is wrong, and is run by nobody', async t => {
  const rig = new DeliveriesRig(t, { beforePush: () => { throw new BerthError('invalid_argument', 'runtime_unknown', 'this host has no such runtime') } })
  const [id] = await rig.push({ maxAttempts: 3 })
  await rig.start()
  await rig.untilReported(id!)
  const { status, end } = rig.task(id!)
  assert.equal(status, 'failed')
  assert.deepEqual([end?.reason, end?.code, end?.message], ['setup_failed', 'runtime_unknown', 'this host has no such runtime'])
  assert.equal(rig.made.length, 0)
})

test('what this host cannot begin goes back to the fleet after two tries, with the reason', async t => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() })
  const rig = new DeliveriesRig(t)
  rig.createError = new BerthError('unavailable', 'registry_unreachable', 'the registry is away')
  const [id] = await rig.push({})
  const { store } = await rig.start()
  const local = deliveryId({ taskId: id!, fence: 1 })
  await rig.until(() => store.table.get(local)?.attempts.at(-1)?.status === 'returned')
  t.mock.timers.tick(10_000)
  await store.queue.stats()
  await rig.until(() => rig.told.includes(`release ${id} faulty`))
  await rig.until(() => rig.told.includes(`ended pending ${id}`))
  const [attempt] = rig.task(id!).attempts
  assert.equal(attempt?.status, 'returned')
  assert.match(attempt.end?.message ?? '', /2 times.*the registry is away/)
})

test('a host that drains gives back what has not begun, and takes nothing until it is told to', async t => {
  const rig = new DeliveriesRig(t)
  const ids = await rig.push({}, {})
  const { puller, scheduler } = await rig.start({ isIdle: true })
  await rig.until(() => rig.local.unreported().length === 2)
  puller.drain()
  assert.equal(await puller.giveBack(), 2)
  assert.equal(await puller.flush(5000), true)
  ids.push(...await rig.push({}))
  for (const id of ids) assert.equal(rig.task(id).status, 'pending')
  assert.deepEqual(ids.map(id => rig.task(id).attempts.at(-1)?.end?.reason), ['drained', 'drained', undefined])
  rig.endOf = () => ({ exitCode: 0 })
  scheduler.start()
  puller.undrain()
  await rig.untilReported(...ids)
  assert.deepEqual(ids.map(id => rig.task(id).attempts.map(({ number, fence }) => [number, fence])), [[[1, 1], [1, 2]], [[1, 1], [1, 2]], [[1, 1]]])
})

test('what a host stops because it leaves goes back to the fleet without having counted', async t => {
  const rig = new DeliveriesRig(t)
  const [id] = await rig.push({})
  const { puller, scheduler } = await rig.start()
  await rig.until(() => rig.sandboxes.length === 1)
  puller.drain()
  await scheduler.stopAll(0)
  assert.equal(await puller.flush(5000), true)
  assert.deepEqual([rig.task(id!).status, rig.task(id!).attempt, rig.task(id!).attempts.at(-1)?.end?.reason], ['pending', 1, 'drained'])
  assert.ok(rig.told.includes(`release ${id}`))
})

test('no more is taken than fits beside what runs and what waits', async t => {
  const rig = new DeliveriesRig(t)
  const capacity = (await rig.start()).scheduler.free
  const half = { cpuMillis: Math.floor(capacity.cpuMillis / 2), memoryBytes: 1000 }
  const ids = await rig.push({ requests: half }, { requests: half }, { requests: half })
  await rig.until(() => rig.sandboxes.length === 2)
  await rig.daemon!.puller.giveBack()
  assert.equal(rig.task(ids[2]!).status, 'pending')
  rig.sandbox(ids[0]!)!.end()
  await rig.until(() => rig.sandbox(ids[2]!) !== undefined)
})

test('a queue that has forgotten how a delivery ended is told again, and it is not run again', async t => {
  const rig = new DeliveriesRig(t, { leaseMs: 60 })
  rig.endOf = () => ({ exitCode: 0 })
  const [id] = await rig.push({})
  await rig.start()
  await rig.untilReported(id!)
  const count = () => rig.told.filter(line => line === `settle ${id} complete`).length
  const settled = count()
  // As after a failover to a replica that has not heard of it.
  const { held } = rig.fleet.queue
  const claim = { taskId: id!, fence: 1, task: rig.task(id!), leaseUntil: 0 }
  t.mock.method(rig.fleet.queue, 'held', async (...args: Parameters<typeof held>) => [...await held.apply(rig.fleet.queue, args), ...count() === settled ? [claim] : []])
  t.mock.method(rig.fleet.queue, 'start', async () => {})
  await rig.until(() => count() > settled)
  await rig.untilReported(id!)
  assert.equal(rig.made.length, 1)
})
