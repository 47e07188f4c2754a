/**
 * What becomes of a task, as changes of the task alone: who may ask for them is decided before.
 *
 *   pending ─deliver─▶ scheduled ─begin─▶ running ─finish─▶ complete | failed | cancelled ─requeue─▶ pending
 *      ▲                   └──────┬──────────┘└─ finish, with attempts left ─┐
 *      └──────── giveBack ────────┴──────────────────────────────────────────┘
 */
import type { TaskEnd } from '../../schemas/task.ts'
import type { AttemptRecord, StartFacts } from './task-record.ts'
import type { Outcome } from './task-queue.ts'
import { isoTime, type KeptTask } from './task-rows.ts'

/** Deliveries that a task remembers; of more, those that did not count go first, then the oldest. */
const maxKeptAttempts = 200
/** Pauses differ by so much of their length, so that what failed together is not tried again together. */
const jitterShare = 0.1

export function deliver (task: KeptTask, { owner, leaseUntil, now }: { owner: string, leaseUntil: number, now: number }): void {
  task.status = 'scheduled'
  task.isDue = false
  task.fence++
  task.owner = owner
  task.leaseUntil = leaseUntil
  task.attempts.push({ number: task.attempt, status: 'scheduled', claimedAt: isoTime(now), fence: task.fence })
  if (task.attempts.length > maxKeptAttempts) {
    const returned = task.attempts.findIndex(({ status }) => status === 'returned')
    task.attempts.splice(Math.max(returned, 0), 1)
  }
}

export function begin (task: KeptTask, facts: StartFacts): void {
  task.status = 'running'
  Object.assign(delivery(task), { ...facts, status: 'running' } satisfies Partial<AttemptRecord>)
}

export function finish (task: KeptTask, { status, end, isRetryable }: Outcome, now: number): void {
  const mayFollow = status === 'failed' && task.cancelAt === undefined && isRetryable && task.attempt < task.lastAttempt
  const final = status === 'failed' && task.cancelAt !== undefined ? 'cancelled' : status
  const at = Date.parse(end.at)
  const endedAt = Number.isNaN(at) ? now : at
  Object.assign(delivery(task), { status: final, end, endedAt: isoTime(endedAt) } satisfies Partial<AttemptRecord>)
  task.faults = 0
  letGo(task)
  if (!mayFollow) return conclude(task, { status: final, end, endedAt })
  putBack(task, now + pauseAfter(task), now)
  task.attempt++
}

/** `maxFaults`: the fault that ends it. A delivery of a fleet that nobody is to blame for goes back to the fleet: here it has ended. */
export function giveBack (task: KeptTask, options: { delayMs: number, isFault: boolean, message: string | undefined, maxFaults: number, now: number }): void {
  const { delayMs, isFault, message, maxFaults, now } = options
  const at = isoTime(now)
  const said = message === undefined ? {} : { message }
  Object.assign(delivery(task), { status: 'returned', endedAt: at, end: { reason: isFault ? 'lost' : 'drained', at, ...said } } satisfies Partial<AttemptRecord>)
  letGo(task)
  if (isFault) task.faults++
  if (task.cancelAt !== undefined) return conclude(task, { status: 'cancelled', end: { reason: 'cancelled', at, ...said }, endedAt: now })
  if (!isFault && task.report !== undefined) return conclude(task, { status: 'cancelled', end: { reason: 'drained', at, ...said }, endedAt: now })
  if (task.faults < maxFaults) return putBack(task, now + delayMs, now)
  const sum = `handed out ${task.faults} times without being run to an end`
  conclude(task, { status: 'failed', end: { reason: 'undeliverable', at, message: message === undefined ? sum : `${sum}; at last: ${message}` }, endedAt: now })
}

export function cancelWaiting (task: KeptTask, now: number): void {
  task.cancelAt = now
  endWaiting(task, { status: 'cancelled', end: { reason: 'cancelled', at: isoTime(now) } }, now)
}

/** Ends what was never begun. */
export function endWaiting (task: KeptTask, { status, end }: Pick<Outcome, 'status' | 'end'>, now: number): void {
  conclude(task, { status, end, endedAt: now })
}

/** As many attempts as it had; they are numbered on. */
export function requeue (task: KeptTask, now: number): void {
  const used = task.attempts.reduce((most, { number, status }) => status === 'returned' ? most : Math.max(most, number), 0)
  task.attempt = used + 1
  task.lastAttempt = used + task.spec.maxAttempts
  task.faults = 0
  task.cancelAt = undefined
  task.endedAt = undefined
  task.end = undefined
  task.isDeadLetter = false
  task.areOutputsDone = task.spec.outputs.length === 0
  putBack(task, now, now)
}

/** The delivery that is under way. */
function delivery (task: KeptTask): AttemptRecord {
  return task.attempts.at(-1)!
}

function letGo (task: KeptTask): void {
  task.owner = undefined
  task.leaseUntil = undefined
}

function putBack (task: KeptTask, availableAt: number, now: number): void {
  task.status = 'pending'
  task.availableAt = availableAt
  task.isDue = availableAt <= now
}

function conclude (task: KeptTask, { status, end, endedAt }: { status: Outcome['status'], end: TaskEnd, endedAt: number }): void {
  task.status = status
  task.isDue = false
  task.end = end
  task.endedAt = endedAt
  // What comes of a delivery is for its fleet to say.
  task.isDeadLetter = task.report === undefined && status === 'failed' && (task.attempt > 1 || end.reason === 'setup_failed' || end.reason === 'undeliverable')
}

/** The pause after the attempt that has just ended, in milliseconds. */
function pauseAfter ({ attempt, lastAttempt, spec }: KeptTask): number {
  const failed = attempt - (lastAttempt - spec.maxAttempts)
  const pause = Math.min(spec.retry.maxBackoffMs, spec.retry.backoffMs * 2 ** (failed - 1))
  return Math.round(pause * (1 + jitterShare * (2 * Math.random() - 1)))
}
