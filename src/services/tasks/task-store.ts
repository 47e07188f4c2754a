/** The tasks of this host on SQLite: one connection and one group commit, seen as a queue, as a table, and as news. */
import type { DatabaseSync } from 'node:sqlite'
import { LocalTaskQueue } from './local-task-queue.ts'
import type { LabelLimit } from './task-queue.ts'
import { TaskOutbox } from './task-outbox.ts'
import { TaskTable } from './task-table.ts'

export interface TaskQueueOptions {
  /** The label between whose values tasks of one priority take turns. */
  fairLabel: string
  /** A limit for one value of a label counts in the place of that for all of its values. */
  labelLimits: readonly LabelLimit[]
  /** The faulty return that makes so many, without a run to an end between them, ends a task as `undeliverable`; 10 without it. */
  maxReturns?: number
  /** A task that has been due for so long is waited for with the room that it needs; 30 s without it. */
  reserveAfterMs?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

export interface TaskStore {
  queue: LocalTaskQueue
  table: TaskTable
  outbox: TaskOutbox
  /** Carries out what was asked for already, refuses what comes later, and closes the database. */
  close: () => Promise<void>
}

/** `db`: as opened by openTaskDatabase. */
export function openTaskStore ({ db, options }: { db: DatabaseSync, options: TaskQueueOptions }): TaskStore {
  throw new Error('not built yet')
}
