import { rejectWhenAborted } from '../../../lib/abort-race.ts'
import { discardBody, readBody } from './bounded-body.ts'
import type { RegistryCredentials } from '../layers/image-layer.ts'
import { isObject } from '../image-config.ts'
import { RegistryAuth, type RegistryAction } from './registry-auth.ts'
import type { RegistryConnections, WireAnswer } from './registry-connections.ts'
import { invalidAnswer, missing, unavailable, type ErrorSubject } from './registry-errors.ts'

interface EndpointOptions {
  connections: RegistryConnections
  /** Host, host:port or base URL that is connected to. */
  host: string
  /** The registry's name in errors and for credentials, and the repository. */
  subject: ErrorSubject
  isMirror: boolean
  credentials?: RegistryCredentials | undefined
}

export interface EndpointRequest {
  method: 'GET' | 'HEAD' | 'POST' | 'PUT'
  /** Behind `/v2/<repository>/`, or a whole URL that the registry gave. */
  path: string | URL
  action?: RegistryAction
  headers?: Record<string, string>
  body?: Buffer
  signal: AbortSignal
  /** What is asked for, in the error for a 404. */
  what: string
}

const maxRedirects = 5
const maxErrorBytes = 64 * 1024
const errorBodyMs = 5_000
const maxRetryAfterMs = 30_000
// Well below what storage signs its URLs for.
const rememberTargetMs = 60_000
const maxTargets = 256
const redirects = new Set([301, 302, 303, 307, 308])

/** One repository at one host: authenticates, follows redirects with care, makes errors of statuses. */
export class RegistryEndpoint {
  readonly subject: ErrorSubject
  readonly isMirror: boolean
  readonly #connections: RegistryConnections
  readonly #host: string
  readonly #auth: RegistryAuth
  /** Where paths were redirected to a short while ago: who reads ranges of a blob asks the registry once. */
  readonly #targets = new Map<string, { url: URL, until: number }>()

  constructor (options: EndpointOptions) {
    this.subject = options.subject
    this.isMirror = options.isMirror
    this.#connections = options.connections
    this.#host = options.host
    this.#auth = new RegistryAuth(options)
  }

  /**
   * One request, without retries. The answer is a 2xx, its body for the caller to read or to discard.
   *
   * @throws RegistryError for every other status, and as RegistryConnections.send.
   */
  async request (request: EndpointRequest): Promise<WireAnswer> {
    const { signal } = request
    const known = await this.#askTarget(request)
    if (known) return known
    const action = request.action ?? 'pull'
    const base = await rejectWhenAborted(this.#connections.baseUrl(this.subject, this.#host), signal)
    const url = request.path instanceof URL ? request.path : apiUrl(base, `${this.subject.repository}/${request.path}`)
    let sent = await rejectWhenAborted(this.#auth.header(action, base), signal)
    let answer = await this.#follow(request, base, url, sent)
    if (answer.statusCode === 401) {
      await discardBody(answer)
      sent = await rejectWhenAborted(this.#auth.answer(action, base, answer.headers['www-authenticate'], sent), signal)
      answer = await this.#follow(request, base, url, sent)
    }
    if (answer.statusCode >= 200 && answer.statusCode < 300) return answer
    throw await this.#errorOf(answer, request)
  }

  /** Sends the request and goes where redirects lead; the header goes to the registry's own origin alone. */
  async #follow (request: EndpointRequest, base: URL, first: URL, authorization: string | undefined): Promise<WireAnswer> {
    let url = first
    for (let hops = 0; ; hops++) {
      const isOwn = url.origin === base.origin
      const headers = { ...request.headers }
      if (isOwn && authorization !== undefined) headers.authorization = authorization
      const mayBeLoopback = isOwn || this.#connections.insecureHosts.includes(base)
      const { method, body, signal } = request
      const answer = await this.#connections.send(this.subject, { url, method, headers, mayBeLoopback, signal, ...(body ? { body } : {}) })
      if (!redirects.has(answer.statusCode) || (method !== 'GET' && method !== 'HEAD')) {
        // A 401 of a host that was never to get a password is no question to us.
        if (!isOwn && answer.statusCode === 401) throw await this.#storageRefused(answer)
        if (!isOwn && isPart(answer)) this.#remember(request, url)
        return answer
      }
      await discardBody(answer)
      if (hops >= maxRedirects) throw invalidAnswer(this.subject, `it redirects more than ${maxRedirects} times`)
      url = this.locationOf(answer, url)
    }
  }

  /** The answer of the place that this path was redirected to, if it is known and still good for it. */
  async #askTarget ({ method, path, headers = {}, signal }: EndpointRequest): Promise<WireAnswer | undefined> {
    const target = method === 'GET' && typeof path === 'string' ? this.#targets.get(path) : undefined
    if (target === undefined || typeof path !== 'string') return undefined
    if (target.until > Date.now()) {
      const mayBeLoopback = await rejectWhenAborted(this.#isNear(), signal)
      const answer = await this.#connections.send(this.subject, { url: target.url, method, headers, mayBeLoopback, signal }).catch(() => undefined)
      signal.throwIfAborted()
      if (answer && isPart(answer)) return answer
      if (answer) await discardBody(answer)
    }
    this.#targets.delete(path)
    return undefined
  }

  async #isNear (): Promise<boolean> {
    return this.#connections.insecureHosts.includes(await this.#connections.baseUrl(this.subject, this.#host))
  }

  #remember ({ method, path }: EndpointRequest, url: URL): void {
    if (method !== 'GET' || typeof path !== 'string') return
    const [oldest] = this.#targets.keys()
    if (this.#targets.size >= maxTargets && oldest !== undefined) this.#targets.delete(oldest)
    this.#targets.set(path, { url, until: Date.now() + rememberTargetMs })
  }

  /**
   * Where an answer's Location leads.
   *
   * @throws RegistryError `image_invalid` where nobody should go.
   */
  locationOf (answer: WireAnswer, from: URL): URL {
    const { location } = answer.headers
    const url = typeof location === 'string' ? URL.parse(location, from.href) : null
    if (url === null || !/^https?:$/.test(url.protocol)) throw invalidAnswer(this.subject, 'it redirects to what is no URL')
    if (url.username !== '' || url.password !== '') throw invalidAnswer(this.subject, 'it redirects to a URL with a password in it')
    if (from.protocol === 'https:' && url.protocol === 'http:') throw invalidAnswer(this.subject, 'it redirects from https to http')
    url.hash = ''
    return url
  }

  /** URL of a path of this repository. */
  async urlOf (path: string): Promise<URL> {
    return apiUrl(await this.#connections.baseUrl(this.subject, this.#host), `${this.subject.repository}/${path}`)
  }

  async #storageRefused (answer: WireAnswer): Promise<Error> {
    await discardBody(answer)
    return unavailable(this.subject, 'the host that it redirects to answers 401', { status: 401 })
  }

  async #errorOf (answer: WireAnswer, request: EndpointRequest): Promise<Error> {
    const { statusCode: status } = answer
    if (status === 401 || status === 403) {
      await discardBody(answer)
      return this.#auth.refused(status)
    }
    if (status === 404) {
      await discardBody(answer)
      return missing(this.subject, request.what)
    }
    const retryAfterMs = readRetryAfter(answer.headers['retry-after'])
    const code = await this.#errorCode(answer)
    const says = code === undefined ? `it answers ${status}` : `it answers ${status} ${code}`
    if (status === 429) return unavailable(this.subject, `${says}: too many requests`, { status, retryAfterMs })
    if (status >= 500 || status === 408 || status === 425) return unavailable(this.subject, says, { status, retryAfterMs, isTransient: status !== 501 })
    return invalidAnswer(this.subject, says)
  }

  /** The code of an error body of the distribution-spec, which is safe to show; the texts beside it are not. */
  async #errorCode (answer: WireAnswer): Promise<string | undefined> {
    try {
      const body = await readBody(answer, { subject: this.subject, maxBytes: maxErrorBytes, timeoutMs: errorBodyMs })
      const json: unknown = JSON.parse(body.toString('utf8'))
      const [first]: unknown[] = isObject(json) && Array.isArray(json.errors) ? json.errors : []
      return isObject(first) && typeof first.code === 'string' && /^[A-Z_]{1,40}$/.test(first.code) ? first.code : undefined
    } catch {
      return undefined
    }
  }
}

/** Only ranges are asked for again and again. */
function isPart (answer: WireAnswer): boolean {
  return answer.statusCode === 206
}

function apiUrl (base: URL, path: string): URL {
  const url = new URL(base)
  url.pathname = `${base.pathname.replace(/\/+$/, '')}/v2/${path}`
  return url
}

function readRetryAfter (value: string | string[] | undefined): number | undefined {
  const seconds = typeof value === 'string' && /^\d{1,6}$/.test(value) ? Number(value) : undefined
  return seconds === undefined ? undefined : Math.min(seconds * 1000, maxRetryAfterMs)
}
