/** Calls of the REST API, with the token in a header. */

/** What the API refused, in its own words; or, with the code `unreachable`, that it did not answer. */
export class ApiError extends Error {
  readonly status: number
  readonly code: string
  readonly details: Record<string, unknown>

  constructor (status: number, code: string, message: string, details: Record<string, unknown> = {}) {
    super(message)
    this.name = 'ApiError'
    this.status = status
    this.code = code
    this.details = details
  }

  /** The daemon did not answer, only a proxy did, or it is about to end: the same call may succeed when it is back. */
  get isUnreachable (): boolean {
    return ['unreachable', 'host_stopping', 'http_502', 'http_503', 'http_504'].includes(this.code)
  }
}

export type Query = Readonly<Record<string, string | number | boolean | undefined>>

export interface Call {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  query?: Query
  /** Sent as JSON. */
  json?: unknown
  /** Sent as it is. */
  body?: Blob
  accept?: string
  signal?: AbortSignal
}

export interface ApiClientOptions {
  token: string
  /** Beginning of all addresses, with no slash at its end; empty: the page's own origin. */
  base?: string
  fetch?: typeof fetch
  /** Told when the API says that it does not know the token. */
  onUnauthenticated?: () => void
  /** Told when a call got no answer. */
  onUnreachable?: () => void
}

export class ApiClient {
  readonly token: string
  readonly #options: ApiClientOptions

  constructor (options: ApiClientOptions) {
    this.token = options.token
    this.#options = options
  }

  /** The value that is answered; undefined where nothing is. @throws ApiError. */
  async request<T> (path: string, call: Call = {}): Promise<T> {
    const response = await this.open(path, call)
    return (response.status === 204 ? undefined : await this.#reading(response.json())) as T
  }

  get<T> (path: string, query?: Query, signal?: AbortSignal): Promise<T> {
    return this.request(path, { query, signal })
  }

  post<T> (path: string, json: unknown = {}): Promise<T> {
    return this.request(path, { method: 'POST', json })
  }

  /** Every item of a list, page by page; at most `most`. */
  async list<T> (path: string, query: Query = {}, most = 5000): Promise<T[]> {
    const items: T[] = []
    let cursor: string | undefined
    do {
      const page = await this.get<{ items: T[], nextCursor?: string }>(path, { ...query, limit: Math.min(1000, most), cursor })
      items.push(...page.items)
      cursor = page.nextCursor
    } while (cursor !== undefined && items.length < most)
    return items
  }

  /** The answer's head; its body is left to the caller. @throws ApiError. */
  async open (path: string, { method = 'GET', query = {}, json, body, accept, signal }: Call = {}): Promise<Response> {
    const headers: Record<string, string> = { authorization: `Bearer ${this.token}`, accept: accept ?? 'application/json' }
    if (json !== undefined) headers['content-type'] = 'application/json'
    else if (body !== undefined) headers['content-type'] = 'application/octet-stream'
    const call = this.#options.fetch ?? fetch
    const response = await this.#reading(call(`${this.#options.base ?? ''}${path}${formatQuery(query)}`, {
      method, headers, signal, cache: 'no-store', credentials: 'omit', redirect: 'error', body: json === undefined ? body : JSON.stringify(json),
    }))
    if (response.ok) return response
    const error = await describe(response)
    if (response.status === 401) this.#options.onUnauthenticated?.()
    if (error.isUnreachable) this.#options.onUnreachable?.()
    throw error
  }

  async #reading<T> (work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      if (error instanceof DOMException && error.name === 'AbortError') throw error
      this.#options.onUnreachable?.()
      throw new ApiError(0, 'unreachable', 'the daemon does not answer')
    }
  }
}

/** `?a=1&b=2` of what is given; nothing of nothing. */
export function formatQuery (query: Query): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined).map(([name, value]) => [name, String(value)])
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
}

async function describe (response: Response): Promise<ApiError> {
  const body = await response.json().catch(() => undefined) as { code?: unknown, message?: unknown, details?: unknown } | undefined
  const code = typeof body?.code === 'string' ? body.code : `http_${response.status}`
  const message = typeof body?.message === 'string' ? body.message : `the answer was ${response.status} ${response.statusText}`
  return new ApiError(response.status, code, message, typeof body?.details === 'object' && body.details !== null ? body.details as Record<string, unknown> : {})
}

/** What went wrong, for people. */
export function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Whether a call was given up on purpose. */
export function isAbort (error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError'
}
