/**
 * The queue as its users see it, whatever it is made on. Every promise resolves once what it says is durable.
 *
 *   push ─▶ pending ─claim─▶ scheduled ─start─▶ running ─settle─▶ complete | failed | cancelled
 *              ▲                 │                 │
 *              └── release, or a lease that lapsed ┴── settle as failed, with attempts left
 *
 * A claim is a lease with a fencing number: while it is renewed nobody else is handed the task; once it has lapsed anybody may be,
 * and from then on the fencing number of the first is refused (`stale_claim`).
 */
import type { TaskEnd } from '../../schemas/task.ts'
import type { NewTask, StartFacts, TaskRecord } from './task-record.ts'

/** What a host has left, or has altogether. */
export interface Room {
  cpuMillis: number
  memoryBytes: number
}

export interface ClaimRequest {
  /** Who claims: the id of a host. */
  owner: string
  pools: readonly string[]
  /** At most so many. */
  limit: number
  leaseMs: number
  /** Together they request no more than this. */
  room: Room
  /** Of the whole host: one that waits too long for room is waited for if it fits in here. */
  capacity: Room
  /** Labels of the host; tasks that want a label which it has not are for others. */
  labels?: Readonly<Record<string, string>>
}

/** Names one delivery of a task. */
export interface ClaimId {
  taskId: string
  fence: number
}

export interface Claim extends ClaimId {
  task: TaskRecord
  /** Milliseconds since the epoch. */
  leaseUntil: number
}

export interface Outcome {
  status: 'complete' | 'failed' | 'cancelled'
  end: TaskEnd
  /** failed: whether another attempt may end otherwise. */
  isRetryable: boolean
}

export interface Renewal extends ClaimId {
  /** false: the lease had lapsed and somebody else has the task, or it is gone: what was begun for it is to be ended. */
  isHeld: boolean
  isCancelRequested: boolean
}

export interface PoolCounts {
  pool: string
  delayed: number
  pending: number
  scheduled: number
  running: number
  deadLetters: number
  /** Milliseconds since the epoch at which the one that waits longest became due. */
  oldestPendingAt?: number
}

/** How many tasks at once may have a label: of each of its values, or of one. */
export interface LabelLimit {
  label: string
  value?: string
  max: number
}

export interface TaskQueue {
  /** All or none. A key that was pushed before answers the task it was pushed with. */
  push: (tasks: readonly NewTask[]) => Promise<TaskRecord[]>
  /** What may be begun now, in the order of priority, then by turns between labels, then by age. Answers at once, with none if need be. */
  claim: (request: ClaimRequest) => Promise<Claim[]>
  /** The claims that this owner has and nobody else has taken, lapsed or not, each with its lease renewed: for a host that comes back. */
  held: (owner: string, leaseMs: number) => Promise<Claim[]>
  /** scheduled → running. @throws BerthError conflict `stale_claim`. */
  start: (claim: ClaimId, facts: StartFacts) => Promise<void>
  renew: (claims: readonly ClaimId[], leaseMs: number) => Promise<Renewal[]>
  /**
   * Ends a delivery, once: the same outcome again is fine. A task that was to be cancelled is never tried again.
   * @throws BerthError conflict `stale_claim`.
   */
  settle: (claim: ClaimId, outcome: Outcome) => Promise<TaskRecord>
  /**
   * Gives a delivery back without counting it as an attempt; after too many of those it is a dead letter (`undeliverable`).
   * `isFault` false: nobody's fault (the host drains), and not one of the too many. A task that was to be cancelled is cancelled.
   * @throws BerthError conflict `stale_claim`.
   */
  release: (claim: ClaimId, options: { delayMs: number, isFault: boolean, message?: string }) => Promise<TaskRecord>
  /** Cancels what waits at once; asks for the end of what runs; leaves what has ended. @throws BerthError not_found `task_not_found`. */
  cancel: (taskId: string) => Promise<TaskRecord>
  /** Queues a task that has failed or was cancelled again, with as many attempts as it had. @throws BerthError conflict `invalid_state`. */
  retry: (taskId: string) => Promise<TaskRecord>
  stats: () => Promise<PoolCounts[]>
  /** Calls back when there may be something to claim, or to be cancelled; answers how to stop. */
  watch: (listener: (news: { kind: 'available' } | { kind: 'cancel', taskId: string }) => void) => () => void
  close: () => Promise<void>
}
