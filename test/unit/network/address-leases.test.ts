/** Addresses that are lent to slots: none is kept beyond its slot, none is used that cannot be used, whatever fails. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import pino from 'pino'
import { BerthError } from '../../../src/errors.ts'
import { pollUntil } from '../../../src/lib/poll.ts'
import { AddressLeases } from '../../../src/services/network/address-leases.ts'
import type { AddressLease } from '../../../src/services/network/address-source.ts'
import { heldSlot, planNetwork, type NetworkPlan, type NetworkSlot } from '../../../src/services/network/network-plan.ts'
import { SlotPool } from '../../../src/services/network/slot-pool.ts'

const plan: NetworkPlan = { ...planNetwork({ tag: 'abcdef', pool4: '10.200.0.0/24', pool6: 'fd00:a1b2::/64', blockIndex: 0 }), leasedPool4: '10.64.0.0/16' }
const away = new BerthError('unavailable', 'addresses_unavailable', 'the gateway does not answer')

interface BuildOptions {
  restMs?: number
  dir?: string
  answer?: (leaseId: string) => Partial<AddressLease>
  used?: Array<{ address: string, device: string }>
  makeSlots?: (slots: readonly NetworkSlot[]) => Promise<void>
}

/** A source that keeps count, and slots that are made of nothing. */
function build (t: TestContext, options: BuildOptions = {}) {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'berth-leases-'))
  if (options.dir === undefined) t.after(() => rmSync(dir, { recursive: true, force: true }))
  const state = { isAway: false, last: 1, lent: new Map<string, string>(), calls: [] as string[] }
  const leases = new AddressLeases({
    plan,
    dir,
    restMs: options.restMs ?? 1,
    retryMs: { first: 5, longest: 10 },
    listUsed: async () => options.used ?? [],
    logger: pino({ level: 'silent' }),
    source: {
      async allocate (leaseId) {
        state.calls.push(`allocate ${leaseId}`)
        if (state.isAway) throw away
        const ipv4 = state.lent.get(leaseId) ?? `10.64.0.${++state.last}`
        state.lent.set(leaseId, ipv4)
        return { ipv4, gateway4: '10.64.0.1', prefixLength: 16, ...options.answer?.(leaseId) }
      },
      async release (leaseId) {
        state.calls.push(`release ${leaseId}`)
        if (state.isAway) throw away
        state.lent.delete(leaseId)
      },
    },
  })
  t.after(() => leases.close())
  const maker = leases.lending({ async build (slots) { await options.makeSlots?.(slots); return slots }, async destroy () {} })
  return { dir, state, leases, maker, notes: () => readdirSync(dir) }
}

const slots = [2, 3, 4].map(number => plan.slot(number))
const [first] = slots as [NetworkSlot]

test('slots are built with addresses that are lent to them, and nothing is kept when they are gone', async t => {
  const { state, leases, maker, notes } = build(t)
  await leases.adopt([])
  const built = await maker.build(slots)
  assert.deepEqual(built, slots.map(slot => ({ ...slot, ipv4: state.lent.get(slot.netns) })))
  assert.deepEqual([...state.lent.values()].sort(), ['10.64.0.2', '10.64.0.3', '10.64.0.4'])
  assert.deepEqual(notes().sort(), slots.map(({ netns }) => netns))
  await maker.destroy(built)
  assert.ok(await pollUntil(async () => state.lent.size === 0 && notes().length === 0, 5000))
})

test('an address rests before it is given back, but for the end of the daemon', async t => {
  const { state, leases, maker, notes } = build(t, { restMs: 60_000 })
  await leases.adopt([])
  await maker.destroy(await maker.build(slots))
  assert.equal(state.lent.size, 3)
  await leases.close()
  assert.deepEqual([state.lent.size, notes()], [0, []])
  await assert.rejects(maker.build(slots), { code: 'host_stopping' })
})

test('addresses of slots that could not be made are given back', async t => {
  const { state, leases, maker, notes } = build(t, { makeSlots: async () => { throw new Error('no veth today') } })
  await leases.adopt([])
  const pool = new SlotPool({ plan, builder: maker, size: 0, quarantineMs: 1, logger: pino({ level: 'silent' }) })
  t.after(() => pool.close())
  pool.open(new Set())
  await assert.rejects(pool.acquire(), { code: 'network_unavailable' })
  assert.equal(state.calls.filter(call => call.startsWith('allocate')).length, 3)
  assert.ok(await pollUntil(async () => state.lent.size === 0 && notes().length === 0, 5000))
})

test('where one of several gets no address, all are given back', async t => {
  const { state, leases, maker, notes } = build(t, { answer: id => { if (id === slots[1]?.netns) throw away; return {} } })
  await leases.adopt([])
  await assert.rejects(maker.build(slots), away)
  assert.equal(state.lent.size, 3)
  await maker.destroy(slots)
  assert.ok(await pollUntil(async () => state.lent.size === 0 && notes().length === 0, 5000))
})

test('what cannot be given back is tried again until it can, and keeps nobody waiting', async t => {
  const { state, leases, maker, notes } = build(t)
  await leases.adopt([])
  const built = await maker.build(slots)
  state.isAway = true
  await maker.destroy(built)
  assert.ok(await pollUntil(async () => state.calls.filter(call => call.startsWith('release')).length >= 3, 5000))
  assert.equal(notes().length, 3)
  state.isAway = false
  assert.ok(await pollUntil(async () => state.lent.size === 0 && notes().length === 0, 5000))
})

test('a lease that is still to be given back is given back before it is taken again', async t => {
  const { state, leases, maker } = build(t, { restMs: 60_000 })
  await leases.adopt([])
  await maker.destroy(await maker.build([first]))
  state.isAway = true
  await assert.rejects(maker.build([first]), away)
  state.isAway = false
  const [again] = await maker.build([first])
  assert.equal(again?.ipv4, '10.64.0.3')
  const { netns } = first
  assert.deepEqual(state.calls, [`allocate ${netns}`, `release ${netns}`, `release ${netns}`, `allocate ${netns}`])
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(state.lent.get(netns), '10.64.0.3', 'it stays lent')
})

test('what a dead daemon was lent is given back, but for what sandboxes have', async t => {
  const { dir, leases: before, maker } = build(t)
  await before.adopt([])
  const [kept] = await maker.build(slots)
  assert.ok(kept)
  const { state, leases, maker: next, notes } = build(t, { dir, answer: () => ({ ipv4: kept.ipv4 }) })
  await leases.adopt([kept])
  assert.ok(await pollUntil(async () => notes().length === 1, 5000))
  assert.deepEqual(notes(), [kept.netns])
  assert.deepEqual(state.calls.toSorted(), slots.slice(1).map(({ netns }) => `release ${netns}`))
  await assert.rejects(next.build([plan.slot(9)]), { code: 'address_refused', message: new RegExp(`also gave to ${kept.netns}`) })
  await next.destroy([kept])
  assert.ok(await pollUntil(async () => state.calls.includes(`release ${kept.netns}`), 5000))
})

const unusable: Array<[what: string, answer: Partial<AddressLease>, problem: RegExp]> = [
  ['nothing', { ipv4: '' }, /no IPv4 address/],
  ['0.0.0.0', { ipv4: '0.0.0.0' }, /not of 10\.64\.0\.0\/16/],
  ['an IPv6 address', { ipv4: 'fd00::5' }, /no IPv4 address/],
  ['a network', { ipv4: '10.64.0.5/16' }, /no IPv4 address/],
  ['a public address', { ipv4: '203.0.113.5' }, /not of 10\.64\.0\.0\/16.*BERTH_GATEWAY_IPV4_POOL/],
  ['an address of this host\'s own pool', { ipv4: plan.gateway4 }, /not of 10\.64\.0\.0\/16/],
  ['an address of a larger network', { prefixLength: 12 }, /more than 10\.64\.0\.0\/16.*10\.64\.0\.0\/12/],
  ['a length that is none', { prefixLength: 33 }, /prefix length 33/],
  ['a negative length', { prefixLength: -1 }, /prefix length -1/],
  ['the network itself', { ipv4: '10.64.0.0' }, /no host's/],
  ['the broadcast address', { ipv4: '10.64.255.255' }, /no host's/],
  ['the router', { ipv4: '10.64.0.1' }, /no host's/],
  ['an address that a link of this host has', { ipv4: '10.64.0.77' }, /already has, on eth7/],
]
for (const [what, answer, problem] of unusable) {
  test(`${what} is refused, and given back`, async t => {
    const { state, leases, maker, notes } = build(t, { answer: () => answer, used: [{ address: '10.64.0.77', device: 'eth7' }] })
    await leases.adopt([])
    await assert.rejects(maker.build([first]), (error: BerthError) => {
      assert.equal(error.code, 'address_refused')
      assert.match(error.message, problem)
      return true
    })
    await maker.destroy([first])
    assert.equal(state.lent.size, 1, 'it is held for a while, so that the next answer is another')
    await leases.close()
    assert.deepEqual([state.lent.size, notes()], [0, []])
  })
}

test('one address for two slots is refused for the second', async t => {
  const { leases, maker } = build(t, { answer: () => ({ ipv4: '10.64.0.50' }) })
  await leases.adopt([])
  await assert.rejects(maker.build(slots.slice(0, 2)), { code: 'address_refused', message: /also gave to berth-abcdef-0002/ })
})

test('an answer without a length and a router is taken, and what is left of a slot\'s own link is no obstacle', async t => {
  const { leases, maker } = build(t, { answer: () => ({ ipv4: '10.64.0.77', gateway4: '', prefixLength: 0 }), used: [{ address: '10.64.0.77', device: first.device }] })
  await leases.adopt([])
  assert.deepEqual((await maker.build([first])).map(({ ipv4 }) => ipv4), ['10.64.0.77'])
})

test('a sandbox keeps the address that it has: its own slot\'s or a lent one', () => {
  const { netnsPath, ipv4 } = first
  const held = (address: string, path = netnsPath, on = plan) => heldSlot(on, { slot: 2, ipv4: address, netnsPath: path })?.ipv4
  assert.deepEqual([held(ipv4), held('10.64.7.8')], [ipv4, '10.64.7.8'])
  assert.deepEqual([held('10.65.0.1'), held('10.200.0.3'), held('10.64.7.8', '/run/netns/other'), held('')], [undefined, undefined, undefined, undefined])
  const { leasedPool4: _, ...local } = plan
  assert.deepEqual([held(ipv4, netnsPath, local), held('10.64.7.8', netnsPath, local)], [ipv4, undefined])
})
