/** That what was answered is kept, whoever dies. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  assertLost, cancelled, claim, claimOne, complete, facts, failed, idsOf, leaseMs, pushAll, queueDefaults, type BuildQueue,
} from './queue-rig.ts'

export function testQueueDurability (name: string, build: BuildQueue): void {
  test(`${name}: every operation is kept when the queue is opened again right after it`, async t => {
    const rig = await build(t, queueDefaults)
    const [id] = await pushAll(rig, { maxAttempts: 2, priority: 1, delayMs: 500 })
    await rig.reopen()
    assert.deepEqual(await claim(rig), [])
    await rig.advance(500)
    await rig.reopen()
    const one = await claimOne(rig)
    assert.equal(one.taskId, id)
    await rig.reopen()
    assert.deepEqual(await claim(rig), [])
    await rig.queue.start(one, facts(rig, 'sbx_1'))
    await rig.reopen()
    assert.deepEqual((await rig.queue.held('hst_a', leaseMs)).map(({ fence, task }) => [fence, task.status]), [[one.fence, 'running']])
    await rig.advance(leaseMs - 1)
    assert.equal((await rig.queue.renew([one], leaseMs))[0]!.isHeld, true)
    await rig.reopen()
    await rig.advance(leaseMs - 1)
    assert.deepEqual(await claim(rig, { owner: 'hst_b' }), [])
    await rig.queue.settle(one, failed(rig))
    await rig.reopen()
    await assertLost(rig, one)
    await rig.advance(1200)
    const two = await claimOne(rig)
    assert.deepEqual([two.task.attempt, two.task.attempts[0]!.sandboxId], [2, 'sbx_1'])
    await rig.queue.release(two, { delayMs: 100, isFault: true })
    await rig.reopen()
    await rig.advance(100)
    const three = await claimOne(rig)
    assert.ok(three.fence > two.fence && two.fence > one.fence)
    await rig.queue.cancel(id!)
    await rig.reopen()
    assert.equal((await rig.queue.held('hst_a', leaseMs))[0]!.task.cancelRequestedAt !== undefined, true)
    const end = cancelled(rig)
    await rig.queue.settle(three, end)
    await rig.reopen()
    assert.equal((await rig.queue.settle(three, end)).status, 'cancelled')
    const again = await rig.queue.retry(id!)
    await rig.reopen()
    const four = await claimOne(rig)
    assert.deepEqual([four.taskId, four.task.attempt, four.task.attempt], [id, again.attempt, 3])
    const done = await rig.queue.settle(four, complete(rig))
    await rig.reopen()
    assert.deepEqual(await rig.queue.cancel(id!), done)
    assert.deepEqual(await rig.queue.stats(), [])
  })

  test(`${name}: what is refused changes nothing for those it was asked with`, async t => {
    const rig = await build(t, queueDefaults)
    const ids = await pushAll(rig, {}, {})
    const [one, two] = await claim(rig, { limit: 2 })
    const wrong = { taskId: ids[0]!, fence: one!.fence + 7 }
    const results = await Promise.allSettled([
      rig.queue.settle(one!, complete(rig)), rig.queue.settle(wrong, complete(rig)), rig.queue.start(two!, facts(rig)),
      rig.queue.retry('tsk_00000000000000000000'), pushAll(rig, {}), rig.queue.release(wrong, { delayMs: 0, isFault: true }),
    ])
    assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled', 'rejected'])
    await rig.reopen()
    assert.deepEqual(idsOf(await rig.queue.held('hst_a', leaseMs)), [ids[1]])
    assert.equal((await claim(rig, { limit: 9 })).length, 1)
  })
}
