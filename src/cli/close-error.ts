import { errorKinds, type ErrorKind } from '../errors.ts'

/** The daemon closed a WebSocket, or the connection broke. */
export class CloseError extends Error {
  readonly code: number
  /** Whether the same may go on later: the daemon ends, is busy, or went away without a word. */
  readonly isTransient: boolean

  constructor (code: number, reason: string) {
    super(`the daemon closed the connection (${code}${reason ? ` ${reason}` : ''})`)
    this.name = 'CloseError'
    this.code = code
    this.isTransient = transientCodes.has(code)
  }

  /** The kind of the error that the daemon closed it with: 4000 and the status that REST would have answered. */
  get kind (): ErrorKind {
    const kinds = Object.keys(errorKinds) as ErrorKind[]
    return kinds.find(kind => errorKinds[kind].http === this.code - 4000) ?? 'internal'
  }
}

// Of RFC 6455, section 7.4.1, and IANA: going away, none given, abnormal, restart, try again later.
const transientCodes = new Set([1001, 1005, 1006, 1012, 1013])
