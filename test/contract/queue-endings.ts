/** Attempts, cancellation, dead letters, and queueing again. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { BerthError } from '../../src/errors.ts'
import {
  cancelled, claim, claimOne, complete, facts, failed, idsOf, leaseMs, newTask, pushAll, queueDefaults, type BuildQueue,
} from './queue-rig.ts'

const hasCode = (code: string) => (error: BerthError) => error.code === code

export function testQueueEndings (name: string, build: BuildQueue): void {
  test(`${name}: a task that fails is tried again after growing pauses, until its attempts are used up`, async t => {
    const rig = await build(t, queueDefaults)
    const [id] = await pushAll(rig, { maxAttempts: 4, retry: { backoffMs: 1000, maxBackoffMs: 1500 } })
    for (const [number, pause] of [[1, 1000], [2, 1500], [3, 1500]] as const) {
      const one = await claimOne(rig)
      assert.equal(one.task.attempt, number)
      await rig.queue.start(one, facts(rig))
      const record = await rig.queue.settle(one, failed(rig))
      assert.deepEqual([record.status, record.attempt, record.endedAt, record.isDeadLetter], ['pending', number + 1, undefined, undefined])
      const waitMs = Date.parse(record.availableAt) - rig.now()
      assert.ok(waitMs >= 0.9 * pause && waitMs <= 1.1 * pause, `pause ${number} of ${waitMs} ms`)
      await rig.advance(0.89 * pause)
      assert.deepEqual(await claim(rig), [])
      await rig.advance(0.22 * pause)
    }
    const last = await claimOne(rig)
    const record = await rig.queue.settle(last, failed(rig, { exitCode: 9 }))
    assert.deepEqual([record.id, record.status, record.attempt, record.isDeadLetter, record.end?.exitCode], [id, 'failed', 4, true, 9])
    assert.equal(record.endedAt, record.end!.at)
    assert.deepEqual(record.attempts.map(({ number, status }) => `${number} ${status}`), ['1 failed', '2 failed', '3 failed', '4 failed'])
    assert.equal(new Set(record.attempts.map(({ fence }) => fence)).size, 4)
    assert.deepEqual(record.history.at(-1), { at: record.history.at(-1)!.at, status: 'failed', attempt: 4, reason: 'exited', exitCode: 9 })
    await rig.advance(3_600_000)
    assert.deepEqual(await claim(rig), [])
  })

  test(`${name}: a failure that would only come again is not tried again`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, { maxAttempts: 5 }, {}, {})
    const [first, second, third] = await claim(rig, { limit: 3 })
    const refused = await rig.queue.settle(first!, failed(rig, { reason: 'setup_failed', step: 'image' }, false))
    assert.deepEqual([refused.status, refused.attempt, refused.isDeadLetter], ['failed', 1, true])
    const exited = await rig.queue.settle(second!, failed(rig))
    assert.deepEqual([exited.status, exited.isDeadLetter], ['failed', undefined], 'it was tried as often as it was to be')
    assert.equal((await rig.queue.settle(third!, complete(rig))).isDeadLetter, undefined)
    assert.equal((await rig.queue.stats())[0]!.deadLetters, 1)
  })

  test(`${name}: a task that comes back faulty again and again is a dead letter`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, { maxAttempts: 2 })
    await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: false })
    await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true, message: 'no room' })
    await claimOne(rig)
    await rig.advance(leaseMs)
    const settled = await rig.queue.settle(await claimOne(rig, { owner: 'hst_b' }), failed(rig))
    assert.equal(settled.status, 'pending')
    await rig.advance(2000)
    for (let round = 0; round < 2; round++) assert.equal((await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true })).status, 'pending')
    const dead = await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true, message: 'no room again' })
    assert.deepEqual([dead.status, dead.isDeadLetter, dead.end?.reason, dead.attempt], ['failed', true, 'undeliverable', 2])
    assert.match(dead.end!.message!, /3 times.*no room again/)
    assert.deepEqual(await claim(rig), [])
    const again = await rig.queue.retry(dead.id)
    assert.deepEqual([again.status, again.attempt, again.isDeadLetter], ['pending', 2, undefined])
  })

  test(`${name}: cancelling what waits ends it at once`, async t => {
    const rig = await build(t, queueDefaults)
    const [due, delayed] = await pushAll(rig, {}, { delayMs: 60_000 })
    for (const id of [due!, delayed!]) {
      const record = await rig.queue.cancel(id)
      assert.deepEqual([record.status, record.end?.reason, typeof record.endedAt, typeof record.cancelRequestedAt], ['cancelled', 'cancelled', 'string', 'string'])
      assert.deepEqual(await rig.queue.cancel(id), record, 'once more changes nothing')
    }
    await rig.advance(60_000)
    assert.deepEqual(await claim(rig, { limit: 9 }), [])
    assert.deepEqual(await rig.queue.stats(), [])
    await assert.rejects(rig.queue.cancel('tsk_00000000000000000000'), hasCode('task_not_found'))
  })

  test(`${name}: cancelling what is claimed asks its holder, whatever comes of it`, async t => {
    const rig = await build(t, queueDefaults)
    const ids = await pushAll(rig, { maxAttempts: 3 }, { maxAttempts: 3 }, {}, { maxAttempts: 3 }, {})
    const claims = await claim(rig, { limit: 5 })
    await rig.queue.start(claims[0]!, facts(rig))
    const asked: string[] = []
    t.after(rig.queue.watch(news => { if (news.kind === 'cancel') asked.push(news.taskId) }))
    for (const [index, id] of ids.entries()) {
      const record = await rig.queue.cancel(id)
      assert.equal(record.status, index === 0 ? 'running' : 'scheduled')
      assert.equal(record.cancelRequestedAt, new Date(rig.now()).toISOString())
      await rig.advance(1)
    }
    assert.deepEqual(asked, ids)
    assert.deepEqual((await rig.queue.renew(claims, leaseMs)).map(({ isCancelRequested }) => isCancelRequested), Array(5).fill(true))
    const outcome = failed(rig, { reason: 'signaled', exitCode: 137 })
    const settled = await rig.queue.settle(claims[0]!, outcome)
    assert.deepEqual([settled.status, settled.end?.reason, settled.isDeadLetter], ['cancelled', 'signaled', undefined], 'what failed is never tried again')
    assert.deepEqual(await rig.queue.settle(claims[0]!, outcome), settled)
    assert.equal((await rig.queue.settle(claims[1]!, cancelled(rig))).status, 'cancelled')
    assert.equal((await rig.queue.settle(claims[2]!, complete(rig))).status, 'complete', 'it was done before the request came')
    assert.equal((await rig.queue.release(claims[3]!, { delayMs: 0, isFault: false })).status, 'cancelled')
    await rig.advance(2 * leaseMs)
    assert.deepEqual(await claim(rig, { owner: 'hst_b', limit: 9 }), [], 'a lapse ends it too')
    assert.deepEqual(await rig.queue.stats(), [])
    const done = await rig.queue.cancel(ids[2]!)
    assert.deepEqual([done.status, done.end?.exitCode], ['complete', 0])
  })

  test(`${name}: what has failed or was cancelled can be queued again, with as many attempts as before`, async t => {
    const rig = await build(t, queueDefaults)
    const [id] = await pushAll(rig, { maxAttempts: 2, retry: { backoffMs: 100, maxBackoffMs: 100 } })
    await assert.rejects(rig.queue.retry(id!), hasCode('invalid_state'))
    for (const expected of ['pending', 'failed']) {
      assert.equal((await rig.queue.settle(await claimOne(rig), failed(rig))).status, expected)
      await rig.advance(200)
    }
    const again = await rig.queue.retry(id!)
    assert.deepEqual([again.status, again.attempt, again.attempts.length], ['pending', 3, 2])
    for (const field of ['end', 'endedAt', 'cancelRequestedAt', 'isDeadLetter'] as const) assert.equal(again[field], undefined, field)
    assert.equal((await rig.queue.stats())[0]!.deadLetters, 0)
    const third = await rig.queue.settle(await claimOne(rig), failed(rig))
    assert.deepEqual([third.status, third.attempt], ['pending', 4])
    const waitMs = Date.parse(third.availableAt) - rig.now()
    assert.ok(waitMs <= 110, 'pauses begin anew')
    assert.equal((await rig.queue.cancel(id!)).status, 'cancelled')
    assert.equal((await rig.queue.retry(id!)).attempt, 4, 'an attempt that did not begin is not used')
    const last = await rig.queue.settle(await claimOne(rig), complete(rig))
    assert.deepEqual(last.attempts.map(({ number, status }) => `${number} ${status}`), ['1 failed', '2 failed', '3 failed', '4 complete'])
    await assert.rejects(rig.queue.retry(id!), hasCode('invalid_state'))
    await assert.rejects(rig.queue.retry('tsk_00000000000000000000'), hasCode('task_not_found'))
  })

  test(`${name}: a key that was pushed before answers its task, and a batch is pushed as a whole or not at all`, async t => {
    const rig = await build(t, queueDefaults)
    const [first] = await rig.queue.push([newTask({ idempotencyKey: 'k1' })])
    const twice = await rig.queue.push([newTask({ idempotencyKey: 'k1' }), newTask({ idempotencyKey: 'k2' }), newTask({ idempotencyKey: 'k2' }), newTask()])
    assert.deepEqual([twice[0]!.id, twice[1]!.id], [first!.id, twice[2]!.id])
    assert.equal(new Set(twice.map(({ id }) => id)).size, 3)
    await assert.rejects(rig.queue.push([newTask(), newTask({ id: first!.id })]), hasCode('task_exists'))
    const claims = await claim(rig, { limit: 9 })
    assert.deepEqual(idsOf(claims), [first!.id, twice[1]!.id, twice[3]!.id])
    await rig.queue.settle(claims[0]!, complete(rig))
    await rig.reopen()
    const [known] = await rig.queue.push([newTask({ idempotencyKey: 'k1' })])
    assert.deepEqual([known!.id, known!.status], [first!.id, 'complete'])
  })

  test(`${name}: news come after what they tell of, and none after the watch was ended`, async t => {
    const rig = await build(t, queueDefaults)
    let told = 0
    const claimed: string[] = []
    const stop = rig.queue.watch(async news => {
      told++
      if (news.kind === 'available') claimed.push(...idsOf(await claim(rig, { limit: 9 })))
    })
    const ids = await pushAll(rig, {}, {})
    await rig.advance(0)
    assert.deepEqual(claimed, ids)
    stop()
    const before = told
    await pushAll(rig, {})
    await rig.advance(0)
    assert.equal(told, before)
  })
}
