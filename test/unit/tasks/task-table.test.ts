import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import { claim, claimOne, complete, facts, failed, newTask, pushAll } from '../../contract/queue-rig.ts'
import { buildStore } from './task-store-fixture.ts'

const output = { type: 'console' } as const

test('a task is read back as it was pushed, in every status', async t => {
  const rig = buildStore(t)
  const [pushed] = await rig.queue.push([newTask({ labels: { a: 'b' }, outputs: [output] })])
  assert.deepEqual(rig.store.table.get(pushed!.id), pushed)
  const one = await claimOne(rig)
  assert.deepEqual(rig.store.table.get(pushed!.id), one.task)
  assert.deepEqual(rig.store.table.claimed(), [one.task])
  const done = await rig.queue.settle(one, complete(rig))
  await rig.reopen()
  assert.deepEqual(rig.store.table.get(pushed!.id), done)
  assert.deepEqual(rig.store.table.claimed(), [])
  assert.deepEqual([...rig.store.table.endTimes()], [[done.id, done.endedAt]])
  assert.equal(rig.store.table.get('tsk_00000000000000000000'), undefined)
})

test('the list has the newest first, page by page, without a gap or a repeat', async t => {
  const rig = buildStore(t)
  const ids: string[] = []
  for (let index = 0; index < 25; index++) {
    ids.unshift(...await pushAll(rig, {}))
    // Several share a millisecond.
    if (index % 4 === 0) await rig.advance(1)
  }
  const seen: string[] = []
  let cursor: string | undefined
  do {
    const { records, nextCursor } = rig.store.table.list({ limit: 10, ...cursor !== undefined && { cursor } })
    seen.push(...records.map(({ id }) => id))
    cursor = nextCursor
    await pushAll(rig, {})
  } while (cursor !== undefined)
  assert.deepEqual(seen, ids)
  assert.throws(() => rig.store.table.list({ limit: 1, cursor: 'x' }), (error: BerthError) => error.code === 'invalid_cursor')
})

test('the list filters by status, labels, pool, time and dead letters, and by all of them at once', async t => {
  const rig = buildStore(t)
  const times: string[] = []
  const ids: string[] = []
  for (let index = 0; index < 12; index++) {
    times.push(new Date(rig.now()).toISOString())
    ids.push(...await pushAll(rig, { labels: { odd: String(index % 2), three: String(index % 3) }, pool: index < 6 ? 'default' : 'other' }))
    await rig.advance(1000)
  }
  const claims = await claim(rig, { limit: 3 })
  await rig.queue.start(claims[0]!, facts(rig))
  await rig.queue.settle(claims[1]!, failed(rig, { reason: 'setup_failed' }))
  const list = (filter: Omit<Parameters<typeof rig.store.table.list>[0], 'limit'>) => rig.store.table.list({ ...filter, limit: 100 }).records.map(({ id }) => ids.indexOf(id))
  assert.deepEqual(list({ status: ['running'] }), [0])
  assert.deepEqual(list({ status: ['scheduled', 'failed'] }), [2, 1])
  assert.deepEqual(list({ labels: { odd: '1' } }), [11, 9, 7, 5, 3, 1])
  assert.deepEqual(list({ labels: { odd: '1', three: '0' } }), [9, 3])
  assert.deepEqual(list({ labels: { odd: '2' } }), [])
  assert.deepEqual(list({ pool: 'other', labels: { three: '0' } }), [9, 6])
  assert.deepEqual(list({ since: times[9]! }), [11, 10, 9])
  assert.deepEqual(list({ until: times[2]! }), [1, 0])
  assert.deepEqual(list({ since: times[2]!, until: times[9]!, labels: { odd: '0' }, pool: 'default', status: ['pending'] }), [4])
  assert.deepEqual(list({ isDeadLetter: true }), [1])
  assert.equal(list({ isDeadLetter: false }).length, 11)
})

test('only what has ended is removed, with all that belongs to it', async t => {
  const rig = buildStore(t)
  const [id] = await pushAll(rig, { labels: { a: 'b' }, idempotencyKey: 'k' })
  const one = await claimOne(rig)
  await assert.rejects(rig.store.table.remove(id!), (error: BerthError) => error.code === 'invalid_state' && /cancel/.test(error.message))
  const outcome = failed(rig, { reason: 'setup_failed' })
  await rig.queue.settle(one, outcome)
  assert.equal(await rig.store.table.remove(id!), true)
  assert.equal(await rig.store.table.remove(id!), false)
  assert.deepEqual(await rig.queue.stats(), [])
  for (const table of ['tasks', 'task_specs', 'task_labels']) assert.equal(rig.db.prepare(`SELECT count(*) AS n FROM ${table}`).get()?.n, 0, table)
  await assert.rejects(rig.queue.settle(one, outcome), (error: BerthError) => error.code === 'stale_claim')
  assert.notEqual((await rig.queue.push([newTask({ idempotencyKey: 'k' })]))[0]!.id, id)
})

test('pruning removes what ended first, by age and by number, and spares what has outputs to deliver for a while', async t => {
  const rig = buildStore(t)
  const ids = await pushAll(rig, { outputs: [output] }, ...Array.from({ length: 250 }, () => ({})))
  const [waiting] = await pushAll(rig, { priority: -1 })
  for (const one of await claim(rig, { limit: 251 })) {
    await rig.queue.settle(one, complete(rig))
    await rig.advance(20)
  }
  const prune = async (maxAgeMs: number, maxCount: number) => (await rig.store.table.prune({ maxAgeMs, maxCount })).map(id => ids.indexOf(id)).sort((a, b) => a - b)
  const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)
  assert.deepEqual(await prune(3_600_000, 1000), [])
  assert.deepEqual(await prune(3_600_000, 240), range(1, 11))
  assert.deepEqual(await prune(4000, 1000), range(12, 51), 'those of the first second')
  await rig.advance(10_000)
  assert.deepEqual(await prune(8000, 1000), range(52, 250), 'the one with outputs is not yet twice as old')
  assert.deepEqual(await prune(8000, 0), [])
  await rig.advance(1000)
  assert.deepEqual(await prune(8000, 1000), [0])
  assert.equal(rig.store.table.get(waiting!)?.status, 'pending')
})

test('outputs are unfinished from the first delivery or the end on, until they are done, and again after a retry', async t => {
  const rig = buildStore(t)
  const [id, , cancelledId] = await pushAll(rig, { outputs: [output] }, {}, { outputs: [output], priority: -1 })
  const unfinished = () => rig.store.table.unfinishedOutputs().map(record => record.id)
  assert.deepEqual(unfinished(), [])
  const [one] = await claim(rig, { limit: 2 })
  assert.deepEqual(unfinished(), [id])
  await rig.queue.cancel(cancelledId!)
  await rig.queue.settle(one!, failed(rig))
  assert.deepEqual(unfinished(), [id, cancelledId])
  await rig.store.table.markOutputsDone(id!)
  await rig.store.table.markOutputsDone('tsk_00000000000000000000')
  await rig.reopen()
  assert.deepEqual(unfinished(), [cancelledId])
  await rig.queue.retry(id!)
  assert.deepEqual(unfinished(), [id, cancelledId])
})

test('those who watch a task are called after each change of it, and of no other', async t => {
  const rig = buildStore(t)
  const [id, other] = await pushAll(rig, {}, {})
  const seen: string[] = []
  const stop = rig.store.table.watch(id!, () => seen.push(rig.store.table.get(id!)?.status ?? 'gone'))
  const stopSecond = rig.store.table.watch(id!, () => {})
  stopSecond()
  const one = await claimOne(rig)
  await rig.queue.start(one, facts(rig))
  await rig.queue.cancel(other!)
  await rig.queue.cancel(id!)
  await rig.queue.settle(one, complete(rig))
  await rig.store.table.remove(id!)
  assert.deepEqual(seen, ['scheduled', 'running', 'running', 'complete', 'gone'])
  stop()
})
