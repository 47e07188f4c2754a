import type { OutputSpec } from '../../schemas/output.ts'
import type { StatusEntry } from './output-sink.ts'

/** What outputs must know of a task. */
export interface OutputTask {
  id: string
  outputs: readonly OutputSpec[]
  labels: Readonly<Record<string, string>>
  /** Its log has ended, unless it is tried again. */
  isEnded: () => boolean
  /** Everything that became of it so far, by number. */
  statuses: () => readonly StatusEntry[]
}

/** Whether it waits for an attempt, so that nothing is written to its log. */
export function isWaiting (task: OutputTask): boolean {
  return !task.isEnded() && task.statuses().at(-1)?.status === 'pending'
}

/** Number of its last status, or -1. */
export function lastSeq (task: OutputTask): number {
  return task.statuses().at(-1)?.seq ?? -1
}
