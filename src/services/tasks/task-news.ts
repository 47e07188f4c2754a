import { setImmediate } from 'node:timers/promises'
import type { EventLog } from '../events/event-log.ts'
import type { TaskOutbox } from './task-outbox.ts'

export interface TaskNewsOptions {
  outbox: TaskOutbox
  events: EventLog
  /** Told of what could not be taken over; it is tried again. */
  onError?: (error: unknown) => void
  /** Pause after an error, in milliseconds. */
  retryAfterMs?: number
  /** How long what was taken over stays in the outbox, so that one fsync serves many. In milliseconds. */
  confirmAfterMs?: number
}

const batchSize = 500
/** Beyond so many the outbox is emptied before its time. */
const maxUnconfirmed = 5000

/**
 * Takes news from the outbox to the event log, in order and each exactly once: the event log keeps, in the transaction of the events,
 * how far it has come, and the outbox is emptied only of what the event log has on the disk. So either may die at any instant, power
 * cut or not. An event log that was begun anew gets what the outbox still has. No trouble of the event log holds up a task.
 */
export class TaskNews {
  readonly #outbox: TaskOutbox
  readonly #events: EventLog
  readonly #onError: (error: unknown) => void
  readonly #retryAfterMs: number
  readonly #confirmAfterMs: number
  #relayed = 0
  #confirmed = 0
  #work: Promise<void> | undefined
  #isOutdated = false
  #isAsked = false
  #isClosed = false
  #retryTimer: NodeJS.Timeout | undefined
  #confirmTimer: NodeJS.Timeout | undefined

  constructor ({ outbox, events, onError = () => {}, retryAfterMs = 5000, confirmAfterMs = 1000 }: TaskNewsOptions) {
    this.#outbox = outbox
    this.#events = events
    this.#onError = onError
    this.#retryAfterMs = retryAfterMs
    this.#confirmAfterMs = confirmAfterMs
  }

  /** Begins with what an earlier daemon left. */
  start (): void {
    this.#relayed = this.#events.relayed(this.#outbox.origin)
    // Fewer were given out than were taken over: the task database is older than the event log, and its numbers come once more.
    this.#isOutdated = this.#outbox.lastSeq < this.#relayed
    this.#outbox.listen(() => this.#ask())
    this.#ask()
  }

  /** Takes over what there is, as well as it can; never fails. */
  async close (): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#outbox.listen(undefined)
    clearTimeout(this.#retryTimer)
    clearTimeout(this.#confirmTimer)
    await this.#work
    await this.#attempt(async () => {
      await this.#relay()
      await this.#confirm()
    })
  }

  #ask (): void {
    this.#isAsked = true
    if (this.#isClosed || this.#retryTimer !== undefined) return
    this.#work ??= this.#pump().finally(() => { this.#work = undefined })
  }

  async #pump (): Promise<void> {
    // What is asked for within a turn of the event loop is taken over together, and after those who wait for the queue were answered.
    await setImmediate()
    while (this.#isAsked) {
      this.#isAsked = false
      const isDone = await this.#attempt(async () => {
        await this.#relay()
        if (this.#relayed - this.#confirmed > maxUnconfirmed) await this.#confirm()
      })
      if (!isDone) return this.#retryLater()
    }
    if (this.#isClosed || this.#relayed === this.#confirmed) return
    this.#confirmTimer ??= setTimeout(() => {
      this.#confirmTimer = undefined
      void this.#attempt(() => this.#confirm()).then(isDone => isDone || this.#retryLater())
    }, this.#confirmAfterMs).unref()
  }

  async #relay (): Promise<void> {
    if (this.#isOutdated) {
      await this.#outbox.renew()
      this.#relayed = 0
      this.#isOutdated = false
    }
    const { origin } = this.#outbox
    for (;;) {
      const batch = this.#outbox.read(this.#relayed, batchSize)
      if (batch.length === 0) return
      this.#events.relay(origin, batch)
      this.#relayed = batch.at(-1)!.originSeq
      await setImmediate()
    }
  }

  async #confirm (): Promise<void> {
    const upTo = this.#relayed
    if (upTo === this.#confirmed) return
    this.#events.relay(this.#outbox.origin, [], { isDurable: true })
    await this.#outbox.drop(upTo)
    this.#confirmed = upTo
  }

  #retryLater (): void {
    this.#isAsked = true
    if (this.#isClosed) return
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = undefined
      this.#ask()
    }, this.#retryAfterMs).unref()
  }

  async #attempt (work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (error) {
      this.#onError(error)
      return false
    }
  }
}
