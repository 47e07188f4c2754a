import { setTimeout as sleep } from 'node:timers/promises'
import { RegistryError } from './registry-errors.ts'

const firstDelayMs = 150
const maxDelayMs = 4_000

export interface RetryLimits {
  /** Tries in a row that bring nothing. */
  maxTries: number
  signal: AbortSignal
}

/** Counts tries that brought nothing and waits between them: full jitter, or as long as the registry asks for. */
export class RetryBudget {
  readonly #limits: RetryLimits
  #failures = 0

  constructor (limits: RetryLimits) {
    this.#limits = limits
  }

  /** To be called when something came of a try. */
  progressed (): void {
    this.#failures = 0
  }

  /**
   * Returns when it is time for the next try.
   *
   * @throws the error itself when there is no point in another, or the signal's reason.
   */
  async wait (error: unknown): Promise<void> {
    const { signal, maxTries } = this.#limits
    signal.throwIfAborted()
    this.#failures++
    if (!(error instanceof RegistryError) || !error.isTransient || this.#failures >= maxTries) throw error
    const backoff = Math.random() * Math.min(firstDelayMs * 2 ** this.#failures, maxDelayMs)
    await sleep(Math.max(backoff, error.retryAfterMs ?? 0), undefined, { signal }).catch(() => signal.throwIfAborted())
  }
}
