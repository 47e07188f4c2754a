import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { BerthError } from '../../../src/errors.ts'
import { claim, claimOne, complete, failed, idsOf, leaseMs, newTask, pushAll } from '../../contract/queue-rig.ts'
import { buildStore, type StoreRig } from './task-store-fixture.ts'

/** Lets the database grow no further, as a full disk does. */
function fillDisk ({ db }: StoreRig): () => void {
  db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
  const { page_count: pages } = db.prepare('PRAGMA page_count').get() as { page_count: number }
  db.exec(`PRAGMA max_page_count = ${pages}`)
  return () => db.exec('PRAGMA max_page_count = 1000000')
}

const isDiskFull = (error: BerthError) => error.kind === 'unavailable' && error.code === 'disk_full'

test('on a full disk all that would write fails and says so, what is known stays right, and it goes on when there is space', async t => {
  const rig = buildStore(t, { labelLimits: [{ label: 'team', max: 1 }] })
  const ids = await pushAll(rig, { labels: { team: 'a' } }, { labels: { team: 'a' } }, {})
  const one = await claimOne(rig)
  const stats = await rig.queue.stats()
  const letGrow = fillDisk(rig)
  const large = newTask({ labels: { text: 'x'.repeat(100_000) } })
  const results = await Promise.allSettled([rig.queue.push([large]), rig.queue.push([large]), claim(rig, { limit: 9 })])
  for (const result of results) assert.ok(result.status === 'rejected' && isDiskFull(result.reason as BerthError))
  assert.equal(rig.db.isTransaction, false)
  assert.deepEqual(await rig.queue.stats(), stats)
  letGrow()
  assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [ids[2]], 'the limit still counts the one that is claimed')
  await rig.queue.settle(one, complete(rig))
  assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [ids[1]])
  await rig.queue.push([large])
  await rig.reopen()
  assert.equal((await rig.queue.stats())[0]!.pending, 1)
})

test('an operation that fails in a way nobody foresaw is taken back alone', async t => {
  const rig = buildStore(t)
  const loop: Record<string, unknown> = {}
  loop.loop = loop
  const odd = newTask()
  Object.assign(odd.spec, { env: loop })
  const results = await Promise.allSettled([rig.queue.push([newTask()]), rig.queue.push([newTask(), odd]), rig.queue.push([newTask()]), claim(rig, { limit: 9 })])
  assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'fulfilled'])
  assert.equal((results[3] as PromiseFulfilledResult<unknown[]>).value.length, 2)
  assert.deepEqual((await rig.queue.stats()).map(({ pending, scheduled }) => [pending, scheduled]), [[0, 2]])
})

test('other labels for turns and limits are in force after the next start, for tasks that wait too', async t => {
  const rig = buildStore(t)
  const of = (tenant: string, team: string) => ({ labels: { tenant, team } })
  const [first, second, third] = await pushAll(rig, of('x', 'a'), of('y', 'a'), of('x', 'b'))
  await rig.reopen({ fairLabel: 'team', labelLimits: [{ label: 'tenant', max: 1 }] })
  const claims = await claim(rig, { limit: 9 })
  assert.deepEqual(idsOf(claims), [first, second], 'one of each tenant')
  await rig.queue.release(claims[0]!, { delayMs: 0, isFault: false })
  assert.deepEqual(idsOf(await claim(rig)), [third], 'team a has one already')
  await rig.reopen({ fairLabel: 'tenant', labelLimits: [] })
  assert.deepEqual(idsOf(await claim(rig)), [first])
})

test('many tasks that become due at once all do, at their time', async t => {
  const rig = buildStore(t)
  for (let round = 0; round < 3; round++) await rig.queue.push(Array.from({ length: 500 }, () => newTask({ delayMs: 5000 })))
  let available = 0
  t.after(rig.queue.watch(() => { available++ }))
  await rig.advance(4999)
  assert.deepEqual([available, (await rig.queue.stats())[0]!.delayed], [0, 1500])
  await rig.advance(1)
  for (let round = 0; round < 5; round++) await rig.advance(1)
  assert.ok(available > 0)
  assert.deepEqual((await rig.queue.stats()).map(({ delayed, pending }) => [delayed, pending]), [[0, 1500]])
})

test('a wall clock that is set forward makes due what has its time by it, and none that is set back loses a task', async t => {
  let skewMs = 0
  const rig = buildStore(t, { now: () => Date.now() + skewMs })
  const [early, late] = await pushAll(rig, { delayMs: 3_600_000 }, { delayMs: 7_200_000 })
  let available = 0
  t.after(rig.queue.watch(() => { available++ }))
  skewMs = 3_600_000
  t.mock.timers.tick(60_000)
  for (let turn = 0; turn < 5; turn++) await setImmediate()
  assert.equal(available, 1, 'it is seen within a minute')
  skewMs = -3_600_000
  const one = await claimOne(rig)
  assert.equal(one.taskId, early)
  await rig.queue.settle(one, complete(rig))
  skewMs = 0
  await rig.advance(7_200_000)
  assert.deepEqual(idsOf(await claim(rig)), [late])
})

test('a task remembers its last deliveries and all changes of its status', async t => {
  const rig = buildStore(t)
  const [id] = await pushAll(rig, { maxAttempts: 2, retry: { backoffMs: 0, maxBackoffMs: 0 } })
  await rig.queue.settle(await claimOne(rig), failed(rig))
  for (let round = 0; round < 205; round++) await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: false })
  const record = rig.store.table.get(id!)!
  assert.equal(record.attempts.length, 200)
  assert.deepEqual([record.attempts[0]!.status, record.attempts[1]!.status], ['failed', 'returned'])
  assert.equal(record.history.length, 1 + 2 * 206)
})

test('a closed store carries out what it was asked for, and refuses more', async t => {
  const rig = buildStore(t)
  const push = rig.queue.push([newTask()])
  const { store } = rig
  const closed = store.close()
  const [record] = await push
  await closed
  await store.close()
  await assert.rejects(store.queue.push([newTask()]), (error: BerthError) => error.code === 'stopping')
  await rig.reopen()
  assert.equal(rig.store.table.get(record!.id)?.status, 'pending')
})

test('nobody is told of a lapse twice, nor kept awake by one', async t => {
  const rig = buildStore(t)
  await pushAll(rig, {})
  await claimOne(rig)
  let told = 0
  t.after(rig.queue.watch(() => { told++ }))
  await rig.advance(leaseMs)
  assert.equal(told, 1)
  await rig.advance(10 * leaseMs)
  assert.equal(told, 1)
})
