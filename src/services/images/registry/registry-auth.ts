import type { RegistryCredentials } from '../layers/image-layer.ts'
import { isObject } from '../image-config.ts'
import { parseChallenges, type AuthChallenge } from './auth-challenge.ts'
import { readBody } from './bounded-body.ts'
import type { RegistryConnections, WireAnswer } from './registry-connections.ts'
import type { FoundCredentials, StoredCredentials } from './registry-credentials.ts'
import { authRequired, invalidAnswer, unavailable, type ErrorSubject } from './registry-errors.ts'

export type RegistryAction = 'pull' | 'pull,push'

interface AuthOptions {
  connections: RegistryConnections
  /** The registry's host as credentials name it, and the repository that tokens are for. */
  subject: ErrorSubject
  /** Credentials of the request, which win over those of files. */
  credentials?: RegistryCredentials | undefined
}

interface Token {
  value: string
  expiresAt: number
}

const maxTokenAnswerBytes = 1024 ** 2
const tokenAnswerMs = 30_000
// The distribution project's token specification: what is meant where none is given.
const defaultTokenSeconds = 60
const maxTokenSeconds = 3600
// So that no token runs out on its way.
const expiryMarginMs = 5_000
// What a header may hold (RFC 6750, b64token, and what else is printable).
const headerText = /^[\u0021-\u007e]+$/

/**
 * Gets the Authorization header for one repository at one host: Basic, or Bearer with tokens of the token service that
 * the host names. Tokens are kept until they expire.
 */
export class RegistryAuth {
  readonly #connections: RegistryConnections
  readonly #subject: ErrorSubject
  readonly #credentials: RegistryCredentials | undefined
  readonly #tokens = new Map<RegistryAction, Token>()
  readonly #pending = new Map<RegistryAction, Promise<Token>>()
  /** What the host last asked for. */
  #challenge: AuthChallenge | undefined

  constructor (options: AuthOptions) {
    this.#connections = options.connections
    this.#subject = options.subject
    this.#credentials = options.credentials
  }

  /** The header to begin with, as far as is known what the host wants. */
  async header (action: RegistryAction, base: URL): Promise<string | undefined> {
    const { credentials } = await this.#find()
    if (credentials && 'token' in credentials) return bearer(credentials.token)
    if (this.#challenge?.scheme === 'basic') return basicHeader(credentials)
    if (this.#challenge?.scheme !== 'bearer') return undefined
    return bearer((await this.#token(action, base)).value)
  }

  /**
   * The header that answers a 401.
   *
   * @throws RegistryError `image_auth_required` when there is nothing better to send than `sent`.
   */
  async answer (action: RegistryAction, base: URL, header: string | string[] | undefined, sent: string | undefined): Promise<string> {
    const found = await this.#find()
    const { credentials } = found
    const challenges = parseChallenges(header)
    const isToken = credentials !== undefined && 'token' in credentials
    const bearerChallenge = isToken ? undefined : challenges.find(({ scheme, params }) => scheme === 'bearer' && params.has('realm'))
    this.#challenge = bearerChallenge ?? challenges.find(({ scheme }) => scheme === 'basic')
    if (bearerChallenge) {
      const known = this.#tokens.get(action)
      // Several requests may have been refused with the same token: the first renews it.
      if (known && bearer(known.value) === sent) this.#tokens.delete(action)
      return bearer((await this.#token(action, base)).value)
    }
    const basic = this.#challenge === undefined ? undefined : basicHeader(credentials)
    if (basic === undefined || basic === sent) throw this.#refused(401, found)
    return basic
  }

  /** The error for a host that says no to what was sent. */
  async refused (status: number): Promise<Error> {
    return this.#refused(status, await this.#find())
  }

  #refused (status: number, found: FoundCredentials): Error {
    const notes = found.credentials ? ['the credentials at hand are not accepted'] : found.notes
    return authRequired(this.#subject, status, notes)
  }

  async #find (): Promise<FoundCredentials> {
    if (this.#credentials) return { credentials: this.#credentials, notes: [] }
    return this.#connections.credentialFiles.find(this.#subject.registry, this.#subject.repository)
  }

  #token (action: RegistryAction, base: URL): Promise<Token> {
    const known = this.#tokens.get(action)
    if (known && known.expiresAt > Date.now()) return Promise.resolve(known)
    let pending = this.#pending.get(action)
    if (!pending) {
      // Shared by all who wait for it, so no caller's abort may end it; the time limits of the connection do.
      pending = this.#fetchToken(action, base).finally(() => this.#pending.delete(action))
      this.#pending.set(action, pending)
    }
    return pending
  }

  async #fetchToken (action: RegistryAction, base: URL): Promise<Token> {
    const found = await this.#find()
    const params = this.#challenge?.params
    const realm = this.#realm(params?.get('realm') ?? '', base)
    const query = new URLSearchParams({ scope: `repository:${this.#subject.repository}:${action}` })
    const service = params?.get('service')
    if (service !== undefined) query.set('service', service)
    const answer = await this.#ask(realm, query, found.credentials, base)
    const body = await readBody(answer, { subject: this.#subject, maxBytes: maxTokenAnswerBytes, timeoutMs: tokenAnswerMs })
    if (answer.statusCode === 401 || answer.statusCode === 403) throw this.#refused(answer.statusCode, found)
    if (answer.statusCode === 429 || answer.statusCode >= 500) {
      throw unavailable(this.#subject, `its token service answers ${answer.statusCode}`, { status: answer.statusCode })
    }
    if (answer.statusCode !== 200) throw this.#refused(answer.statusCode, { ...found, notes: [...found.notes, `its token service answers ${answer.statusCode}`] })
    const token = readToken(body)
    if (!token) throw invalidAnswer(this.#subject, 'its token service answers without a token')
    this.#tokens.set(action, token)
    return token
  }

  /** Where tokens come from, if that may be trusted with a password. */
  #realm (text: string, base: URL): URL {
    const realm = URL.parse(text)
    if (realm === null || !/^https?:$/.test(realm.protocol)) throw invalidAnswer(this.#subject, 'it names a token service whose address is no URL')
    const isPlainAllowed = realm.origin === base.origin || this.#connections.insecureHosts.includes(realm)
    if (realm.protocol === 'http:' && !isPlainAllowed) {
      throw unavailable(this.#subject, `its token service ${realm.host} is reached without TLS; list it in BERTH_INSECURE_REGISTRIES if that is good enough`, { isTransient: false })
    }
    realm.hash = ''
    return realm
  }

  #ask (realm: URL, query: URLSearchParams, credentials: StoredCredentials | undefined, base: URL): Promise<WireAnswer> {
    const mayBeLoopback = realm.origin === base.origin || this.#connections.insecureHosts.includes(base)
    const headers: Record<string, string> = { accept: 'application/json' }
    const send = (request: { method: 'GET' | 'POST', url: URL, body?: string }) => {
      return this.#connections.send(this.#subject, { ...request, headers, mayBeLoopback })
    }
    if (credentials && 'identityToken' in credentials) {
      query.set('grant_type', 'refresh_token')
      query.set('client_id', 'berth')
      query.set('refresh_token', credentials.identityToken)
      headers['content-type'] = 'application/x-www-form-urlencoded'
      return send({ method: 'POST', url: realm, body: query.toString() })
    }
    const basic = basicHeader(credentials)
    if (basic !== undefined) headers.authorization = basic
    for (const [name, value] of query) realm.searchParams.append(name, value)
    return send({ method: 'GET', url: realm })
  }
}

function readToken (body: Buffer): Token | undefined {
  let json: unknown
  try {
    json = JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
  if (!isObject(json)) return undefined
  const value = [json.token, json.access_token].find(text => typeof text === 'string' && headerText.test(text))
  if (typeof value !== 'string') return undefined
  const seconds = typeof json.expires_in === 'number' && json.expires_in > 0 ? json.expires_in : defaultTokenSeconds
  return { value, expiresAt: Date.now() + Math.min(seconds, maxTokenSeconds) * 1000 - expiryMarginMs }
}

function bearer (token: string): string {
  return `Bearer ${token}`
}

function basicHeader (credentials: StoredCredentials | undefined): string | undefined {
  if (!credentials || !('username' in credentials)) return undefined
  return `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`
}
