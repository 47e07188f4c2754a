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
  /** Added to the time of Redis, which is the time of the queue; serves tests. */
  clockOffsetMs?: () => number
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
  close: () => Promise<void>
}
