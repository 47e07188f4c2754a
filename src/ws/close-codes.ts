import { errorKinds, type BerthError } from '../errors.ts'

/** Codes with an exact meaning in RFC 6455, section 7.4.1, or in IANA's registry of close codes. */
const closeCodeByCode: Readonly<Record<string, number>> = Object.freeze({
  host_stopping: 1001,
  gateway_stopping: 1001,
})

export const normalClosure = 1000
export const messageNotTaken = 1003
const internalError = 1011
const tryAgainLater = 1013
/** 4000 to 4999 are free for such use; so the status that REST would have answered is in the code. */
const firstPrivateCode = 4000

/** With what code a socket is closed by an error: 1013 says that the same may succeed later, 44xx that it will not. */
export function closeCodeOf (error: BerthError): number {
  const byCode = closeCodeByCode[error.code]
  if (byCode !== undefined) return byCode
  const { http, retryable } = errorKinds[error.kind]
  if (retryable) return tryAgainLater
  return error.kind === 'internal' ? internalError : firstPrivateCode + http
}
