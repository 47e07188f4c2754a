/** Who may try a destination that does not take anything at the moment. */
import { performance } from 'node:perf_hooks'

export interface Backoff {
  /** Longest pause after the first failure, doubled for each further one. */
  firstMs: number
  mostMs: number
}

/** The right to try. Given back by exactly one of its methods; the others do nothing then. */
export interface Turn {
  /** The destination was failing when this turn was given. */
  readonly isProbe: boolean
  release: () => void
}

interface Waiter {
  notBefore: number
  grant: (turn: Turn) => void
}

/**
 * A circuit breaker for all outputs that share a destination. While it fails, one of them tries at a time, with growing pauses;
 * once it takes something again, at most `width` that have something to make up for do so at once. There is one timer, however many wait.
 */
export class DestinationGate {
  readonly #backoff: Backoff
  readonly #width: number
  readonly #waiting: Waiter[] = []
  #taken = 0
  #failures = 0
  #nextProbeAt = 0
  #timer: NodeJS.Timeout | undefined

  constructor (options: { backoff: Backoff, width: number }) {
    this.#backoff = options.backoff
    this.#width = options.width
  }

  get isFailing (): boolean {
    return this.#failures > 0
  }

  /** Waits for a turn, at least `pauseMs` unless the destination fails, and then as long as that is waited for. undefined on abort. */
  enter (pauseMs: number, signal: AbortSignal): Promise<Turn | undefined> {
    if (signal.aborted) return Promise.resolve(undefined)
    return new Promise(resolve => {
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
        this.#pump()
        resolve(undefined)
      }
      const waiter: Waiter = {
        notBefore: performance.now() + pauseMs,
        grant: turn => {
          signal.removeEventListener('abort', onAbort)
          resolve(turn)
        },
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(waiter)
      this.#pump()
    })
  }

  /** It took something. */
  succeed (): void {
    if (!this.isFailing) return
    this.#failures = 0
    this.#nextProbeAt = 0
    this.#pump()
  }

  /** It did not. `retryAfterMs`: how long it wants to be left alone. */
  fail (retryAfterMs = 0): void {
    this.#failures++
    this.#nextProbeAt = performance.now() + Math.max(retryAfterMs, jitter(this.#backoff, this.#failures))
  }

  #pump (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    while (this.#waiting.length > 0 && this.#taken < (this.isFailing ? 1 : this.#width)) {
      const now = performance.now()
      const at = this.isFailing ? this.#probe(now) : this.#waiting.findIndex(({ notBefore }) => notBefore <= now)
      if (at === -1) {
        this.#wakeAt(this.isFailing ? this.#nextProbeAt : this.#waiting.reduce((soonest, { notBefore }) => Math.min(soonest, notBefore), Infinity))
        return
      }
      const [waiter] = this.#waiting.splice(at, 1)
      waiter!.grant(this.#turn())
    }
  }

  #probe (now: number): number {
    return now >= this.#nextProbeAt ? 0 : -1
  }

  #wakeAt (time: number): void {
    this.#timer = setTimeout(() => { this.#pump() }, Math.max(1, Math.ceil(time - performance.now())))
  }

  #turn (): Turn {
    this.#taken++
    let isTaken = true
    return {
      isProbe: this.isFailing,
      release: () => {
        if (!isTaken) return
        isTaken = false
        this.#taken--
        this.#pump()
      },
    }
  }
}

/** Full jitter: anything between nothing and the longest pause for so many failures. */
export function jitter ({ firstMs, mostMs }: Backoff, failures: number): number {
  return Math.random() * Math.min(mostMs, firstMs * 2 ** Math.min(30, failures - 1))
}
