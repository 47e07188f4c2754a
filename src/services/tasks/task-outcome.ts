/** What the end of a sandbox means for the task that it was made for: pure decisions. */
import { BerthError } from '../../errors.ts'
import type { EndReason, SandboxEnd } from '../../schemas/sandbox.ts'
import type { TaskEnd } from '../../schemas/task.ts'
import type { Outcome } from './task-queue.ts'

export type Verdict =
  | { verdict: 'settle', outcome: Outcome }
  /** Nothing that counts has happened: it is given back. */
  | { verdict: 'release', delayMs: number, isFault: boolean, message: string }

/** How long a host that could not make a sandbox leaves the task alone, in milliseconds. */
const setUpPauseMs = 5000

/** Ends by somebody's will: another attempt would be against it. */
const willed: readonly EndReason[] = ['requested']

export function verdictOfEnd (end: SandboxEnd, { isCancelled }: { isCancelled: boolean }): Verdict {
  const { reason, exitCode } = end
  if (isCancelled && reason === 'requested') return settle('cancelled', { ...end, reason: 'cancelled' }, false)
  if (reason === 'drained') return { verdict: 'release', delayMs: 0, isFault: false, message: 'the host was drained' }
  if (reason === 'exited' && exitCode === 0) return settle('complete', end, false)
  return settle('failed', end, !willed.includes(reason))
}

/** Its sandbox could not be made. What the task itself got wrong stays wrong; what the host or a registry lacks may be there later. */
export function verdictOfRefusal (error: unknown, { isCancelled }: { isCancelled: boolean }): Verdict {
  const at = new Date().toISOString()
  if (isCancelled) return settle('cancelled', { reason: 'cancelled', at }, false)
  const known = error instanceof BerthError ? error : undefined
  const message = known?.message ?? 'the sandbox could not be set up; the daemon\'s log has the cause'
  if (known && isLasting(known)) {
    const { step } = known.details ?? {}
    return settle('failed', { reason: 'setup_failed', at, code: known.code, message, ...(typeof step === 'string' ? { step } : {}) }, false)
  }
  return { verdict: 'release', delayMs: known?.code === 'host_stopping' ? 0 : setUpPauseMs, isFault: known?.code !== 'host_stopping', message }
}

/** Another sandbox of the same wish would be refused in the same way. */
function isLasting ({ kind }: BerthError): boolean {
  return kind === 'invalid_argument' || kind === 'not_found' || kind === 'permission_denied' || kind === 'unauthenticated'
}

function settle (status: Outcome['status'], end: TaskEnd, isRetryable: boolean): Verdict {
  return { verdict: 'settle', outcome: { status, end, isRetryable } }
}
