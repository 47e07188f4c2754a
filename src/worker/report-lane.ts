import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import { DeadlineError } from '../lib/deadline.ts'
import { boundedCall } from './bounded-call.ts'

export interface ReportLaneOptions {
  /** Who is told, for the log. */
  target: string
  /** At most so many calls at once. */
  width: number
  callTimeoutMs: number
  /** The longest pause after the first failure, and the longest of all. */
  backoff: { firstMs: number, maxMs: number }
  logger: Pick<Logger, 'warn' | 'info'>
}

interface Job {
  order: number
  what: string
  work: () => Promise<unknown>
  isFinal: (error: unknown) => boolean
  failures: number
  /** Of performance.now. */
  notBefore: number
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
}

/** Thrown to those who wait when the lane closes: nothing is known of what they asked for. */
export class LaneClosedError extends Error {
  constructor () {
    super('the daemon ends')
    this.name = 'LaneClosedError'
  }
}

/**
 * Calls to one target, begun in the order in which they were asked for, a few at a time, each repeated until it succeeds or is refused
 * for good. A target that is away is asked by one call at a time, with growing pauses; a call that fails alone waits alone.
 */
export class ReportLane {
  readonly #options: ReportLaneOptions
  #jobs: Job[] = []
  #asked = 0
  #running = 0
  /** Failures in a row that say that the target is away. */
  #awayFor = 0
  #resumeAt = 0
  #timer: NodeJS.Timeout | undefined
  readonly #closing = new AbortController()

  constructor (options: ReportLaneOptions) {
    this.#options = options
  }

  /** Resolves with what the work does; rejects with an error that is final, or with LaneClosedError. */
  do<T> (what: string, work: () => Promise<T>, isFinal: (error: unknown) => boolean): Promise<T> {
    if (this.#closing.signal.aborted) return Promise.reject(new LaneClosedError())
    return new Promise<T>((resolve, reject) => {
      this.#jobs.push({ order: this.#asked++, what, work, isFinal, failures: 0, notBefore: 0, resolve: resolve as (value: unknown) => void, reject })
      this.#pump()
    })
  }

  /** The target has answered somebody: it is asked again at once. */
  wake (): void {
    if (this.#awayFor === 0) return
    this.#resumeAt = 0
    this.#pump()
  }

  /** Begins nothing more; calls under way end unheard. */
  close (): void {
    this.#closing.abort()
    clearTimeout(this.#timer)
    for (const { reject } of this.#jobs.splice(0)) reject(new LaneClosedError())
  }

  #pump (): void {
    clearTimeout(this.#timer)
    while (!this.#closing.signal.aborted && this.#jobs.length > 0 && this.#running < (this.#awayFor > 0 ? 1 : this.#options.width)) {
      const now = performance.now()
      const index = now < this.#resumeAt ? -1 : this.#jobs.findIndex(({ notBefore }) => notBefore <= now)
      if (index === -1) {
        const at = Math.max(this.#resumeAt, this.#jobs.reduce((first, { notBefore }) => Math.min(first, notBefore), Infinity))
        this.#timer = setTimeout(() => this.#pump(), Math.ceil(at - now))
        return
      }
      void this.#carryOut(this.#jobs.splice(index, 1)[0]!)
    }
  }

  async #carryOut (job: Job): Promise<void> {
    this.#running++
    try {
      const value = await boundedCall({ timeoutMs: this.#options.callTimeoutMs, signal: this.#closing.signal }, job.what, job.work)
      this.#isBack()
      job.resolve(value)
    } catch (error) {
      if (this.#closing.signal.aborted) job.reject(new LaneClosedError())
      else if (job.isFinal(error)) {
        this.#isBack()
        job.reject(error)
      } else this.#again(job, error)
    } finally {
      this.#running--
      this.#pump()
    }
  }

  #again (job: Job, error: unknown): void {
    const { target, logger } = this.#options
    const fields = { target, err: error }
    if (isAway(error)) {
      if (this.#awayFor === 0) logger.warn(fields, 'reports of deliveries wait: who is to be told does not answer')
      this.#resumeAt = performance.now() + this.#pause(this.#awayFor++)
    } else {
      if (job.failures === 0) logger.warn({ ...fields, report: job.what }, 'a report of a delivery failed; it is tried again')
      job.notBefore = performance.now() + this.#pause(job.failures++)
    }
    const later = this.#jobs.findIndex(({ order }) => order > job.order)
    this.#jobs.splice(later === -1 ? this.#jobs.length : later, 0, job)
  }

  #isBack (): void {
    if (this.#awayFor === 0) return
    this.#awayFor = 0
    this.#resumeAt = 0
    this.#options.logger.info({ target: this.#options.target }, 'reports of deliveries go on')
  }

  /** Full jitter, after a quarter of the pause at least. */
  #pause (failures: number): number {
    const { firstMs, maxMs } = this.#options.backoff
    const longest = Math.min(maxMs, firstMs * 2 ** Math.min(failures, 20))
    return longest * (0.25 + 0.75 * Math.random())
  }
}

/** Nobody answers, as opposed to an answer that refuses. */
function isAway (error: unknown): boolean {
  return error instanceof DeadlineError || (error instanceof BerthError && (error.kind === 'unavailable' || error.kind === 'timed_out'))
}
