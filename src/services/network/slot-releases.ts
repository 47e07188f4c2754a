/** Slots on their way back: those that come while others are being destroyed go together in the next round. */
import type { NetworkSlot } from './network-plan.ts'

interface SlotReleasesOptions {
  destroy: (slots: readonly NetworkSlot[]) => Promise<void>
  onReleased: (slot: NetworkSlot) => void
}

interface Release {
  slot: NetworkSlot
  done: Promise<void>
  resolve: () => void
  reject: (error: unknown) => void
}

export class SlotReleases {
  readonly #options: SlotReleasesOptions
  /** By the slot's number. */
  readonly #pending = new Map<number, Release>()
  #queue: Release[] = []
  #isRunning = false

  constructor (options: SlotReleasesOptions) {
    this.#options = options
  }

  /** How many are on their way. */
  get size (): number {
    return this.#pending.size
  }

  /** Destroys a slot; one that is on its way already is waited for. */
  async add (slot: NetworkSlot): Promise<void> {
    let release = this.#pending.get(slot.number)
    if (!release) {
      const { promise: done, resolve, reject } = Promise.withResolvers<void>()
      release = { slot, done, resolve, reject }
      this.#pending.set(slot.number, release)
      this.#queue.push(release)
      void this.#run()
    }
    await release.done
  }

  async #run (): Promise<void> {
    if (this.#isRunning) return
    this.#isRunning = true
    // Those that are given back in the same turn come along.
    await new Promise(resolve => setImmediate(resolve))
    while (this.#queue.length > 0) {
      const round = this.#queue
      this.#queue = []
      const hasWorked = await this.#options.destroy(round.map(({ slot }) => slot)).then(() => true, () => false)
      if (hasWorked) for (const release of round) this.#settle(release)
      // Destroying is idempotent: one by one shows which it is that cannot be destroyed.
      else for (const release of round) await this.#options.destroy([release.slot]).then(() => this.#settle(release), (error: unknown) => this.#settle(release, { error }))
    }
    this.#isRunning = false
  }

  #settle (release: Release, failure?: { error: unknown }): void {
    this.#pending.delete(release.slot.number)
    if (failure) return release.reject(failure.error)
    this.#options.onReleased(release.slot)
    release.resolve()
  }
}
