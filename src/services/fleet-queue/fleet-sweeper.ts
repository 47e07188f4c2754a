import { BerthError } from '../../errors.ts'
import type { FleetScripts } from './fleet-scripts.ts'

export interface FleetSweeperOptions {
  scripts: FleetScripts
  /** Of this one among all that sweep. */
  name: string
  onError: (error: unknown) => void
  /** It became the one that is to be told of what is next to be due, or is it no more. */
  onTimekeeper: (isTimekeeper: boolean) => void
}

/** The timekeeper comes at least so often; it is replaced after three of these (sweep.lua). Milliseconds. */
const timekeeperMs = 1000
/** The others come so often, and up to twice as late by chance, to see whether there is a timekeeper. Milliseconds. */
const otherMs = 2000
/** Between what is next and what is next after it. Milliseconds. */
const shortestMs = 5

/**
 * Does what time asks for, while somebody watches the queue: delayed tasks become due, lapsed leases are told of, and it is noted that
 * those who claim are there. All hosts do it, and one of them, the timekeeper, at the right time.
 */
export class FleetSweeper {
  readonly #options: FleetSweeperOptions
  #timer: NodeJS.Timeout | undefined
  #nextAt = Infinity
  #isRunning = false
  #isTimekeeper = false

  constructor (options: FleetSweeperOptions) {
    this.#options = options
  }

  run (isRunning: boolean): void {
    this.#isRunning = isRunning
    if (isRunning) this.#arm(0)
    else this.close()
  }

  /** Something became the next to be due. */
  hear (): void {
    if (performance.now() + shortestMs < this.#nextAt) this.#arm(shortestMs)
  }

  /** @throws BerthError unavailable. */
  async sweep (): Promise<void> {
    const [isTimekeeper, nextMs] = await this.#options.scripts.run<[number, number]>('sweep', [this.#options.name])
    this.#become(isTimekeeper === 1)
    const waitMs = nextMs < 0 ? timekeeperMs : Math.max(nextMs, shortestMs)
    this.#arm(this.#isTimekeeper ? Math.min(waitMs, timekeeperMs) : otherMs * (1 + Math.random()))
  }

  close (): void {
    this.#isRunning = false
    clearTimeout(this.#timer)
    this.#nextAt = Infinity
    this.#become(false)
  }

  #become (isTimekeeper: boolean): void {
    const is = isTimekeeper && this.#isRunning
    if (is === this.#isTimekeeper) return
    this.#isTimekeeper = is
    this.#options.onTimekeeper(is)
  }

  #arm (waitMs: number): void {
    clearTimeout(this.#timer)
    if (!this.#isRunning) return
    this.#nextAt = performance.now() + waitMs
    this.#timer = setTimeout(() => {
      this.#nextAt = Infinity
      this.sweep().catch((error: unknown) => {
        // While Redis is away all the others say so.
        if (!(error instanceof BerthError && error.kind === 'unavailable')) this.#options.onError(error)
        this.#arm(timekeeperMs * (1 + Math.random()))
      })
    }, waitMs).unref()
  }
}
