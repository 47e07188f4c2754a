import { rejectWhenAborted } from '../lib/abort-race.ts'
import { withDeadline } from '../lib/deadline.ts'

/** What a call to somebody else is given. */
export interface CallBounds {
  timeoutMs: number
  /** Ends the wait; the call goes on unheard. */
  signal: AbortSignal
}

/** @throws DeadlineError after the time, the signal's reason when that comes first. Whether the call was carried out is then not known. */
export async function boundedCall<T> ({ timeoutMs, signal }: CallBounds, what: string, work: () => Promise<T>): Promise<T> {
  return await withDeadline(timeoutMs, what, async () => await rejectWhenAborted(work(), signal))
}
