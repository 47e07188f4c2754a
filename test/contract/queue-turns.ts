/** In which order tasks are handed out, and which are not. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { claim, claimOne, complete, drain, idsOf, newTask, plenty, pushAll, queueDefaults, type BuildQueue } from './queue-rig.ts'

export function testQueueTurns (name: string, build: BuildQueue): void {
  test(`${name}: what was pushed first is claimed first, and higher priorities before that`, async t => {
    const rig = await build(t, queueDefaults)
    const ids = await pushAll(rig, {}, { priority: 5 }, {}, { priority: -5 }, { priority: 5 })
    assert.deepEqual(await drain(rig), [1, 4, 0, 2, 3].map(index => ids[index]))
    assert.deepEqual(await claim(rig), [], 'none of them twice')
  })

  test(`${name}: a claim takes at most its limit, and tells all about each task`, async t => {
    const rig = await build(t, queueDefaults)
    const tasks = [newTask(), newTask({ labels: { a: 'b' } }), newTask()]
    const records = await rig.queue.push(tasks)
    assert.deepEqual(records.map(({ id, spec, status, attempt, attempts }) => ({ id, spec, status, attempt, attempts })),
      tasks.map(({ id, spec }) => ({ id, spec, status: 'pending', attempt: 1, attempts: [] })))
    const claims = await claim(rig, { limit: 2 })
    assert.deepEqual(idsOf(claims), tasks.slice(0, 2).map(({ id }) => id))
    assert.equal(claims[0]!.leaseUntil, rig.now() + 10_000)
    assert.equal(claims[1]!.task.status, 'scheduled')
    assert.deepEqual(claims[1]!.task.spec, tasks[1]!.spec)
    assert.deepEqual(claims[1]!.task.attempts.map(({ number, status, fence }) => ({ number, status, fence })), [{ number: 1, status: 'scheduled', fence: claims[1]!.fence }])
    assert.deepEqual(claims[1]!.task.history.map(({ status, attempt }) => ({ status, attempt })), [{ status: 'pending', attempt: 1 }, { status: 'scheduled', attempt: 1 }])
    assert.equal((await claim(rig, { limit: 5 })).length, 1)
  })

  test(`${name}: only pools that are asked for are served`, async t => {
    const rig = await build(t, queueDefaults)
    const [a, b, c] = await pushAll(rig, { pool: 'a' }, { pool: 'b' }, { pool: 'c' })
    assert.deepEqual(await drain(rig), [])
    assert.deepEqual(await drain(rig, { pools: ['a', 'b'] }), [a, b])
    assert.deepEqual(await drain(rig, { pools: ['c'] }), [c])
  })

  test(`${name}: delayed tasks wait, and then have the place of their age`, async t => {
    const rig = await build(t, queueDefaults)
    const news: string[] = []
    t.after(rig.queue.watch(({ kind }) => news.push(kind)))
    const [late, early] = await pushAll(rig, { delayMs: 60_000 }, { delayMs: 1000 })
    assert.deepEqual(await claim(rig), [])
    news.length = 0
    await rig.advance(999)
    assert.deepEqual(news, [])
    assert.deepEqual(await claim(rig), [])
    await rig.advance(1)
    assert.deepEqual(news, ['available'])
    assert.deepEqual(idsOf(await claim(rig)), [early])
    const [plain] = await pushAll(rig, {})
    await rig.advance(59_000)
    assert.deepEqual(await drain(rig), [late, plain])
  })

  test(`${name}: of one priority, the value of the fair label with the fewest claimed tasks goes first, then the one that waits longest`, async t => {
    const rig = await build(t, queueDefaults)
    const of = (tenant: string) => ({ labels: { tenant } })
    const [a1, a2, a3, , b1, b2, none, c1] = await pushAll(rig, of('a'), of('a'), of('a'), of('a'), of('b'), of('b'), {}, of('c'))
    const claims = await claim(rig, { limit: 5 })
    assert.deepEqual(idsOf(claims), [a1, b1, none, c1, a2])
    // a has two, the others one each: b alone has more to do.
    assert.deepEqual(idsOf(await claim(rig)), [b2])
    for (const one of claims) await rig.queue.settle(one, complete(rig))
    const [c2, d1] = await pushAll(rig, of('c'), of('d'))
    // b still has one. d never had its turn, a and c had: a later than c.
    assert.deepEqual(idsOf(await claim(rig, { limit: 3 })), [d1, c2, a3])
  })

  test(`${name}: a priority goes before fairness`, async t => {
    const rig = await build(t, queueDefaults)
    const [a1, b1, a2] = await pushAll(rig, { labels: { tenant: 'a' }, priority: 1 }, { labels: { tenant: 'b' } }, { labels: { tenant: 'a' }, priority: 1 })
    assert.deepEqual(idsOf(await claim(rig, { limit: 3 })), [a1, a2, b1])
  })

  test(`${name}: claims stay within the room together, and what is too large lets others go first`, async t => {
    const rig = await build(t, queueDefaults)
    const size = (cpuMillis: number, memoryBytes: number) => ({ requests: { cpuMillis, memoryBytes } })
    const [one, wide, two, heavy, three] = await pushAll(rig, size(1000, 10), size(4000, 10), size(1000, 10), size(10, 900), size(1000, 10))
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, room: { cpuMillis: 2500, memoryBytes: 100 } })), [one, two])
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, room: { cpuMillis: 1010, memoryBytes: 910 } })), [heavy, three])
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, room: { cpuMillis: 4000, memoryBytes: 10 } })), [wide])
  })

  test(`${name}: room is kept for a task that has waited too long for it`, async t => {
    const rig = await build(t, queueDefaults)
    const large = { requests: { cpuMillis: 4000, memoryBytes: 1 } }
    const capacity = { cpuMillis: 4000, memoryBytes: 100_000 }
    const room = { cpuMillis: 2000, memoryBytes: 100_000 }
    const [big] = await pushAll(rig, large)
    const small = await pushAll(rig, {}, {}, { priority: 1 }, { priority: -1 })
    assert.deepEqual(idsOf(await claim(rig, { room, capacity })), [small[2]])
    assert.deepEqual(idsOf(await claim(rig, { room, capacity })), [small[0]], 'for a while small ones go first')
    await rig.advance(30_001)
    const [urgent] = await pushAll(rig, { priority: 1 })
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, room, capacity })), [urgent], 'a higher priority need not wait for it')
    assert.deepEqual(idsOf(await claim(rig, { limit: 9, room, capacity: room })), [small[1], small[3]], 'nothing waits where it would never fit')
    assert.deepEqual(idsOf(await claim(rig, { limit: 1, room: capacity, capacity })), [big])
  })

  test(`${name}: another pool's room is not kept for a task that the claimer does not serve`, async t => {
    const rig = await build(t, queueDefaults)
    await pushAll(rig, { pool: 'other', requests: { cpuMillis: 4000, memoryBytes: 1 } })
    const [small] = await pushAll(rig, {})
    await rig.advance(40_000)
    assert.deepEqual(idsOf(await claim(rig, { room: { cpuMillis: 1000, memoryBytes: 1000 } })), [small])
  })

  test(`${name}: no more tasks with a label than its limit are claimed at once, and other tasks pass them`, async t => {
    const rig = await build(t, { ...queueDefaults, labelLimits: [{ label: 'team', value: 'blue', max: 1 }, { label: 'team', max: 2 }, { label: 'customer', max: 1 }] })
    const of = (team: string, customer?: string) => ({ labels: { team, ...customer !== undefined && { customer } } })
    const [blue1, blue2, red1, red2, red3, rich1, rich2] = await pushAll(rig, of('blue'), of('blue'), of('red'), of('red'), of('red'), of('green', 'x'), of('lime', 'x'))
    const claims = await claim(rig, { limit: 9 })
    assert.deepEqual(idsOf(claims), [blue1, red1, red2, rich1])
    const news: string[] = []
    t.after(rig.queue.watch(({ kind }) => news.push(kind)))
    for (const one of claims) await rig.queue.settle(one, complete(rig))
    await rig.advance(0)
    assert.ok(news.includes('available'), 'an end may let another begin')
    assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [blue2, red3, rich2])
  })

  test(`${name}: a limit holds for tasks that are given back or wait for another attempt too`, async t => {
    const rig = await build(t, { ...queueDefaults, labelLimits: [{ label: 'team', max: 1 }] })
    const [first, second] = await pushAll(rig, { labels: { team: 'a' } }, { labels: { team: 'a' } })
    const one = await claimOne(rig)
    await rig.queue.release(one, { delayMs: 1000, isFault: false })
    assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [second])
    await rig.advance(1000)
    assert.deepEqual(await claim(rig, { limit: 9 }), [])
    await rig.reopen()
    assert.deepEqual(await claim(rig, { limit: 9 }), [])
    const [held] = await rig.queue.held('hst_a', 1000)
    await rig.queue.settle(held!, complete(rig))
    assert.deepEqual(idsOf(await claim(rig, { limit: 9 })), [first])
  })

  test(`${name}: stats count each pool`, async t => {
    const rig = await build(t, queueDefaults)
    assert.deepEqual(await rig.queue.stats(), [])
    const begin = rig.now()
    await pushAll(rig, {}, {}, {}, { delayMs: 5000 }, { pool: 'b' })
    await claimOne(rig)
    const counts = { delayed: 0, pending: 0, scheduled: 0, running: 0, deadLetters: 0 }
    assert.deepEqual(await rig.queue.stats(), [
      { ...counts, pool: 'b', pending: 1, oldestPendingAt: begin },
      { ...counts, pool: 'default', delayed: 1, pending: 2, scheduled: 1, oldestPendingAt: begin },
    ])
    await rig.advance(5000)
    const two = await claim(rig, { limit: 2 })
    await rig.queue.start(two[0]!, { sandboxId: 'sbx_x', logCursor: '1:0', startedAt: new Date(0).toISOString(), timings: [] })
    await rig.queue.settle(two[1]!, { status: 'failed', end: { reason: 'setup_failed', at: new Date(0).toISOString() }, isRetryable: false })
    const expected = [
      { ...counts, pool: 'b', pending: 1, oldestPendingAt: begin },
      { ...counts, pool: 'default', pending: 1, scheduled: 1, running: 1, deadLetters: 1, oldestPendingAt: begin + 5000 },
    ]
    assert.deepEqual(await rig.queue.stats(), expected)
    await rig.reopen()
    assert.deepEqual(await rig.queue.stats(), expected)
  })

  test(`${name}: claimers at once share the tasks, each task once`, async t => {
    const rig = await build(t, queueDefaults)
    const tasks = Array.from({ length: 1000 }, (_, index) => newTask({ labels: { tenant: `t${index % 7}` }, priority: index % 3 }))
    await Promise.all(Array.from({ length: 4 }, (_, index) => rig.queue.push(tasks.slice(index * 250, index * 250 + 250))))
    const claimed: string[] = []
    await Promise.all(Array.from({ length: 8 }, async (_, index) => {
      for (;;) {
        const claims = await claim(rig, { owner: `hst_${index}`, limit: 1 + index % 4 })
        if (claims.length === 0) return
        claimed.push(...idsOf(claims))
        await Promise.all(claims.map(one => rig.queue.settle(one, complete(rig))))
      }
    }))
    assert.deepEqual(claimed.sort(), tasks.map(({ id }) => id).sort())
    assert.deepEqual(await claim(rig, { limit: 1, room: plenty }), [])
  })
}
