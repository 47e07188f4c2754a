import { BerthError, errorKinds } from '../../errors.ts'

/** Whether anything else would fail just so, and this may not later. */
export function isAway (error: unknown): boolean {
  return error instanceof BerthError && error.kind !== 'internal' && errorKinds[error.kind].retryable
}
