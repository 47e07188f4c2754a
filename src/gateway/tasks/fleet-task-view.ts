/** How a task of a fleet looks on the wire: as one of a host, with the places of its output in the log of all its attempts. */
import type { Task } from '../../schemas/task.ts'
import type { TaskRecord } from '../../services/tasks/task-record.ts'
import { toTask } from '../../services/tasks/task-view.ts'
import { formatFleetCursor } from '../logs/fleet-cursor.ts'

export function toFleetTask (record: TaskRecord): Task {
  const attempts = record.attempts.map(attempt => attempt.logCursor === undefined
    ? attempt
    : { ...attempt, logCursor: formatFleetCursor(attempt.fence, attempt.logCursor) })
  return toTask({ ...record, attempts })
}
