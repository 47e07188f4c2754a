import { randomUUID } from 'node:crypto'
import http from 'node:http'
import https from 'node:https'
import { connect } from 'node:net'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { BerthError, type ErrorKind } from '../errors.ts'
import { parseNdjson } from '../lib/ndjson.ts'
import { badAnswer, parseAnswer, parseErrorBody, readText, sendUpload } from './client-answer.ts'
import { ConnectionError } from './connection-error.ts'

export const defaultSocketPath = '/run/berth/berth.sock'

const defaultConnectTimeoutMs = 10_000
const defaultComeBackMs = 60_000
const firstRetryMs = 50
const lastRetryMs = 1000
// Notices within minutes that a remote host vanished without a word, on streams that may be silent for hours.
const keepAliveMs = 30_000
const inProgressCodes = new Set(['idempotency_key_in_use', 'idempotency_in_progress'])

export interface ClientOptions {
  /** Base address; wins over the socket. */
  url?: string
  socketPath?: string
  token?: string
  connectTimeoutMs?: number
  /** How long to wait for a daemon that was there before to come back. */
  comeBackMs?: number
  /** Told once for each time that the daemon is waited for. */
  onWaiting?: (address: string) => void
}

export type Query = Record<string, string | number | boolean | string[] | undefined>

export interface CallOptions {
  query?: Query
  body?: unknown
  /** Bytes in the place of a body of JSON; a call with them is never repeated. Destroyed when the call ends before them. */
  upload?: { source: Readable, type: string, sizeBytes?: number | undefined }
  /** Makes a repeated POST have the effect of one; made for each call when absent. */
  idempotencyKey?: string
  signal?: AbortSignal
  /** Take a daemon that refuses connections for one that restarts, even when it was not reached before. */
  isPatient?: boolean
}

/**
 * A client of the REST API over the unix socket or a URL.
 *
 * A daemon that was never reached fails the call at once. One that was there and then goes away is being
 * restarted: calls are repeated until it is back, which is safe since every one of them is idempotent.
 */
export class BerthClient {
  readonly address: string
  readonly #options: ClientOptions
  readonly #base: URL
  #wasReached = false

  constructor (options: ClientOptions) {
    this.#options = options
    this.#base = parseBase(options.url)
    this.address = options.url ?? options.socketPath ?? defaultSocketPath
  }

  /** One call, answered by JSON; undefined for an empty answer. */
  async request<T> (method: string, path: string, options: CallOptions = {}): Promise<T> {
    const call = method === 'POST' ? { idempotencyKey: randomUUID(), ...options } : options
    let firstFailureAt: number | undefined
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#once<T>(method, path, call)
      } catch (error) {
        // The attempt before this one had removed it; its answer was lost on the way.
        if (attempt > 0 && method === 'DELETE' && isKind(error, 'not_found')) return undefined as T
        firstFailureAt ??= Date.now()
        if (call.isPatient && isRefusal(error)) this.#wasReached = true
        if (!this.#isWorthRepeating(error, method, attempt)) throw error
        if (Date.now() - firstFailureAt >= this.#comeBackMs) throw error
        if (attempt === 0) this.#options.onWaiting?.(this.address)
        await delay(Math.min(lastRetryMs, firstRetryMs * 2 ** Math.min(attempt, 10)), undefined, { signal: options.signal })
      }
    }
  }

  /** A stream of JSON lines, read no faster than it is used. Never repeated: how to read on is the caller's knowledge. */
  async * stream<T> (method: string, path: string, options: CallOptions = {}): AsyncGenerator<T> {
    const answer = await this.#open(method, path, options, 'application/x-ndjson')
    try {
      yield * parseNdjson<T>(answer, { refuse: badAnswer })
    } catch (error) {
      throw this.#asKnown(error, 'answer', options.signal)
    } finally {
      answer.destroy()
    }
  }

  /** An answer of bytes, to be read to its end or destroyed. Never repeated. */
  async download (method: string, path: string, options: CallOptions & { accept?: string } = {}): Promise<http.IncomingMessage> {
    return await this.#open(method, path, options, options.accept ?? 'application/octet-stream')
  }

  /** One call whose body is `upload`. Answered by JSON; undefined for an empty answer. Never repeated. */
  async send<T> (method: string, path: string, options: CallOptions): Promise<T> {
    return await this.#once<T>(method, path, options)
  }

  /** What an error of an answer that was opened by `download` means. */
  asAnswerError (error: unknown, signal?: AbortSignal): Error {
    return this.#asKnown(error, 'answer', signal)
  }

  /**
   * A WebSocket that is open, paused: nothing that it says is lost before it is listened to. Never repeated.
   *
   * @throws BerthError what the daemon refused it with; ConnectionError.
   */
  async socket (path: string, query: Query, signal?: AbortSignal): Promise<WebSocket> {
    signal?.throwIfAborted()
    const { url, token, connectTimeoutMs = defaultConnectTimeoutMs } = this.#options
    const address = new URL(`${this.#base.pathname.replace(/\/$/, '')}${path}${formatQuery(query)}`, url ? this.#base : 'http://localhost')
    const socket = new WebSocket(address, {
      headers: { 'user-agent': 'berth-cli', ...(token ? { authorization: `Bearer ${token}` } : {}) },
      ...(url ? {} : { createConnection: () => connect(this.address) }),
      handshakeTimeout: connectTimeoutMs,
      perMessageDeflate: false,
    })
    const abort = () => socket.terminate()
    signal?.addEventListener('abort', abort, { once: true })
    try {
      await new Promise<void>((resolve, reject) => {
        socket.on('error', reject)
        socket.once('close', () => reject(Object.assign(new Error('closed'), { code: 'ECONNRESET' })))
        socket.once('unexpected-response', (_request, answer: http.IncomingMessage) => { this.#readError(answer, signal).then(reject, reject) })
        socket.once('open', () => {
          socket.pause()
          resolve()
        })
      })
    } catch (error) {
      socket.terminate()
      throw error instanceof ConnectionError ? error : this.#asKnown(error, 'connect', signal)
    } finally {
      signal?.removeEventListener('abort', abort)
    }
    this.#wasReached = true
    return socket
  }

  get #comeBackMs (): number {
    return this.#options.comeBackMs ?? defaultComeBackMs
  }

  #isWorthRepeating (error: unknown, method: string, attempt: number): boolean {
    if (error instanceof ConnectionError) return this.#wasReached && error.isTransient
    // The attempt before this one is still at work; its answer will be ours.
    if (attempt > 0 && error instanceof BerthError && inProgressCodes.has(error.code)) return true
    // A daemon that is starting or stopping says so; a first POST may mean something else by it.
    return isKind(error, 'unavailable') && (attempt > 0 || method === 'GET')
  }

  async #once<T> (method: string, path: string, options: CallOptions): Promise<T> {
    const answer = await this.#open(method, path, options, 'application/json')
    try {
      const text = await readText(answer)
      if (text === '') return undefined as T
      return parseAnswer<T>(text)
    } catch (error) {
      throw this.#asKnown(error, 'answer', options.signal)
    }
  }

  /** Sends the request; the answer's head has arrived and it is no error. */
  async #open (method: string, path: string, options: CallOptions, accept: string): Promise<http.IncomingMessage> {
    options.signal?.throwIfAborted()
    const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body))
    const headers: Record<string, string | number> = { accept, 'user-agent': 'berth-cli' }
    if (this.#options.token) headers.authorization = `Bearer ${this.#options.token}`
    if (options.upload) {
      Object.assign(headers, { 'content-type': options.upload.type, expect: '100-continue' })
      if (options.upload.sizeBytes !== undefined) headers['content-length'] = options.upload.sizeBytes
    } else if (body) Object.assign(headers, { 'content-type': 'application/json', 'content-length': body.length })
    if (options.idempotencyKey) headers['idempotency-key'] = options.idempotencyKey
    const target = this.#options.url ? { hostname: this.#base.hostname.replace(/^\[|\]$/g, ''), port: this.#base.port } : { socketPath: this.address }
    const fullPath = `${this.#base.pathname.replace(/\/$/, '')}${path}${formatQuery(options.query)}`
    const { request } = this.#base.protocol === 'https:' ? https : http
    let stage: 'connect' | 'answer' = 'connect'
    const answer = await new Promise<http.IncomingMessage>((resolve, reject) => {
      // One connection for a call: none can be found dead by the next one.
      const outgoing = request({ ...target, method, path: fullPath, headers, agent: false, signal: options.signal }, resolve)
      this.#watchConnecting(outgoing, () => {
        stage = 'answer'
        this.#wasReached = true
      })
      outgoing.on('error', reject)
      if (options.upload) sendUpload(options.upload.source, outgoing, reject)
      else outgoing.end(body)
    }).catch(error => { throw this.#asKnown(error, stage, options.signal) })
    if ((answer.statusCode ?? 500) >= 400) throw await this.#readError(answer, options.signal)
    return answer
  }

  #watchConnecting (outgoing: http.ClientRequest, onConnected: () => void): void {
    const timeoutMs = this.#options.connectTimeoutMs ?? defaultConnectTimeoutMs
    outgoing.once('socket', socket => {
      const timer = setTimeout(() => outgoing.destroy(Object.assign(new Error('connect timed out'), { code: 'ETIMEDOUT' })), timeoutMs)
      socket.once(this.#base.protocol === 'https:' ? 'secureConnect' : 'connect', () => {
        clearTimeout(timer)
        socket.setKeepAlive(true, keepAliveMs)
        onConnected()
      })
      socket.once('close', () => clearTimeout(timer))
    })
  }

  async #readError (answer: http.IncomingMessage, signal?: AbortSignal): Promise<Error> {
    let text: string
    try {
      text = await readText(answer)
    } catch (error) {
      return this.#asKnown(error, 'answer', signal)
    }
    const body = parseErrorBody(text)
    if (!body) {
      const { statusCode } = answer
      return new BerthError('internal', 'bad_answer', `${this.address} answered with HTTP ${statusCode} and no error of berth's; is it a berth daemon?`)
    }
    return new BerthError(body.kind as ErrorKind, body.code, body.message, { details: { ...body.details, requestId: body.requestId } })
  }

  #asKnown (error: unknown, stage: 'connect' | 'answer', signal?: AbortSignal): Error {
    if (signal?.aborted) return signal.reason as Error
    if (error instanceof BerthError) return error
    return new ConnectionError(this.address, stage, error as NodeJS.ErrnoException, !this.#options.url)
  }
}

export function isKind (error: unknown, kind: ErrorKind): boolean {
  return error instanceof BerthError && error.kind === kind
}

/** A socket without a listener is what a killed daemon leaves; where none ever ran there is none. */
function isRefusal (error: unknown): boolean {
  return error instanceof ConnectionError && (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED'
}

/** The record itself, unless it is how a stream tells of an error after its head was sent. */
export function throwIfError<T extends object> (record: T): T {
  const { type, code, message } = record as { type?: string, code?: string, message?: string }
  if (type === 'error') throw new BerthError('internal', code ?? 'internal', message ?? 'the daemon ended the stream with an error')
  return record
}

function parseBase (url: string | undefined): URL {
  if (url === undefined) return new URL('http://berth')
  const base = URL.canParse(url) ? new URL(url) : undefined
  if (base?.protocol !== 'http:' && base?.protocol !== 'https:') {
    throw new BerthError('invalid_argument', 'usage', `BERTH_URL: '${url}' is not an address like http://127.0.0.1:7070`)
  }
  // Both the root and the API's own prefix are what people write.
  base.pathname = base.pathname.replace(/\/v1\/?$/, '/')
  return base
}

function formatQuery (query: Query = {}): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) continue
    for (const one of Array.isArray(value) ? value : [value]) parameters.append(name, String(one))
  }
  const text = parameters.toString()
  return text === '' ? '' : `?${text}`
}
