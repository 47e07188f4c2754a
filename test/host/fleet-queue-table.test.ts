import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BerthError } from '../../src/errors.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { claim, claimOne, complete, facts, failed, newTask, pushAll } from '../contract/queue-rig.ts'
import { buildFleetQueue } from '../support/fleet-queue-rig.ts'

const deadlineMs = 10_000

test('tasks are listed newest first, in pages, and by what they are', async t => {
  const rig = await buildFleetQueue(t)
  const { table } = rig.fleet
  const ids: string[] = []
  const times: string[] = []
  for (let index = 0; index < 7; index++) {
    times.push(new Date(rig.now()).toISOString())
    ids.push(...await pushAll(rig, { pool: index < 3 ? 'a' : 'b', labels: { parity: String(index % 2), nth: `n${index}` } }))
    await rig.advance(10)
  }
  const [one, two] = await claim(rig, { pools: ['a'], limit: 2 })
  await rig.queue.settle(one!, failed(rig, { reason: 'setup_failed' }, false))
  const list = async (filter: Parameters<typeof table.list>[0]) => (await table.list(filter)).records.map(({ id }) => ids.indexOf(id))

  const pages: string[][] = []
  for (let cursor: string | undefined; ;) {
    const page = await table.list({ limit: 3, ...cursor !== undefined && { cursor } })
    pages.push(page.records.map(({ id }) => id))
    if (page.nextCursor === undefined) break
    cursor = page.nextCursor
  }
  assert.deepEqual(pages.flat(), ids.toReversed())
  assert.deepEqual(pages.map(({ length }) => length), [3, 3, 1])
  assert.deepEqual(await list({ limit: 9, pool: 'b' }), [6, 5, 4, 3])
  assert.deepEqual(await list({ limit: 9, pool: 'b', pools: ['a'] }), [])
  assert.deepEqual(await list({ limit: 9, pools: ['a', 'c'] }), [2, 1, 0])
  assert.deepEqual(await list({ limit: 9, labels: { parity: '0' } }), [6, 4, 2, 0])
  assert.deepEqual(await list({ limit: 9, labels: { parity: '0', nth: 'n1' } }), [])
  assert.deepEqual(await list({ limit: 9, status: ['pending'], pool: 'a' }), [2])
  assert.deepEqual(await list({ limit: 9, status: ['scheduled', 'failed'] }), [1, 0])
  assert.deepEqual(await list({ limit: 9, since: times[2]!, until: times[4]! }), [3, 2])
  assert.deepEqual(await list({ limit: 9, isDeadLetter: true }), [0])
  assert.deepEqual(await list({ limit: 2, isDeadLetter: false, pool: 'a' }), [2, 1])
  await assert.rejects(table.list({ limit: 1, cursor: '+inf' }), (error: BerthError) => error.code === 'invalid_cursor')
  await rig.queue.settle(two!, complete(rig))
  assert.deepEqual(await list({ limit: 9, status: ['complete'] }), [1])
})

test('a list of few among many looks at all of them, page by page', async t => {
  const rig = await buildFleetQueue(t)
  const [rare] = await pushAll(rig, { labels: { rare: 'yes' } })
  for (let round = 0; round < 3; round++) await rig.queue.push(Array.from({ length: 200 }, () => newTask()))
  const { records, nextCursor } = await rig.fleet.table.list({ limit: 2, labels: { rare: 'yes' } })
  assert.deepEqual([records.map(({ id }) => id), nextCursor], [[rare], undefined])
})

test('only what has ended is removed, by hand or by its age, and its key with it', async t => {
  const rig = await buildFleetQueue(t, { retentionMs: 60_000 })
  const { table } = rig.fleet
  const [first, second] = await pushAll(rig, { idempotencyKey: 'k' }, {})
  await assert.rejects(table.remove(first!), (error: BerthError) => error.code === 'invalid_state')
  for (const one of await claim(rig, { limit: 2 })) await rig.queue.settle(one, failed(rig, { reason: 'setup_failed' }, false))
  assert.equal(await table.remove(first!), true)
  assert.equal(await table.remove(first!), false)
  assert.equal(await table.get(first!), undefined)
  const [again] = await pushAll(rig, { idempotencyKey: 'k' })
  assert.notEqual(again, first)
  await rig.advance(59_999)
  assert.equal(await table.prune(), 0)
  await rig.advance(1)
  assert.equal(await table.prune(), 1)
  assert.equal(await table.get(second!), undefined)
  assert.deepEqual((await table.list({ limit: 9 })).records.map(({ id }) => id), [again])
  await rig.queue.cancel(again!)
  await table.remove(again!)
  assert.deepEqual(await rig.queue.stats(), [])
  const left = await rig.redis.client.keys(`${rig.redis.prefix}:*`)
  assert.deepEqual(left.map(key => key.split('}:')[1]).filter(key => key !== 'timekeeper').sort(), ['clock', 'turns'], 'nothing of a task is left')
})

test('whoever watches a task hears of each change, and once more when Redis comes back', async t => {
  const rig = await buildFleetQueue(t)
  const { table } = rig.fleet
  const [id, other] = await pushAll(rig, {}, {})
  let told = 0
  const toldMore = async (change: () => Promise<unknown>): Promise<void> => {
    const before = told
    await change()
    assert.ok(await pollUntil(async () => told > before, deadlineMs))
  }
  let stop = () => {}
  await toldMore(async () => { stop = table.watch(id!, () => { told++ }) })
  const one = await claimOne(rig)
  await toldMore(() => rig.queue.start(one, facts(rig)))
  await toldMore(() => rig.queue.settle(one, complete(rig)))
  await toldMore(async () => {
    await rig.server.kill()
    await rig.server.run()
  })
  await rig.advance(0)
  const before = told
  await rig.queue.cancel(other!)
  await rig.advance(0)
  assert.equal(told, before, 'of another it hears nothing')
  await toldMore(() => table.remove(id!))
  stop()
})

test('a record of another version is read as far as it is understood', async t => {
  const rig = await buildFleetQueue(t)
  const [id] = await pushAll(rig, {})
  const key = `${rig.redis.prefix}:{berth}:task:${id}`
  await rig.redis.client.hset(key, 'colour', 'green')
  await rig.redis.client.hdel(key, 'labels', 'history', 'idempotencyKey')
  const one = await claimOne(rig)
  assert.equal((await rig.queue.settle(one, complete(rig))).status, 'complete')
  assert.deepEqual((await rig.fleet.table.get(id!))!.history.map(({ status }) => status), ['scheduled', 'complete'])
  assert.equal((await rig.fleet.table.list({ limit: 1, labels: { a: 'b' } })).records.length, 0)
  assert.equal(await rig.fleet.table.remove(id!), true)
})
