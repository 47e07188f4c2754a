import { BerthError } from '../../errors.ts'
import type { StepError } from './step-ladder.ts'

/** The step's own error where it is the client's to read, else that this step failed; always with the sandbox's id. */
export function setUpError (sandboxId: string, failure: StepError): BerthError {
  const { step, cause } = failure
  const details = { sandboxId, step }
  if (cause instanceof BerthError) return new BerthError(cause.kind, cause.code, cause.message, { cause, details: { ...cause.details, ...details } })
  return new BerthError('internal', 'setup_failed', `the sandbox could not be set up: its step ${step} failed; everything was released, and the daemon's log has the cause`, { cause, details })
}
