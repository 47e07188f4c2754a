/** Says what S2 has against a request, and what an operator can do; never with the access token in it. */
export interface S2FailureFacts {
  basin: string
  stream: string
  accessToken: string
}

/** What S2 answered, or how it could not be reached. Trying again may always help: an operator can mend tokens, rights and basins. */
export class S2Failure extends Error {
  /** HTTP status; 0 without an answer. */
  readonly status: number
  readonly code: string | undefined
  constructor (message: string, status: number, code: string | undefined) {
    super(message)
    this.name = 'S2Failure'
    this.status = status
    this.code = code
  }
}

/** Where the library has made the one attempt that it is allowed. */
const lastAttempt = /^Max attempts \(1\) exhausted: /

interface LibraryError { message: string, status?: unknown, code?: unknown, origin?: unknown }

/** The cause is left out on purpose: what a library attaches to its errors may show the header that has the token. */
export function toS2Failure (error: unknown, facts: S2FailureFacts): S2Failure {
  if (error instanceof S2Failure) return error
  const { message, status, code, origin } = (error instanceof Error ? error : new Error(String(error))) as LibraryError
  const said = message.replace(lastAttempt, '').replaceAll(facts.accessToken, '…')
  // What a session was answered is said anew by the library, as its own; S2's codes are in small letters, those of connections are not.
  const isAnswer = origin === 'server' || (lastAttempt.test(message) && typeof code === 'string' && /^[a-z_]+$/.test(code) && code !== 'connection_failed')
  const httpStatus = isAnswer && typeof status === 'number' ? status : 0
  const word = typeof code === 'string' ? code : undefined
  return new S2Failure(explain(said, httpStatus, word, facts), httpStatus, word)
}

function explain (said: string, status: number, code: string | undefined, { basin, stream }: S2FailureFacts): string {
  if (status === 401) return `S2 does not accept the access token; put a valid one in its place (401: ${said})`
  if (status === 403) return `the access token for S2 may not create, read and append to ${stream} in basin ${basin}; give it that right (403: ${said})`
  if (status === 404 && code === 'basin_not_found') return `S2 has no basin ${basin}; create it, or name another (404: ${said})`
  if (status === 429) return `S2 asks to go slower (429: ${said})`
  if (status === 0) return `S2 could not be reached for ${stream} in basin ${basin}: ${said}`
  return `S2 did not take a request for ${stream} in basin ${basin} (${status}${code === undefined ? '' : ` ${code}`}: ${said})`
}
