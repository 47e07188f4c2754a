export interface DueTimerOptions {
  now: () => number
  /** When there is next something to do; undefined: never. */
  next: () => number | undefined
  onDue: () => void
}

/** The wall clock may be set, timers do not follow it: so often it is looked at all the same. */
const longestMs = 60_000
/** What could not be done at its time is tried again after this. */
const shortestMs = 1

/** One timer for the next of many times on the wall clock. Keeps no process alive. */
export class DueTimer {
  readonly #options: DueTimerOptions
  #timer: NodeJS.Timeout | undefined
  #isStopped = false

  constructor (options: DueTimerOptions) {
    this.#options = options
  }

  /** To be called when what is next may have changed. `atLeastMs`: not before this long from now. */
  arm (atLeastMs = shortestMs): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#isStopped) return
    const next = this.#options.next()
    if (next === undefined) return
    const waitMs = Math.min(Math.max(next - this.#options.now(), atLeastMs), longestMs)
    this.#timer = setTimeout(() => {
      if (this.#options.now() >= next) this.#options.onDue()
      else this.arm()
    }, waitMs)
    this.#timer.unref?.()
  }

  stop (): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }
}
