import { mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { withDeadline } from '../../lib/deadline.ts'
import { formatNetwork, hasAddress, liesWithin, networkOf, parseAddress, parseNetwork, sizeOf } from '../../lib/ip-network.ts'
import type { AddressLease, AddressSource } from './address-source.ts'
import type { NetworkPlan, NetworkSlot } from './network-plan.ts'
import type { SlotMaker } from './slot-pool.ts'

interface UsedAddress {
  address: string
  device: string | undefined
}

export interface AddressLeasesOptions {
  source: AddressSource
  /** With `leasedPool4`, the network that the source gives addresses from. */
  plan: NetworkPlan
  /** A file for each lease that this host may have: what is lent is known to the next daemon. */
  dir: string
  /** IPv4 addresses that this host has or leads to somewhere, with their devices. */
  listUsed: () => Promise<readonly UsedAddress[]>
  logger: Logger
  /** How long after the end of its slot an address is given back: the kernel takes the veth away later, and remembers connections. */
  restMs?: number
  retryMs?: { first: number, longest: number }
}

const usualRestMs = 2000
/** An address that cannot be used is kept from coming back with the next answer. */
const refusedRestMs = 60_000
const usualRetryMs = { first: 1000, longest: 60_000 }
const concurrentReleases = 8
const lastReleasesMs = 8000
const leasePattern = /^berth-[0-9a-f]{6}-[0-9a-f]{4}$/

/**
 * Addresses that are lent to the slots of this host. A lease has the name of its slot's namespace, so that whoever finds the one knows the
 * other:
 *
 *     noted on disk ─▶ allocated ─▶ (slot is built, used, destroyed) ─▶ rests ─▶ released ─▶ note removed
 *
 * Whatever fails or dies on the way, the note stays until the source has said that the lease is released.
 */
export class AddressLeases {
  readonly #options: AddressLeasesOptions
  readonly #restMs: number
  readonly #retryMs: { first: number, longest: number }
  /** Addresses of slots that are there, with their leases. */
  readonly #addresses = new Map<string, string>()
  /** Leases to be released, with the time from when on. */
  readonly #due = new Map<string, number>()
  readonly #refused = new Set<string>()
  readonly #running = new Map<string, Promise<void>>()
  #failures = 0
  #timer: NodeJS.Timeout | undefined
  #isReleasing = false
  #isClosed = false

  constructor (options: AddressLeasesOptions) {
    this.#options = options
    this.#restMs = options.restMs ?? usualRestMs
    this.#retryMs = options.retryMs ?? usualRetryMs
  }

  /** Takes over the leases of these slots, and releases all others that this host may have from earlier. */
  async adopt (taken: readonly NetworkSlot[]): Promise<void> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 })
    for (const { netns, ipv4 } of taken) this.#addresses.set(ipv4, netns)
    const own = new Set(taken.map(({ netns }) => netns))
    for (const lease of await readdir(this.#options.dir)) {
      if (leasePattern.test(lease) && !own.has(lease) && !this.#due.has(lease)) this.#due.set(lease, 0)
    }
    this.#schedule()
  }

  /**
   * The slots with addresses that are lent to them. When it throws, some may be lent: release them.
   *
   * @throws BerthError of the source; unavailable `address_refused` for an answer that cannot be used.
   */
  async lease (slots: readonly NetworkSlot[]): Promise<NetworkSlot[]> {
    // All are waited for, whatever fails: what is released must not be under way any more.
    const [used, ...outcomes] = await Promise.all([
      settle(this.#options.listUsed()), ...slots.map(async slot => ({ slot, ...await settle(this.#allocate(slot.netns)) })),
    ])
    if ('error' in used) throw used.error
    const leased: NetworkSlot[] = []
    const failures: unknown[] = []
    for (const outcome of outcomes) {
      if ('error' in outcome) {
        failures.push(outcome.error)
        continue
      }
      const { slot, value: lease } = outcome
      const problem = this.#problemOf(slot, lease, used.value)
      if (problem === undefined) {
        this.#addresses.set(lease.ipv4, slot.netns)
        leased.push({ ...slot, ipv4: lease.ipv4 })
      } else {
        this.#refused.add(slot.netns)
        failures.push(new BerthError('unavailable', 'address_refused', `the gateway gave a sandbox the address ${JSON.stringify(lease.ipv4).slice(0, 64)}, which ${problem}`))
      }
    }
    if (failures.length > 0) throw failures[0]
    return leased
  }

  /** Gives back what is lent to slots that are gone, in the background and until it is done. Idempotent. */
  release (slots: readonly NetworkSlot[]): void {
    const gone = new Set(slots.map(({ netns }) => netns))
    for (const [address, lease] of this.#addresses) if (gone.has(lease)) this.#addresses.delete(address)
    for (const lease of gone) this.#due.set(lease, Date.now() + (this.#refused.delete(lease) ? refusedRestMs : this.#restMs))
    this.#schedule()
  }

  /** Makes slots with addresses that are lent to them, until they are destroyed. */
  lending (builder: SlotMaker): SlotMaker {
    return {
      build: async slots => await builder.build(await this.lease(slots)),
      destroy: async slots => {
        await builder.destroy(slots)
        this.release(slots)
      },
    }
  }

  /** Gives back what is to be given back, for as long as that may take at the end of a daemon. What is left the next one gives back. */
  async close (): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    await withDeadline(lastReleasesMs, 'the release of addresses', () => this.#releaseAll([...this.#due.keys()])).catch(() => { /* told below */ })
    if (this.#due.size > 0) this.#options.logger.warn({ leases: this.#due.size }, 'addresses could not be given back; the next daemon on this state directory does it')
  }

  async #allocate (lease: string): Promise<AddressLease> {
    if (this.#isClosed) throw new BerthError('unavailable', 'host_stopping', 'the daemon is ending; try again when it is back')
    // One that is still to be released is released first: its release must not meet the next use.
    if (this.#due.has(lease)) await this.#releaseNow(lease)
    await writeFile(join(this.#options.dir, lease), '', { mode: 0o600 })
    return await this.#options.source.allocate(lease)
  }

  /** What is wrong with an answer; it follows "which". */
  #problemOf ({ netns, device }: NetworkSlot, { ipv4, gateway4, prefixLength }: AddressLease, used: readonly UsedAddress[]): string | undefined {
    const { leasedPool4 = '', gateway4: ownGateway } = this.#options.plan
    const pool = parseNetwork(leasedPool4)
    const address = parseAddress(ipv4)
    if (address?.family !== 4) return 'is no IPv4 address: see the gateway'
    if (!pool || !hasAddress(pool, address)) return `is not of ${leasedPool4}: set BERTH_GATEWAY_IPV4_POOL to the network that the gateway gives addresses from`
    if (!Number.isInteger(prefixLength) || prefixLength < 0 || prefixLength > 32) return `has the prefix length ${prefixLength}: see the gateway`
    const network = networkOf(address, prefixLength === 0 ? 32 : prefixLength)
    // Sandboxes of other hosts have addresses of all of it, and must be known as such.
    if (!liesWithin(network, pool)) return `is of ${formatNetwork(network)}, more than ${leasedPool4}: set BERTH_GATEWAY_IPV4_POOL to ${formatNetwork(network)}`
    const isEdge = network.prefixLength < 31 && (address.value === network.first || address.value === network.first + sizeOf(network) - 1n)
    if (isEdge || ipv4 === gateway4) return `is no host's of ${formatNetwork(network)}: see the gateway`
    // What is left of the slot's own link goes when it is built.
    const user = used.find(known => known.address === ipv4 && known.device !== device)
    if (user || ipv4 === ownGateway) return `this host already has, on ${user?.device ?? 'lo'}: see that nothing but the gateway gives out addresses of ${leasedPool4}`
    const other = this.#addresses.get(ipv4)
    return other === undefined || other === netns ? undefined : `it also gave to ${other}: see the gateway`
  }

  #schedule (): void {
    if (this.#isClosed || this.#isReleasing || this.#due.size === 0) return
    clearTimeout(this.#timer)
    const nextAt = [...this.#due.values()].reduce((least, at) => Math.min(least, at))
    const pauseMs = this.#failures === 0 ? 0 : Math.min(this.#retryMs.first * 2 ** (this.#failures - 1), this.#retryMs.longest)
    this.#timer = setTimeout(() => { void this.#releaseDue() }, Math.max(nextAt - Date.now(), pauseMs)).unref()
  }

  async #releaseDue (): Promise<void> {
    this.#isReleasing = true
    const now = Date.now()
    const failure = await this.#releaseAll([...this.#due].filter(([, at]) => at <= now).map(([lease]) => lease))
    if (failure) {
      if (this.#failures++ === 0) this.#options.logger.warn({ err: failure.error, leases: this.#due.size }, 'addresses could not be given back; it is tried again until it is done')
    } else {
      this.#failures = 0
    }
    this.#isReleasing = false
    this.#schedule()
  }

  /** Never rejects. The first that fails ends it: the source is away. */
  async #releaseAll (leases: string[]): Promise<{ error: unknown } | undefined> {
    let failure: { error: unknown } | undefined
    await Promise.all(Array.from({ length: Math.min(concurrentReleases, leases.length) }, async () => {
      for (let lease = leases.shift(); lease !== undefined && !failure; lease = leases.shift()) {
        // One that was allocated again was released before.
        if (this.#due.has(lease)) await this.#releaseNow(lease).catch((error: unknown) => { failure ??= { error } })
      }
    }))
    return failure
  }

  #releaseNow (lease: string): Promise<void> {
    const running = this.#running.get(lease) ?? this.#releaseOnce(lease).finally(() => this.#running.delete(lease))
    this.#running.set(lease, running)
    return running
  }

  async #releaseOnce (lease: string): Promise<void> {
    await this.#options.source.release(lease)
    await rm(join(this.#options.dir, lease), { force: true })
    this.#due.delete(lease)
  }
}

async function settle<T> (work: Promise<T>): Promise<{ value: T } | { error: unknown }> {
  return await work.then(value => ({ value }), (error: unknown) => ({ error }))
}
