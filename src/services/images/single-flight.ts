import { rejectWhenAborted } from '../../lib/abort-race.ts'

/**
 * Work shared by all who ask for it while it runs: one run per key.
 *
 * A failure reaches everyone who waits; the next call runs again. A waiter's abort ends its own wait alone:
 * the work goes on, for the others and for the next to ask.
 */
export class SingleFlight<T> {
  readonly #running = new Map<string, Promise<T>>()

  /** Joins the run under this key, or starts one. */
  async run (key: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted()
    let running = this.#running.get(key)
    if (!running) {
      running = work().finally(() => this.#running.delete(key))
      // With every waiter gone a failure has nobody to go to.
      running.catch(() => {})
      this.#running.set(key, running)
    }
    return rejectWhenAborted(running, signal)
  }

  /** Resolves when no work is going on, however it ended. */
  async settled (): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running.values())
  }
}
