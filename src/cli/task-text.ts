import type { Task } from '../schemas/task.ts'
import { exitCodeOf, ownErrorCode } from './sandbox-text.ts'
import { describeSize, describeSpan } from './units.ts'

export const openTaskStatuses = ['pending', 'scheduled', 'running'] as const
const endedTaskStatuses = ['complete', 'failed', 'cancelled'] as const
export const taskStatuses: readonly string[] = [...openTaskStatuses, ...endedTaskStatuses]

export function isTaskEnded ({ status }: Pick<Task, 'status'>): boolean {
  return endedTaskStatuses.some(one => one === status)
}

/** Whether its command has run, in any of its attempts. */
export function hasRun ({ attempts }: Pick<Task, 'attempts'>): boolean {
  return attempts.some(({ startedAt }) => startedAt !== undefined)
}

/** What waiting for a task ends with: the code of its command, but 0 only when it is complete. */
export function exitCodeOfTask (task: Task): number {
  return exitCodeOf(task) || (task.status === 'complete' ? 0 : ownErrorCode)
}

/** Why it ended, where that is more than the command's own exit. */
export function describeTaskEnd (task: Task): string | undefined {
  const { end } = task
  if (!end || ['exited', 'signaled'].includes(end.reason)) return undefined
  const message = end.message ? `: ${end.message}` : ''
  switch (end.reason) {
    case 'cancelled': return hasRun(task) ? 'the task was cancelled' : 'the task was cancelled before it ran'
    case 'setup_failed': return `the task could not be run${end.step ? ` (step ${end.step})` : ''}${message}`
    case 'out_of_memory': return `the task ran out of memory (its limit is ${describeSize(task.resources.memoryBytes)}); give it more with: -m`
    default: return `the task ended: ${end.reason}${message}`
  }
}

/** The STATUS column: `Running 5 minutes, attempt 2 of 3`, `Failed (3) 2 hours ago`. */
export function describeTaskStatus (task: Task, now = Date.now()): string {
  const attempts = task.maxAttempts > 1 && (task.attempt > 1 || isTaskEnded(task) || task.status === 'running') ? `, attempt ${task.attempt} of ${task.maxAttempts}` : ''
  return statusWords(task, now) + attempts
}

function statusWords (task: Task, now: number): string {
  const since = (at: string | undefined) => at === undefined ? '' : ` ${describeSpan(now - Date.parse(at))}`
  const ago = (at: string | undefined) => at === undefined ? '' : `${since(at)} ago`
  switch (task.status) {
    case 'pending': {
      const dueInMs = task.availableAt === undefined ? 0 : Date.parse(task.availableAt) - now
      return dueInMs > 0 ? `Pending, due in ${describeSpan(dueInMs)}` : `Pending${since(task.availableAt ?? task.createdAt)}`
    }
    case 'scheduled': return 'Scheduled'
    case 'running': return `Running${since(task.startedAt)}${task.cancelRequestedAt === undefined ? '' : ', being cancelled'}`
    case 'complete': return `Complete${ago(task.endedAt)}`
    case 'cancelled': return `Cancelled${ago(task.endedAt)}`
    case 'failed': return `Failed (${task.end?.reason === 'exited' ? task.end.exitCode : task.end?.reason ?? '?'})${ago(task.endedAt)}`
  }
}
