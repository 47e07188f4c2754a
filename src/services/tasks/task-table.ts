import type { TaskStatus } from '../../schemas/task.ts'
import type { TaskRecord } from './task-record.ts'

export interface TaskFilter {
  /** One of these. */
  status?: readonly TaskStatus[]
  /** All of these. */
  labels?: Readonly<Record<string, string>>
  pool?: string
  /** Created at this time or later; ISO 8601. */
  since?: string
  /** Created before this time; ISO 8601. */
  until?: string
  isDeadLetter?: boolean
}

/** Tasks as they are kept. What it reads is durable. */
export class TaskTable {
  get (id: string): TaskRecord | undefined { throw new Error('not built yet') }

  /** Newest first. @throws BerthError invalid_argument `invalid_cursor`. */
  list (filter: TaskFilter & { limit: number, cursor?: string }): { records: TaskRecord[], nextCursor?: string } { throw new Error('not built yet') }

  /** What is scheduled or running, whoever has it. */
  claimed (): TaskRecord[] { throw new Error('not built yet') }

  /** Tasks with outputs that were ever handed out or have ended, and whose outputs are not done. */
  unfinishedOutputs (): TaskRecord[] { throw new Error('not built yet') }

  markOutputsDone (id: string): Promise<void> { throw new Error('not built yet') }

  /** Answers false where there is none. @throws BerthError conflict `invalid_state` unless it has ended. */
  remove (id: string): Promise<boolean> { throw new Error('not built yet') }

  /**
   * Removes ended tasks, those first that ended first, in batches between which others run; answers their ids.
   * One whose outputs are not done stays until it is twice as old.
   */
  prune (limits: { maxAgeMs: number, maxCount: number }): Promise<string[]> { throw new Error('not built yet') }

  /** Calls back after each commit that changed the task, its removal too; answers how to stop. */
  watch (id: string, listener: () => void): () => void { throw new Error('not built yet') }
}
