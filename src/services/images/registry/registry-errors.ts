import { BerthError, type BerthErrorOptions, type ErrorKind } from '../../../errors.ts'

interface RegistryErrorOptions extends BerthErrorOptions {
  isTransient?: boolean
  retryAfterMs?: number
}

/** A BerthError that also says whether asking the same host once more may help. */
export class RegistryError extends BerthError {
  readonly isTransient: boolean
  /** What the registry asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined

  constructor (kind: ErrorKind, code: string, message: string, options: RegistryErrorOptions = {}) {
    super(kind, code, message, options)
    this.isTransient = options.isTransient ?? false
    this.retryAfterMs = options.retryAfterMs
  }
}

/** What an error is about, for its message and details. */
export interface ErrorSubject {
  /** The registry of the reference, or a mirror's or token service's host. */
  registry: string
  repository: string
}

interface UnavailableOptions {
  cause?: unknown
  status?: number
  retryAfterMs?: number
  /** False where asking again cannot help. */
  isTransient?: boolean
}

/** unavailable `registry_unavailable`. */
export function unavailable (subject: ErrorSubject, why: string, options: UnavailableOptions = {}): RegistryError {
  const details = { registry: subject.registry, ...(options.status === undefined ? {} : { status: options.status }) }
  return new RegistryError('unavailable', 'registry_unavailable', `the registry ${subject.registry} cannot be used: ${why}`, { isTransient: true, ...options, details })
}

/** invalid_argument `image_invalid`. */
export function invalidAnswer (subject: ErrorSubject, why: string, cause?: unknown): RegistryError {
  const details = { registry: subject.registry, repository: subject.repository }
  return new RegistryError('invalid_argument', 'image_invalid', `what ${subject.registry} has as ${subject.repository} cannot be used: ${why}`, { cause, details })
}

/** invalid_argument `image_not_found`. */
export function missing (subject: ErrorSubject, what: string): RegistryError {
  const details = { registry: subject.registry, repository: subject.repository }
  return new RegistryError('invalid_argument', 'image_not_found', `${subject.registry} has no ${what}; check the name and the tag`, { details })
}

/** permission_denied `image_auth_required`. `notes` are what is known about why no credentials were at hand. */
export function authRequired (subject: ErrorSubject, status: number, notes: readonly string[]): RegistryError {
  const { registry, repository } = subject
  // Docker Hub answers so for repositories that do not exist, and for misspelt ones.
  const hub = registry === 'docker.io' ? '; it also answers so when there is no such repository, so check the name' : ''
  const note = notes.length === 0 ? '' : ` (${notes.join('; ')})`
  const advice = `log in with \`docker login ${registry}\`, point BERTH_REGISTRY_AUTH_FILE at a file with credentials, or send them with the request`
  return new RegistryError('permission_denied', 'image_auth_required', `${registry} lets nobody without the right credentials use ${repository}${hub}: ${advice}${note}`, {
    details: { registry, repository, status },
  })
}

const reasons: Readonly<Record<string, string>> = {
  ENOTFOUND: 'its name does not resolve',
  EAI_AGAIN: 'its name does not resolve at the moment',
  ECONNREFUSED: 'it refuses the connection',
  EHOSTUNREACH: 'there is no route to it',
  ENETUNREACH: 'there is no route to it',
  ECONNRESET: 'it broke off the connection',
  EPIPE: 'it broke off the connection',
  ETIMEDOUT: 'it does not answer in time',
  UND_ERR_CONNECT_TIMEOUT: 'it does not answer in time',
  UND_ERR_HEADERS_TIMEOUT: 'it does not answer in time',
  UND_ERR_BODY_TIMEOUT: 'it stopped sending',
  UND_ERR_SOCKET: 'it broke off the connection',
}

// OpenSSL's names for what is said in another protocol than TLS.
const notTls = new Set(['ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_PACKET_LENGTH_TOO_LONG', 'ERR_SSL_HTTP_REQUEST', 'ERR_SSL_UNKNOWN_PROTOCOL', 'EPROTO'])
const certificateCodes = /^(?:ERR_TLS_|ERR_SSL_|CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|HOSTNAME_MISMATCH|INVALID_|EPROTO)/

/** Code of an error of node:net, node:tls or undici, or of the first one inside an AggregateError. */
export function codeOf (error: unknown): string {
  if (error instanceof AggregateError) return (error as NodeJS.ErrnoException).code ?? codeOf(error.errors[0])
  return error instanceof Error ? (error as NodeJS.ErrnoException).code ?? '' : ''
}

/** Whether a connection failed because the other end does not speak TLS. */
export function isNotTls (error: unknown): boolean {
  // Some servers hang up on a TLS greeting without a word.
  return notTls.has(codeOf(error)) || (codeOf(error) === 'ECONNRESET' && error instanceof Error && error.message.includes('before secure TLS'))
}

/** What came of a connection or a transfer that broke, as `registry_unavailable`. */
export function transportError (subject: ErrorSubject, error: unknown): RegistryError {
  if (error instanceof RegistryError) return error
  const code = codeOf(error)
  if (code === 'ERR_BERTH_ADDRESS') return unavailable(subject, (error as Error).message, { cause: error, isTransient: false })
  if (isNotTls(error)) return unavailable(subject, 'it does not speak TLS; list it in BERTH_INSECURE_REGISTRIES if plain HTTP is good enough', { cause: error, isTransient: false })
  if (certificateCodes.test(code)) {
    const why = `TLS failed (${code}); give its authority in BERTH_REGISTRY_CA_FILE, or list the registry in BERTH_INSECURE_REGISTRIES`
    return unavailable(subject, why, { cause: error, isTransient: false })
  }
  return unavailable(subject, reasons[code] ?? 'the transfer failed', { cause: error })
}
