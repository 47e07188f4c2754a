/** Who has a task, for how long, and what becomes of results that come too late. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  assertLost, assertStale, claim, claimOne, complete, facts, failed, idsOf, leaseMs, pushAll, queueDefaults, type BuildQueue,
} from './queue-rig.ts'

export function testQueueLeases (name: string, build: BuildQueue): void {
  test(`${name}: a task whose lease lapsed goes to another owner, and nothing of the first is accepted any more`, async t => {
    const rig = await build(t, queueDefaults)
    const [id] = await pushAll(rig, {})
    const first = await claimOne(rig)
    await rig.queue.start(first, facts(rig))
    await rig.advance(leaseMs - 1)
    assert.deepEqual(await claim(rig, { owner: 'hst_b' }), [])
    const news: string[] = []
    t.after(rig.queue.watch(({ kind }) => news.push(kind)))
    await rig.advance(1)
    assert.deepEqual(news, ['available'], 'a lapse is told')
    const second = await claimOne(rig, { owner: 'hst_b' })
    assert.equal(second.taskId, id)
    assert.ok(second.fence > first.fence)
    assert.deepEqual(second.task.attempts.map(({ number, status, fence }) => ({ number, status, fence })), [
      { number: 1, status: 'returned', fence: first.fence }, { number: 1, status: 'scheduled', fence: second.fence },
    ])
    assert.match(second.task.attempts[0]!.end?.message ?? '', /lease .* lapsed/)
    assert.deepEqual(second.task.history.map(({ status }) => status), ['pending', 'scheduled', 'running', 'pending', 'scheduled'])
    await assertLost(rig, first)
    assert.deepEqual(await rig.queue.held('hst_a', leaseMs), [])
    assert.equal((await rig.queue.settle(second, complete(rig))).status, 'complete')
    await assertLost(rig, first)
  })

  test(`${name}: a lease that is renewed does not lapse, and a lapsed one that nobody took is still its owner's`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, {})
    const one = await claimOne(rig)
    const renewed = { taskId: one.taskId, fence: one.fence, isHeld: true, isCancelRequested: false }
    for (let round = 0; round < 4; round++) {
      await rig.advance(leaseMs / 2)
      assert.deepEqual(await rig.queue.renew([one], leaseMs), [renewed])
    }
    assert.deepEqual(await claim(rig, { owner: 'hst_b' }), [])
    await rig.advance(10 * leaseMs)
    assert.deepEqual(await rig.queue.renew([one], leaseMs), [renewed])
    assert.deepEqual(await claim(rig, { owner: 'hst_b' }), [], 'late, but not too late')
    await rig.advance(10 * leaseMs)
    await rig.queue.start(one, facts(rig))
    assert.equal((await rig.queue.settle(one, complete(rig))).attempts.length, 1)
  })

  test(`${name}: an owner is never handed its own task a second time, however late it is`, async t => {
    const rig = await build(t, queueDefaults)
    const [id, other] = await pushAll(rig, {}, {})
    const one = await claimOne(rig)
    await rig.advance(100 * leaseMs)
    assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [other])
    assert.deepEqual((await rig.queue.renew([one], leaseMs)).map(({ isHeld }) => isHeld), [true])
    assert.equal((await rig.queue.settle(one, complete(rig))).id, id)
  })

  test(`${name}: an owner that comes back finds what it has, lapsed or not, but not what another took`, async t => {
    const rig = await build(t, queueDefaults)
    const [a, b, c, d] = await pushAll(rig, {}, {}, {}, {})
    const claims = await claim(rig, { limit: 3 })
    await claimOne(rig, { owner: 'hst_b' })
    await rig.queue.start(claims[1]!, facts(rig, 'sbx_b'))
    const outcome = complete(rig)
    await rig.queue.settle(claims[2]!, outcome)
    await rig.reopen()
    const held = await rig.queue.held('hst_a', leaseMs)
    assert.deepEqual(held.map(({ taskId, fence, leaseUntil }) => ({ taskId, fence, leaseUntil })),
      claims.slice(0, 2).map(({ taskId, fence }) => ({ taskId, fence, leaseUntil: rig.now() + leaseMs })))
    assert.deepEqual(held.map(({ task }) => [task.status, task.attempts[0]!.sandboxId]), [['scheduled', undefined], ['running', 'sbx_b']])
    await rig.advance(2 * leaseMs)
    assert.deepEqual(idsOf(await rig.queue.held('hst_a', 3 * leaseMs)), [a, b])
    await rig.advance(2 * leaseMs)
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, owner: 'hst_c' })), [d])
    await rig.advance(leaseMs)
    assert.deepEqual(idsOf(await claim(rig, { limit: 1, owner: 'hst_c' })), [a])
    assert.deepEqual(idsOf(await rig.queue.held('hst_a', leaseMs)), [])
    assert.equal((await rig.queue.settle(claims[2]!, outcome)).id, c, 'what was settled stays so')
  })

  test(`${name}: renewing tells of each claim by itself`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, {}, {}, {})
    const [kept, settled, cancelled] = await claim(rig, { limit: 3 })
    await rig.queue.settle(settled!, complete(rig))
    await rig.queue.cancel(cancelled!.taskId)
    const unknown = { taskId: 'tsk_00000000000000000000', fence: 1 }
    assert.deepEqual(await rig.queue.renew([kept!, settled!, cancelled!, unknown], leaseMs), [
      { taskId: kept!.taskId, fence: kept!.fence, isHeld: true, isCancelRequested: false },
      { taskId: settled!.taskId, fence: settled!.fence, isHeld: false, isCancelRequested: false },
      { taskId: cancelled!.taskId, fence: cancelled!.fence, isHeld: true, isCancelRequested: true },
      { ...unknown, isHeld: false, isCancelRequested: false },
    ])
    assert.deepEqual(await rig.queue.renew([], leaseMs), [])
    await assertLost(rig, unknown)
  })

  test(`${name}: settling twice in the same way is once, in another way is refused`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, { maxAttempts: 2 })
    const first = await claimOne(rig)
    const outcome = failed(rig, { exitCode: 3 })
    const record = await rig.queue.settle(first, outcome)
    assert.equal(record.status, 'pending')
    await rig.advance(10)
    assert.deepEqual(await rig.queue.settle(first, outcome), record)
    await assertStale(rig.queue.settle(first, complete(rig)))
    await rig.reopen()
    await rig.advance(2000)
    const second = await claimOne(rig)
    assert.equal((await rig.queue.settle(first, outcome)).status, 'scheduled', 'the second attempt goes on')
    const last = complete(rig)
    const end = await rig.queue.settle(second, last)
    assert.deepEqual([end.status, end.attempt], ['complete', 2])
    assert.deepEqual(await rig.queue.settle(second, last), end)
    await assertStale(rig.queue.settle(second, { ...last, end: { ...last.end, exitCode: 1 } }))
    await assertStale(rig.queue.start(second, facts(rig)))
    assert.deepEqual(await claim(rig), [])
  })

  test(`${name}: what is given back waits as it is told, keeps its place, and counts no attempt`, async t => {
    const rig = await build(t, queueDefaults)
    const [id, next] = await pushAll(rig, {}, {})
    const first = await claimOne(rig)
    await rig.queue.start(first, facts(rig))
    const back = await rig.queue.release(first, { delayMs: 5000, isFault: false, message: 'the host drains' })
    assert.deepEqual([back.status, back.attempt, back.attempts[0]!.status, back.attempts[0]!.end?.message], ['pending', 1, 'returned', 'the host drains'])
    assert.equal(Date.parse(back.availableAt), rig.now() + 5000)
    await assertLost(rig, first)
    assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [next])
    await rig.advance(5000)
    const second = await claimOne(rig)
    assert.deepEqual([second.taskId, second.task.attempt, second.task.attempts.length], [id, 1, 2])
    await rig.queue.release(second, { delayMs: 0, isFault: false })
    assert.equal((await claimOne(rig)).taskId, id, 'at once without a delay')
  })

  test(`${name}: starting again with the same claim is fine`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, {})
    const one = await claimOne(rig)
    await rig.queue.start(one, facts(rig, 'sbx_1'))
    await rig.queue.start(one, facts(rig, 'sbx_1'))
    const [held] = await rig.queue.held('hst_a', leaseMs)
    assert.deepEqual([held!.task.status, held!.task.attempts[0]!.sandboxId], ['running', 'sbx_1'])
    assert.deepEqual(held!.task.history.map(({ status }) => status), ['pending', 'scheduled', 'running'])
  })
}
