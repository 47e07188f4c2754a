/**
 * Network namespaces kept ready, so that a sandbox that starts need not wait for one to be made.
 *
 *   free ─▶ building ─▶ ready ─▶ taken ─▶ releasing ─▶ quarantined ─▶ free
 *               └────── failed ──────────────────────────────┘
 *
 * Nothing of it is written down: what a daemon leaves behind is found by its names and removed by the next.
 */
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { NetworkPlan, NetworkSlot } from './network-plan.ts'
import type { SlotBuilder } from './slot-builder.ts'
import { SlotReleases } from './slot-releases.ts'

/** Makes slots as SlotBuilder does; answers them with the addresses that they have. */
export interface SlotMaker extends Pick<SlotBuilder, 'destroy'> {
  build (slots: readonly NetworkSlot[]): Promise<readonly NetworkSlot[]>
}

export interface SlotPoolOptions {
  plan: NetworkPlan
  builder: SlotMaker
  /** How many slots are kept ready. With 0 each is made when it is asked for. */
  size: number
  logger: Logger
  /** How long after its deletion a number is left alone: the kernel takes the veth away later, and remembers connections. */
  quarantineMs?: number
}

export interface SlotCounts {
  ready: number
  building: number
  quarantined: number
  taken: number
}

interface Waiter {
  failures: number
  resolve: (slot: NetworkSlot) => void
  reject: (error: unknown) => void
}

const usualQuarantineMs = 2000
/** One process makes so many at once: more would keep the first waiting. */
const batchSize = 8
const concurrentInlineBuilds = 2
const attempts = 3
const withoutAddresses: ReadonlySet<string> = new Set(['addresses_unavailable', 'addresses_exhausted'])
// 0 is the network's address and 1 the gateway's.
const firstNumber = 2
const refillPauseMs = { first: 1000, longest: 60_000 }

export class SlotPool {
  readonly #options: SlotPoolOptions
  readonly #size: number
  readonly #quarantineMs: number
  /** Numbers that nobody has, the one longest free first. */
  readonly #free: number[] = []
  readonly #ready: NetworkSlot[] = []
  readonly #taken = new Set<number>()
  readonly #quarantined = new Map<number, NodeJS.Timeout>()
  readonly #waiters: Waiter[] = []
  readonly #work = new Set<Promise<void>>()
  readonly #releases: SlotReleases
  #building = 0
  #inlineBuilds = 0
  /** Numbers of failed builds whose debris is being removed. */
  #discarding = 0
  #isFilling = false
  #isRefilling = false
  #refillFailures = 0
  #pause: NodeJS.Timeout | undefined
  #isPumpDue = false
  #isClosed = false

  constructor (options: SlotPoolOptions) {
    this.#options = options
    this.#size = options.size
    this.#quarantineMs = options.quarantineMs ?? usualQuarantineMs
    this.#releases = new SlotReleases({
      destroy: slots => this.#options.builder.destroy(slots),
      onReleased: ({ number }) => {
        this.#taken.delete(number)
        this.#quarantine(number)
        this.#pumpSoon()
      },
    })
  }

  /**
   * Begins to fill the pool.
   *
   * @param taken the numbers that sandboxes have
   * @param dirty numbers that were taken away just now, by whoever cleans up
   */
  open (taken: ReadonlySet<number>, dirty: ReadonlySet<number> = new Set()): void {
    for (const number of taken) this.#taken.add(number)
    const count = this.#options.plan.slotCount - firstNumber
    // The daemon before may have given up a number a moment ago, most likely a low one: begin anywhere.
    const start = Math.floor(Math.random() * count)
    for (let i = 0; i < count; i++) {
      const number = firstNumber + (start + i) % count
      if (dirty.has(number) && !taken.has(number)) this.#quarantine(number)
      else if (!taken.has(number)) this.#free.push(number)
    }
    this.#isFilling = this.#size > 0
    this.#pumpSoon()
  }

  /**
   * A slot that nobody else has. The packet filter lets nothing out of it that it was not told of.
   *
   * @throws BerthError exhausted `addresses_exhausted`, unavailable `network_unavailable`, `addresses_unavailable`, `address_refused` or
   * `host_stopping`; the signal's reason.
   */
  async acquire (signal?: AbortSignal): Promise<NetworkSlot> {
    signal?.throwIfAborted()
    if (this.#isClosed) throw hostStopping()
    const slot = this.#waiters.length === 0 ? this.#ready.shift() : undefined
    if (slot) {
      this.#taken.add(slot.number)
      this.#pumpSoon()
      return slot
    }
    const { promise, resolve, reject } = Promise.withResolvers<NetworkSlot>()
    const waiter: Waiter = { failures: 0, resolve, reject }
    const onAbort = () => {
      const index = this.#waiters.indexOf(waiter)
      if (index === -1) return
      this.#waiters.splice(index, 1)
      reject(signal?.reason)
    }
    this.#waiters.push(waiter)
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#pumpSoon()
    return await promise.finally(() => signal?.removeEventListener('abort', onAbort))
  }

  /**
   * Gives a slot back: its namespace is deleted, its number rests. One that nobody has is fine. When
   * it throws, the slot is still taken: try again.
   */
  async release (slot: NetworkSlot): Promise<void> {
    if (this.#taken.has(slot.number)) await this.#releases.add(slot)
  }

  counts (): SlotCounts {
    return { ready: this.#ready.length, building: this.#building, quarantined: this.#quarantined.size, taken: this.#taken.size }
  }

  /** Ends what is under way, refuses those who wait, destroys the slots that nobody has. Taken ones stay, and can be released still. */
  async close (): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#pause)
    for (const waiter of this.#waiters.splice(0)) waiter.reject(hostStopping())
    while (this.#work.size > 0) await Promise.all(this.#work)
    const slots = this.#ready.splice(0)
    if (slots.length > 0) await this.#options.builder.destroy(slots)
    for (const timer of this.#quarantined.values()) clearTimeout(timer)
  }

  /** Looks, once all calls of this turn have been made, what is to be built: those who come together are served by one process. */
  #pumpSoon (): void {
    if (this.#isPumpDue || this.#isClosed) return
    this.#isPumpDue = true
    setImmediate(() => {
      this.#isPumpDue = false
      if (!this.#isClosed) this.#pump()
    })
  }

  #pump (): void {
    for (let slot; this.#waiters.length > 0 && (slot = this.#ready.shift());) {
      this.#taken.add(slot.number)
      this.#waiters.shift()?.resolve(slot)
    }
    let unserved = this.#waiters.length - this.#building
    while (unserved > 0 && this.#inlineBuilds < concurrentInlineBuilds && this.#free.length > 0) {
      // One that failed is tried alone, so that it takes no other with it.
      const hasFailed = this.#waiters.some(({ failures }) => failures > 0)
      unserved -= this.#start(hasFailed ? 1 : Math.min(unserved, batchSize), false)
    }
    if (unserved > 0 && this.#free.length + this.#building + this.#discarding + this.#quarantined.size + this.#releases.size === 0) {
      for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#exhausted())
    }
    this.#refill()
  }

  #refill (): void {
    const stock = this.#ready.length + this.#building - this.#waiters.length
    if (this.#size > 0 && stock <= Math.floor(this.#size / 2)) this.#isFilling = true
    if (stock >= this.#size) this.#isFilling = false
    if (!this.#isFilling || this.#isRefilling || this.#pause || this.#free.length === 0) return
    this.#start(Math.min(this.#size - stock, batchSize), true)
  }

  /** Begins to build so many, or as many as numbers are free; answers how many. */
  #start (count: number, isRefill: boolean): number {
    const slots = this.#free.splice(0, count).map(number => this.#options.plan.slot(number))
    this.#building += slots.length
    if (isRefill) this.#isRefilling = true
    else this.#inlineBuilds++
    const work = this.#build(slots, isRefill)
    this.#work.add(work)
    void work.finally(() => this.#work.delete(work))
    return slots.length
  }

  /** Never rejects. */
  async #build (slots: NetworkSlot[], isRefill: boolean): Promise<void> {
    let failure: { error: unknown } | undefined
    try {
      this.#ready.push(...await this.#options.builder.build(slots))
    } catch (error) {
      failure = { error }
    }
    this.#building -= slots.length
    if (isRefill) this.#isRefilling = false
    else this.#inlineBuilds--
    if (isRefill && !failure) this.#refillFailures = 0
    if (!failure) return this.#pumpSoon()
    this.#options.logger[isRefill ? 'warn' : 'error']({ err: failure.error, slots: slots.map(({ number }) => number) }, 'network namespaces could not be prepared')
    if (isRefill) this.#pauseRefill()
    else this.#blame(slots.length, failure.error)
    await this.#discard(slots)
  }

  /** Those who have waited longest are those that the failed build was for. */
  #blame (count: number, cause: unknown): void {
    const known = cause instanceof BerthError ? cause : undefined
    // Where there is no address for one, there is none for the next.
    const isFinal = known !== undefined && withoutAddresses.has(known.code)
    for (const waiter of this.#waiters.slice(0, count)) {
      waiter.failures++
      if (waiter.failures < attempts && !isFinal) continue
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1)
      waiter.reject(known ?? new BerthError('unavailable', 'network_unavailable', 'the network of the sandbox could not be made on this host; try again, or see the log of the host and: berth doctor', { cause }))
    }
  }

  #pauseRefill (): void {
    const pauseMs = Math.min(refillPauseMs.first * 2 ** this.#refillFailures++, refillPauseMs.longest)
    this.#pause = setTimeout(() => {
      this.#pause = undefined
      this.#pumpSoon()
    }, pauseMs).unref()
  }

  async #discard (slots: readonly NetworkSlot[]): Promise<void> {
    this.#discarding += slots.length
    this.#pumpSoon()
    await this.#options.builder.destroy(slots).catch((error: unknown) => {
      // What is left is removed when the number is built again.
      this.#options.logger.warn({ err: error }, 'the rest of network namespaces that could not be prepared is still there')
    })
    this.#discarding -= slots.length
    for (const { number } of slots) this.#quarantine(number)
    this.#pumpSoon()
  }

  #quarantine (number: number): void {
    const timer = setTimeout(() => {
      this.#quarantined.delete(number)
      this.#free.push(number)
      this.#pumpSoon()
    }, this.#quarantineMs).unref()
    this.#quarantined.set(number, timer)
  }

  #exhausted (): BerthError {
    const { slotCount, block4 } = this.#options.plan
    return new BerthError('exhausted', 'addresses_exhausted', `all ${slotCount - firstNumber} addresses of this host's block ${block4} are in use; stop or delete a sandbox, then try again`)
  }
}

function hostStopping (): BerthError {
  return new BerthError('unavailable', 'host_stopping', 'the daemon is ending; try again when it is back')
}
