import type { SandboxRecord } from './sandbox-record.ts'

export type Expiry = 'timed_out' | 'idle'

/** Browsers and programs come back to a daemon within seconds. */
const returnMs = 30_000

/**
 * The deadlines of one sandbox, as absolute times in its record. They are only ever extended, and paused time does not count.
 * Idle means: no exec runs, nobody looks at a terminal, and neither began for idleTimeoutMs, whatever the main program does.
 */
export class SandboxClock {
  /** Whether the record has times that are not on disk yet. */
  isDirty = false
  readonly #record: SandboxRecord
  #activities = 0

  constructor (record: SandboxRecord) {
    this.#record = record
  }

  /** A container has started: both deadlines begin. */
  start (): void {
    const now = Date.now()
    const { timeoutMs, idleTimeoutMs } = this.#record
    this.#record.deadlineAt = timeoutMs === undefined ? undefined : isoTime(now + timeoutMs)
    this.#record.idleDeadlineAt = idleTimeoutMs === undefined ? undefined : isoTime(now + idleTimeoutMs)
    this.#record.pausedRemainingMs = undefined
  }

  stop (): void {
    this.#record.pausedRemainingMs = undefined
    this.#record.idleDeadlineAt = undefined
    this.#record.deadlineAt = undefined
  }

  pause (): void {
    const now = Date.now()
    const left = (at: string | undefined) => at === undefined ? undefined : Math.max(0, Date.parse(at) - now)
    this.#record.pausedRemainingMs = { deadline: left(this.#record.deadlineAt), idle: left(this.#record.idleDeadlineAt) }
    this.#record.deadlineAt = undefined
    this.#record.idleDeadlineAt = undefined
  }

  resume (): void {
    const now = Date.now()
    const { deadline, idle } = this.#record.pausedRemainingMs ?? {}
    this.#record.deadlineAt = deadline === undefined ? undefined : isoTime(now + deadline)
    this.#record.idleDeadlineAt = idle === undefined ? undefined : isoTime(now + idle)
    this.#record.pausedRemainingMs = undefined
  }

  /** Moves the deadline to this long from now, if that is later than it is; for one that has not started, from its start. */
  extend (timeoutMs: number): void {
    const { pausedRemainingMs: paused, deadlineAt, startedAt } = this.#record
    const now = Date.now()
    const leftMs = paused ? paused.deadline ?? 0 : deadlineAt === undefined ? 0 : Date.parse(deadlineAt) - now
    if (timeoutMs <= leftMs) return
    this.#record.timeoutMs = timeoutMs
    if (paused) paused.deadline = timeoutMs
    else if (startedAt !== undefined) this.#record.deadlineAt = isoTime(now + timeoutMs)
  }

  /** Something is being done in the sandbox; answers how to say that it is over. */
  beginActivity (): () => void {
    this.#activities++
    this.#renewIdle()
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      this.#activities--
      this.#renewIdle()
    }
  }

  /** Another daemon has taken over: who was busy there, at a terminal or with a request, has a while to come back before it counts as idle. */
  adopt (): void {
    const { idleTimeoutMs, idleDeadlineAt } = this.#record
    if (idleTimeoutMs === undefined || idleDeadlineAt === undefined) return
    const earliest = Date.now() + Math.min(idleTimeoutMs, returnMs)
    if (Date.parse(idleDeadlineAt) >= earliest) return
    this.#record.idleDeadlineAt = isoTime(earliest)
    this.isDirty = true
  }

  /** What has expired at this time, if anything. */
  expired (now: number): Expiry | undefined {
    const { deadlineAt, idleDeadlineAt } = this.#record
    if (deadlineAt !== undefined && Date.parse(deadlineAt) <= now) return 'timed_out'
    if (idleDeadlineAt !== undefined && this.#activities === 0 && Date.parse(idleDeadlineAt) <= now) return 'idle'
    return undefined
  }

  #renewIdle (): void {
    if (this.#record.idleTimeoutMs === undefined || this.#record.idleDeadlineAt === undefined) return
    this.#record.idleDeadlineAt = isoTime(Date.now() + this.#record.idleTimeoutMs)
    this.isDirty = true
  }
}

function isoTime (ms: number): string {
  return new Date(ms).toISOString()
}
