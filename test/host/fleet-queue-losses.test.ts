import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../../src/errors.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import type { Claim, TaskQueue } from '../../src/services/tasks/task-queue.ts'
import { assertLost, claim, claimOne, complete, facts, failed, idsOf, leaseMs, newTask, plenty, pushAll, queueDefaults } from '../contract/queue-rig.ts'
import { buildFleetQueue, openTestRedis } from '../support/fleet-queue-rig.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { RedisServer } from '../support/redis-server.ts'

const deadlineMs = 20_000

test('tasks go to hosts that have their labels, and record which host had them', async t => {
  const rig = await buildFleetQueue(t)
  const hostLabels = { gpu: 'a100', zone: 'x' }
  const [any] = await pushAll(rig, {})
  const [picky] = [newTask()].map(task => ({ ...task, spec: { ...task.spec, hostLabels, priority: 1 } }))
  await rig.queue.push([picky!])
  assert.deepEqual(idsOf(await claim(rig, { limit: 9, labels: { gpu: 'a100' } })), [any])
  const one = await claimOne(rig, { owner: 'hst_gpu', labels: { ...hostLabels, more: 'y' } })
  assert.equal(one.taskId, picky!.id)
  await rig.queue.release(one, { delayMs: 0, isFault: false })
  const two = await claimOne(rig, { owner: 'hst_other', labels: hostLabels })
  assert.deepEqual(two.task.attempts.map(({ workerId, status }) => [workerId, status]), [['hst_gpu', 'returned'], ['hst_other', 'scheduled']])
})

test('after a time in which nobody was there, those who held tasks have a lease of grace', async t => {
  const rig = await buildFleetQueue(t)
  await pushAll(rig, {}, {})
  const [quick, gone] = await claim(rig, { limit: 2 })
  rig.skip(10 * leaseMs)
  assert.deepEqual(await claim(rig, { owner: 'hst_b', limit: 9 }), [], 'nothing is taken from those who could not renew')
  await rig.advance(leaseMs / 2)
  assert.equal((await rig.queue.renew([quick!], leaseMs))[0]!.isHeld, true)
  await rig.advance(leaseMs / 2 - 1)
  assert.deepEqual(await claim(rig, { owner: 'hst_b', limit: 9 }), [])
  await rig.advance(1)
  assert.deepEqual(idsOf(await claim(rig, { owner: 'hst_b', limit: 9 })), [gone!.taskId], 'who did not come back in time has lost it')
  await assertLost(rig, gone!)
  await rig.queue.settle(quick!, complete(rig))
})

test('a host hears of the pools that it names, and of what it missed while Redis was away', async t => {
  const rig = await buildFleetQueue(t)
  const { queue } = await rig.open({ pools: ['a'] })
  const news: string[] = []
  queue.watch(one => { news.push(one.kind === 'cancel' ? one.taskId : one.kind) })
  const [other] = await pushAll(rig, { pool: 'b' })
  const two = await claimOne(rig, { pools: ['b'] })
  await queue.cancel(other!)
  await rig.advance(0)
  assert.equal(news.length, 0)
  const [id] = await pushAll(rig, { pool: 'a' })
  const one = await claimOne(rig, { pools: ['a'] })
  await rig.queue.cancel(id!)
  assert.ok(await pollUntil(async () => news.includes(id!), deadlineMs))
  assert.deepEqual(news, ['available', id])
  news.length = 0
  await rig.server.kill()
  await rig.server.run()
  assert.ok(await pollUntil(async () => news.includes('available'), deadlineMs))
  assert.deepEqual((await rig.queue.renew([one, two], leaseMs)).map(({ isCancelRequested }) => isCancelRequested), [true, true], 'a request that was missed is told with the lease')
})

test('what is due later is told of in its time, by one of those who watch', async t => {
  const server = await RedisServer.start(t)
  const redis = await openTestRedis(server.url)
  const queues = [1, 2, 3].map(() => openFleetQueue({ redis, ...queueDefaults, pools: ['default'] }))
  t.after(async () => {
    for (const queue of queues) await queue.close()
    await redis.close()
  })
  const [one, two, three] = queues.map(({ queue }) => queue)
  const ready = new Set<TaskQueue>()
  const claimed: string[] = []
  for (const queue of [one!, two!]) {
    queue.watch(() => {
      ready.add(queue)
      void queue.claim({ owner: 'hst_a', pools: ['default'], limit: 9, leaseMs, room: plenty, capacity: plenty }).then(claims => { claimed.push(...idsOf(claims)) })
    })
  }
  assert.ok(await pollUntil(async () => ready.size === 2, deadlineMs))
  const tasks = [60, 30, 90].map(delayMs => newTask({ delayMs }))
  await three!.push(tasks)
  assert.ok(await pollUntil(async () => claimed.length === 3, deadlineMs))
  assert.deepEqual(claimed, [1, 0, 2].map(index => tasks[index]!.id))
})

test('a task remembers a bounded number of deliveries', async t => {
  const rig = await buildFleetQueue(t)
  await rig.redis.client.config('SET', 'appendfsync', 'no')
  await pushAll(rig, { maxAttempts: 2, retry: { backoffMs: 0, maxBackoffMs: 0 } })
  await rig.queue.settle(await claimOne(rig), failed(rig))
  for (let round = 0; round < 205; round++) await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: false })
  const { task } = await claimOne(rig)
  assert.equal(task.attempts.length, 200)
  assert.deepEqual([task.attempts[0]!.status, task.attempts[1]!.fence, task.attempts.at(-1)!.fence], ['failed', 9, 207])
})

test('a cluster accepts all that is done, as its keys share a slot', async t => {
  const { url } = await startCluster(t)
  const redis = await openTestRedis(url)
  const fleet = openFleetQueue({ redis, ...queueDefaults })
  t.after(async () => {
    await fleet.close()
    await redis.close()
  })
  const claimed: Claim[] = []
  fleet.queue.watch(() => {
    void fleet.queue.claim({ owner: 'hst_a', pools: ['default'], limit: 9, leaseMs, room: plenty, capacity: plenty }).then(claims => { claimed.push(...claims) })
  })
  await fleet.queue.push([newTask(), newTask({ delayMs: 20 })])
  assert.ok(await pollUntil(async () => claimed.length === 2, deadlineMs))
  for (const one of claimed) await fleet.queue.settle(one, { status: 'complete', end: { reason: 'exited', at: new Date().toISOString() }, isRetryable: false })
  assert.equal((await fleet.table.list({ limit: 9, status: ['complete'] })).records.length, 2)
})

test('nothing is lost and nothing doubled when Redis is killed in the middle of all', async t => {
  const rig = await buildFleetQueue(t, { labelLimits: [{ label: 'team', max: 20 }], maxReturns: 1000 })
  const workers = 20
  const perWorker = 30
  const settled = new Map<string, number>()
  let isOver = false
  /** Until it is answered: an answer that is lost is asked for again. */
  const surely = async <T>(work: () => Promise<T>): Promise<T> => {
    for (;;) {
      try {
        return await work()
      } catch (error) {
        if (isOver || !(error instanceof BerthError && error.kind === 'unavailable')) throw error
        await delay(5)
      }
    }
  }
  const all = Array.from({ length: workers * perWorker }, (_, index) => newTask({ idempotencyKey: `key ${index}`, labels: { tenant: `t${index % 7}`, team: `m${index % 3}` } }))
  const produce = async (worker: number): Promise<void> => {
    for (const task of all.slice(worker * perWorker, (worker + 1) * perWorker)) await surely(() => rig.queue.push([task]))
  }
  const consume = async (worker: number): Promise<void> => {
    const owner = `hst_${worker}`
    while (!isOver && settled.size < all.length) {
      await surely(() => rig.queue.claim({ owner, pools: ['default'], limit: 3, leaseMs, room: plenty, capacity: plenty }))
      // What a lost answer may have held is found.
      const held = await surely(() => rig.queue.held(owner, leaseMs))
      for (const one of held) {
        await surely(() => rig.queue.start(one, facts(rig)))
        const outcome = complete(rig)
        await surely(() => rig.queue.settle(one, outcome))
        settled.set(one.taskId, (settled.get(one.taskId) ?? 0) + 1)
      }
      if (held.length === 0) await delay(5)
    }
  }
  const killer = async (): Promise<void> => {
    let kills = 0
    for (; !isOver && kills < 5; kills++) {
      const goal = Math.min((kills + 1) * all.length / 7, all.length - 1)
      await pollUntil(async () => settled.size >= goal || isOver, deadlineMs)
      await rig.server.kill()
      await rig.server.run()
    }
    assert.ok(kills >= 5, 'it was killed while there was work')
  }
  const work = Array.from({ length: workers }, (_, worker) => [produce(worker), consume(worker)]).flat()
  await Promise.all([killer(), Promise.all(work).finally(() => { isOver = true })])
  assert.deepEqual([...settled.keys()].sort(), all.map(({ id }) => id).sort())
  assert.deepEqual([...new Set(settled.values())], [1])
  assert.deepEqual(await rig.queue.stats(), [])
  for (const { id } of all) {
    const record = await rig.fleet.table.get(id)
    assert.deepEqual([record!.status, record!.history.map(({ status }) => status)], ['complete', ['pending', 'scheduled', 'running', 'complete']])
  }
  const left = await rig.redis.client.keys(`${rig.redis.prefix}:*`)
  const own = left.map(key => key.split('}:')[1]!).filter(key => key !== 'timekeeper' && !key.startsWith('task:'))
  assert.deepEqual(own.sort(), ['clock', 'created', 'ended', 'keys', 'turns'])
})
