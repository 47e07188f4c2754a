/** The queue of a fleet on Redis: what its users are given. */
import type { TaskStatus } from '../../schemas/task.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import type { LabelLimit, TaskQueue } from '../tasks/task-queue.ts'
import type { TaskRecord } from '../tasks/task-record.ts'

export interface FleetQueueOptions {
  redis: RedisConnection
  /** The same in every process of a fleet. */
  fairLabel: string
  labelLimits: readonly LabelLimit[]
  /** As of the local queue. */
  maxReturns?: number
  reserveAfterMs?: number
  /** Ended tasks are kept for so long. */
  retentionMs?: number
  /** Its users hear of these pools alone when they watch it, and should name those they claim from; of every pool without it. */
  pools?: readonly string[]
  /** Milliseconds since the epoch, in the place of the time of Redis, which is the time of the queue; serves tests. */
  now?: () => number
  onError?: (error: unknown) => void
}

export interface FleetTaskFilter {
  status?: readonly TaskStatus[]
  labels?: Readonly<Record<string, string>>
  pool?: string
  /** Only of these pools. */
  pools?: readonly string[]
  since?: string
  until?: string
  isDeadLetter?: boolean
}

/** Tasks of a fleet as they are kept. */
export interface FleetTaskTable {
  get: (id: string) => Promise<TaskRecord | undefined>
  /** Newest first. @throws BerthError invalid_argument `invalid_cursor`. */
  list: (filter: FleetTaskFilter & { limit: number, cursor?: string }) => Promise<{ records: TaskRecord[], nextCursor?: string }>
  /** Whether it was there. @throws BerthError conflict `invalid_state` unless it has ended. */
  remove: (id: string) => Promise<boolean>
  /** Calls back when a task may have changed, and whenever news may have been missed; answers how to stop. */
  watch: (id: string, listener: () => void) => () => void
  /** Forgets ended tasks past their time, a bounded number; answers how many. Any process may call it at any time. */
  prune: () => Promise<number>
}

export interface FleetQueue {
  queue: TaskQueue
  table: FleetTaskTable
  /** Does what is due by now, and tells of it. While somebody watches the queue that happens by itself. */
  sweep: () => Promise<void>
  close: () => Promise<void>
}
