import { test, type TestContext } from 'node:test'
import assert from 'node:assert/strict'
import pino from 'pino'
import { BerthError } from '../../../src/errors.ts'
import { pollUntil } from '../../../src/lib/poll.ts'
import { planNetwork, type NetworkSlot } from '../../../src/services/network/network-plan.ts'
import { SlotPool, type SlotPoolOptions } from '../../../src/services/network/slot-pool.ts'

interface BuildOptions extends Partial<Pick<SlotPoolOptions, 'size' | 'quarantineMs'>> {
  /** Of the pool: /28 has 13 slots. */
  pool4?: string
  taken?: Set<number>
  dirty?: Set<number>
  build?: (slots: readonly NetworkSlot[]) => Promise<void>
  destroy?: (slots: readonly NetworkSlot[]) => Promise<void>
}

/** A pool over a host of which only the numbers of its namespaces are kept. */
function build (t: TestContext, options: BuildOptions = {}) {
  const plan = planNetwork({ tag: 'abcdef', pool4: options.pool4 ?? '10.200.0.0/24', pool6: 'fd00:a1b2::/64', blockIndex: 0 })
  const there = new Set<number>()
  const builds: number[][] = []
  const destroyed: number[][] = []
  const pool = new SlotPool({
    plan,
    size: options.size ?? 0,
    quarantineMs: options.quarantineMs ?? 10_000,
    logger: pino({ level: 'silent' }),
    builder: {
      async build (slots) {
        builds.push(slots.map(({ number }) => number))
        for (const { number } of slots) assert.ok(!there.has(number), `slot ${number} is built while it is there`)
        for (const { number } of slots) there.add(number)
        await options.build?.(slots)
        return slots
      },
      async destroy (slots) {
        destroyed.push(slots.map(({ number }) => number))
        await options.destroy?.(slots)
        for (const { number } of slots) there.delete(number)
      },
    },
  })
  t.after(() => pool.close())
  pool.open(options.taken ?? new Set(), options.dirty)
  return { pool, plan, there, builds, destroyed }
}

const acquireMany = (pool: SlotPool, count: number): Promise<NetworkSlot[]> => Promise.all(Array.from({ length: count }, () => pool.acquire()))
const isFull = (pool: SlotPool, size: number) => pollUntil(async () => pool.counts().ready === size && pool.counts().building === 0, 5000)

test('a pool fills itself in batches of at most 8, and again when half of it is gone', async (t) => {
  const { pool, builds } = build(t, { size: 12 })
  assert.ok(await isFull(pool, 12))
  assert.deepEqual(builds.map(({ length }) => length), [8, 4])
  await acquireMany(pool, 5)
  assert.deepEqual(pool.counts(), { ready: 7, building: 0, quarantined: 0, taken: 5 })
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(builds.length, 2, 'more than half is there')
  await pool.acquire()
  assert.ok(await isFull(pool, 12))
  assert.deepEqual(builds.map(({ length }) => length), [8, 4, 6])
})

test('what is ready is given without building, known to the packet filter before', async (t) => {
  const { pool, builds } = build(t, { size: 4 })
  assert.ok(await isFull(pool, 4))
  await pool.acquire()
  assert.equal(builds.length, 1)
})

test('those who find the pool empty at once share builds, and nobody gets what another has', async (t) => {
  const { pool, builds } = build(t)
  const slots = await acquireMany(pool, 20)
  assert.equal(new Set(slots.map(({ number }) => number)).size, 20)
  assert.deepEqual(builds.map(({ length }) => length), [8, 8, 4])
  assert.deepEqual(pool.counts(), { ready: 0, building: 0, quarantined: 0, taken: 20 })
})

test('who comes while the pool is being filled gets of that', async (t) => {
  const { promise: go, resolve } = Promise.withResolvers<void>()
  const { pool, builds } = build(t, { size: 4, build: () => go })
  assert.ok(await pollUntil(async () => builds.length === 1, 5000))
  const acquired = acquireMany(pool, 3)
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(builds.length, 1, 'nothing is built beside it')
  resolve()
  assert.equal((await acquired).every(({ number }) => builds[0]?.includes(number)), true)
})

test('numbers that sandboxes have are not given, and come back when they are released', async (t) => {
  const taken = new Set([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13])
  const { pool, plan } = build(t, { pool4: '10.200.0.0/28', taken, quarantineMs: 1 })
  assert.equal((await pool.acquire()).number, 14)
  await assert.rejects(pool.acquire(), { kind: 'exhausted', code: 'addresses_exhausted' })
  await pool.release(plan.slot(7))
  assert.equal((await pool.acquire()).number, 7)
})

test('a number that was given up rests before it is used again, longest rested first', async (t) => {
  const taken = new Set([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
  const { pool, plan } = build(t, { pool4: '10.200.0.0/28', taken, quarantineMs: 30 })
  const startedMs = performance.now()
  await pool.release(plan.slot(9))
  await pool.release(plan.slot(4))
  assert.equal(pool.counts().quarantined, 2)
  const slots = [await pool.acquire(), await pool.acquire()]
  assert.deepEqual(slots.map(({ number }) => number), [9, 4])
  assert.ok(performance.now() - startedMs >= 29)
})

test('numbers that were cleaned up a moment ago rest too', async (t) => {
  const taken = new Set([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  const { pool } = build(t, { pool4: '10.200.0.0/28', taken, dirty: new Set([13, 12]), quarantineMs: 60_000 })
  assert.deepEqual(pool.counts(), { ready: 0, building: 0, quarantined: 1, taken: 11 })
  assert.equal((await pool.acquire()).number, 14)
})

test('slots given back together are destroyed together, each once', async (t) => {
  const { pool, there, destroyed } = build(t)
  const slots = await acquireMany(pool, 6)
  await Promise.all([...slots, ...slots].map(slot => pool.release(slot)))
  assert.deepEqual(destroyed.map(numbers => numbers.length), [6])
  await Promise.all(slots.map(slot => pool.release(slot)))
  assert.equal(destroyed.length, 1, 'a second release finds nothing')
  assert.equal(there.size, 0)
  assert.deepEqual(pool.counts(), { ready: 0, building: 0, quarantined: 6, taken: 0 })
})

test('a slot that cannot be destroyed stays taken, the others of its round do not', async (t) => {
  let stuck: number | undefined
  const { pool } = build(t, { destroy: async slots => { if (slots.some(({ number }) => number === stuck)) throw new Error('the namespace is busy') } })
  const slots = await acquireMany(pool, 3)
  stuck = slots[1]?.number
  const outcomes = await Promise.allSettled(slots.map(slot => pool.release(slot)))
  assert.deepEqual(outcomes.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled'])
  assert.equal(pool.counts().taken, 1)
  stuck = undefined
  await pool.release(slots[1] as NetworkSlot)
  assert.equal(pool.counts().taken, 0)
})

test('a slot whose namespace cannot be deleted stays taken, and is given back by another try', async (t) => {
  let isBroken = true
  const { pool, there } = build(t, { destroy: async () => { if (isBroken) throw new Error('the kernel is busy') } })
  const slot = await pool.acquire()
  await assert.rejects(pool.release(slot), /the kernel is busy/)
  assert.deepEqual([there.size, pool.counts().taken], [1, 1])
  isBroken = false
  await pool.release(slot)
  assert.deepEqual([there.size, pool.counts().taken], [0, 0])
})

test('a build that fails is cleaned up and tried with other numbers', async (t) => {
  let failures = 2
  const { pool, builds, there } = build(t, { build: async () => { if (failures-- > 0) throw new Error('no veth today') } })
  const slot = await pool.acquire()
  assert.equal(builds.length, 3)
  assert.equal(new Set(builds.flat()).size, 3)
  assert.ok(await pollUntil(async () => pool.counts().quarantined === 2, 5000))
  assert.deepEqual([...there], [slot.number])
})

test('one bad number of a batch takes no other acquire with it', async (t) => {
  const bad = new Set<number>()
  const { pool } = build(t, {
    build: async slots => {
      if (bad.size === 0) bad.add(slots[3]?.number ?? 0)
      if (slots.some(({ number }) => bad.has(number))) throw new Error('this one is cursed')
    },
  })
  const slots = await acquireMany(pool, 8)
  assert.equal(new Set(slots.map(({ number }) => number)).size, 8)
  assert.ok(slots.every(({ number }) => !bad.has(number)))
})

test('after three builds that failed the acquire does, and says why', async (t) => {
  const { pool, builds, there } = build(t, { build: async () => { throw new Error('no veth today') } })
  await assert.rejects(pool.acquire(), (error: Error & { code?: string }) => {
    assert.equal(error.code, 'network_unavailable')
    assert.match(String(error.cause), /no veth today/)
    return true
  })
  assert.equal(builds.length, 3)
  assert.ok(await pollUntil(async () => there.size === 0, 5000))
})

test('where there is no address for anybody, nobody waits for another try, and what is ready is given all the same', async (t) => {
  let isAway = false
  const refusal = new BerthError('unavailable', 'addresses_unavailable', 'the gateway does not answer')
  const { pool, builds, there } = build(t, { size: 2, build: async () => { if (isAway) throw refusal } })
  assert.ok(await isFull(pool, 2))
  isAway = true
  const ready = await acquireMany(pool, 2)
  const triesBefore = builds.length
  await assert.rejects(pool.acquire(), refusal)
  assert.ok(builds.length <= triesBefore + 2, 'it was tried once, beside what refills the pool')
  assert.ok(await pollUntil(async () => there.size === 2, 5000))
  isAway = false
  const slot = await pool.acquire()
  assert.ok(!ready.some(({ number }) => number === slot.number))
})

test('an answer of the gateway that cannot be used is tried with another number, and the last one is told', async (t) => {
  const { pool, builds } = build(t, { build: async () => { throw new BerthError('unavailable', 'address_refused', 'the gateway gave 0.0.0.0') } })
  await assert.rejects(pool.acquire(), { code: 'address_refused' })
  assert.equal(builds.length, 3)
})

test('a slot keeps the address that it was built with', async (t) => {
  const plan = planNetwork({ tag: 'abcdef', pool4: '10.200.0.0/24', pool6: 'fd00:a1b2::/64', blockIndex: 0 })
  const destroyed: string[] = []
  const pool = new SlotPool({
    plan,
    size: 0,
    logger: pino({ level: 'silent' }),
    builder: {
      build: async slots => slots.map(slot => ({ ...slot, ipv4: `10.64.0.${slot.number}` })),
      destroy: async slots => { destroyed.push(...slots.map(({ ipv4 }) => ipv4)) },
    },
  })
  t.after(() => pool.close())
  pool.open(new Set())
  const slot = await pool.acquire()
  assert.equal(slot.ipv4, `10.64.0.${slot.number}`)
  await pool.release(slot)
  assert.deepEqual(destroyed, [slot.ipv4])
})

test('a refill that fails waits before the next, and does not keep an acquire from being tried', async (t) => {
  let isBroken = true
  const { pool, builds } = build(t, { size: 4, build: async () => { if (isBroken) throw new Error('no veth today') } })
  assert.ok(await pollUntil(async () => pool.counts().quarantined === 4, 5000))
  await new Promise(resolve => setTimeout(resolve, 30))
  assert.equal(builds.length, 1)
  isBroken = false
  await pool.acquire()
  assert.deepEqual(builds.map(({ length }) => length), [4, 1])
})

test('who gives up waiting gets the reason of the signal, and what was built for it goes to the next', async (t) => {
  const { promise: go, resolve } = Promise.withResolvers<void>()
  const { pool, builds } = build(t, { build: () => go })
  const controller = new AbortController()
  const acquired = pool.acquire(controller.signal)
  assert.ok(await pollUntil(async () => builds.length === 1, 5000))
  controller.abort(new Error('the client went away'))
  await assert.rejects(acquired, /client went away/)
  resolve()
  const slot = await pool.acquire()
  assert.deepEqual(builds, [[slot.number]])
  await assert.rejects(pool.acquire(controller.signal), /client went away/)
})

test('a pool that closes ends what it is building, refuses those who wait, and leaves nothing but what is taken', async (t) => {
  const { promise: go, resolve } = Promise.withResolvers<void>()
  let isSlow = false
  const { pool, there, builds } = build(t, { size: 4, build: async () => { if (isSlow) await go } })
  assert.ok(await isFull(pool, 4))
  isSlow = true
  const slots = await acquireMany(pool, 4)
  const waiting = pool.acquire()
  const refused = assert.rejects(waiting, { code: 'host_stopping' })
  assert.ok(await pollUntil(async () => builds.length > 1, 5000))
  const closed = pool.close()
  await refused
  resolve()
  await closed
  assert.deepEqual([...there].sort(), slots.map(({ number }) => number).sort())
  await assert.rejects(pool.acquire(), { code: 'host_stopping' })
  await Promise.all(slots.map(slot => pool.release(slot)))
  assert.equal(there.size, 0)
})
