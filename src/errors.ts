/**
 * Every error that a client of Berth can see, as data: ten kinds, and what each means to a transport.
 * `code` is API: adding one is fine, renaming one breaks clients.
 */

export type ErrorKind =
  | 'invalid_argument'
  | 'unauthenticated'
  | 'permission_denied'
  | 'not_found'
  | 'conflict'
  | 'exhausted'
  | 'unavailable'
  | 'timed_out'
  | 'cancelled'
  | 'internal'

interface KindFacts {
  /** HTTP status code. */
  http: number
  /** Whether the same call may succeed later without being changed. */
  retryable: boolean
}

export const errorKinds: Readonly<Record<ErrorKind, KindFacts>> = Object.freeze({
  invalid_argument: { http: 400, retryable: false },
  unauthenticated: { http: 401, retryable: false },
  permission_denied: { http: 403, retryable: false },
  not_found: { http: 404, retryable: false },
  conflict: { http: 409, retryable: false },
  exhausted: { http: 429, retryable: true },
  unavailable: { http: 503, retryable: true },
  timed_out: { http: 504, retryable: true },
  cancelled: { http: 499, retryable: false },
  internal: { http: 500, retryable: false },
})

export interface BerthErrorOptions {
  cause?: unknown
  /** Facts for the client, safe to show: no host path, no secret. */
  details?: Record<string, unknown>
}

/** An error whose kind, code and message may be shown to the client. The cause is for the log alone. */
export class BerthError extends Error {
  readonly kind: ErrorKind
  readonly code: string
  readonly details: Record<string, unknown> | undefined

  constructor (kind: ErrorKind, code: string, message: string, options: BerthErrorOptions = {}) {
    super(message, { cause: options.cause })
    this.name = 'BerthError'
    this.kind = kind
    this.code = code
    this.details = options.details
  }
}

/** The error itself when it is one of ours, else `internal` with a fixed message and the stranger as its cause. */
export function toBerthError (error: unknown): BerthError {
  if (error instanceof BerthError) return error
  return new BerthError('internal', 'internal', 'something went wrong inside the daemon; its log has the cause under this request id', { cause: error })
}
