/** What the end of a sandbox means for the task that it was made for: pure decisions. */
import { BerthError } from '../../errors.ts'
import type { SandboxEnd } from '../../schemas/sandbox.ts'
import type { TaskEnd, TaskEndReason } from '../../schemas/task.ts'
import type { Outcome } from './task-queue.ts'
import type { TaskRecord } from './task-record.ts'

export type Verdict =
  | { verdict: 'settle', outcome: Outcome }
  /** Nothing that counts has happened: it is given back. */
  | { verdict: 'release', delayMs: number, isFault: boolean, message: string }

/** How long a host that could not make a sandbox leaves the task alone, in milliseconds. */
const setUpPauseMs = 5000

const drainMessage = 'the host was drained'

/** Ends by somebody's will: another attempt would be against it. */
const willed: readonly TaskEndReason[] = ['requested', 'cancelled', 'sandbox_deleted']

export function verdictOfEnd (end: SandboxEnd, { isCancelled }: { isCancelled: boolean }): Verdict {
  const { reason, exitCode } = end
  if (isCancelled && reason === 'requested') return settle('cancelled', { ...end, reason: 'cancelled' })
  if (reason === 'drained') return verdictOfDrain()
  if (reason === 'exited' && exitCode === 0) return settle('complete', end)
  return settle('failed', end)
}

/** Its sandbox could not be made. What the task itself got wrong stays wrong; what the host or a registry lacks may be there later. */
export function verdictOfRefusal (error: unknown, { isCancelled }: { isCancelled: boolean }): Verdict {
  const at = new Date().toISOString()
  if (isCancelled) return settle('cancelled', { reason: 'cancelled', at })
  const known = error instanceof BerthError ? error : undefined
  const message = known?.message ?? 'the sandbox could not be set up; the daemon\'s log has the cause'
  if (known && isLasting(known)) {
    const { step } = known.details ?? {}
    return settle('failed', { reason: 'setup_failed', at, code: known.code, message, ...(typeof step === 'string' ? { step } : {}) })
  }
  return { verdict: 'release', delayMs: known?.code === 'host_stopping' ? 0 : setUpPauseMs, isFault: known?.code !== 'host_stopping', message }
}

/** The host goes away. */
export function verdictOfDrain (): Verdict {
  return { verdict: 'release', delayMs: 0, isFault: false, message: drainMessage }
}

/** The sandbox of a task that runs is gone. */
export function verdictOfLoss (): Verdict {
  return settle('failed', { reason: 'sandbox_deleted', at: new Date().toISOString(), message: 'the sandbox of the task was deleted before it had ended' })
}

/** What the end of a delivery on this host means for its fleet: the same as it would without one. */
export function verdictOfDelivery ({ status, end }: Pick<TaskRecord, 'status' | 'end'>): Verdict {
  if (end === undefined || (status !== 'complete' && status !== 'failed' && status !== 'cancelled')) throw new Error(`a delivery that is ${status} has no end`)
  if (end.reason === 'drained') return verdictOfDrain()
  if (end.reason === 'undeliverable') return { verdict: 'release', delayMs: setUpPauseMs, isFault: true, message: end.message ?? 'the host could not begin it' }
  return settle(status, end)
}

/** Another sandbox of the same wish would be refused in the same way. */
function isLasting ({ kind }: BerthError): boolean {
  return kind === 'invalid_argument' || kind === 'not_found' || kind === 'permission_denied' || kind === 'unauthenticated'
}

function settle (status: Outcome['status'], end: TaskEnd): Verdict {
  // A set-up that failed with a code was refused for good; one without was cut off.
  const isLast = willed.includes(end.reason) || (end.reason === 'setup_failed' && end.code !== undefined)
  return { verdict: 'settle', outcome: { status, end, isRetryable: status === 'failed' && !isLast } }
}
