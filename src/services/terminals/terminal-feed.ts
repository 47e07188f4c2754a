import { ChangeSignal } from '../../lib/change-signal.ts'
import { OutputRing } from './output-ring.ts'

export interface TerminalFeedOptions {
  /** Has the pty-host send the output of this terminal from now on, and answers the offset from which. */
  subscribe: () => Promise<number>
  unsubscribe: () => Promise<void>
  /** The subscription could not be had; viewers go on without news until the pty-host is there again. */
  onError: (error: unknown) => void
}

// What viewers who keep up are behind by; the others read the files, which the kernel holds in memory.
const ringBytes = 512 * 1024

/**
 * The live output of one terminal: subscribed to while anybody looks, held in a small ring for all of them.
 * A change wakes them; what it was they look up themselves, each from its own position, so that none holds a queue.
 */
export class TerminalFeed {
  readonly changed = new ChangeSignal()
  readonly #options: TerminalFeedOptions
  readonly #ring = new OutputRing({ maxBytes: ringBytes })
  #viewers = 0
  #subscribing: Promise<void> | undefined

  constructor (options: TerminalFeedOptions) {
    this.#options = options
  }

  /** Offset behind the last byte that is known of. */
  get end (): number { return this.#ring.end }

  /** One more looks: resolves when the output comes, or cannot be had. */
  async join (): Promise<void> {
    this.#viewers++
    await (this.#subscribing ??= this.#subscribe())
  }

  leave (): void {
    if (--this.#viewers > 0) return
    this.#subscribing = undefined
    this.#ring.clear()
    this.#options.unsubscribe().catch(() => { /* gone, and the subscription with it */ })
  }

  /** The connection is another one, on which nothing is subscribed to. */
  renew (): void {
    if (this.#viewers > 0) this.#subscribing = this.#subscribe()
  }

  onOutput (offset: number, bytes: Buffer): void {
    if (this.#viewers === 0) return
    this.#ring.append(offset, bytes)
    this.changed.notify()
  }

  onAdvanced (offset: number): void {
    this.#ring.advance(offset)
    this.changed.notify()
  }

  /** Output from an offset on, as much as `into` has room for; undefined where it is not held. */
  read (from: number, into: Buffer): Buffer | undefined {
    return this.#ring.read(from, into)
  }

  async #subscribe (): Promise<void> {
    try {
      // Frames may have come before this is read.
      this.onAdvanced(await this.#options.subscribe())
    } catch (error) {
      this.#options.onError(error)
    }
  }
}
