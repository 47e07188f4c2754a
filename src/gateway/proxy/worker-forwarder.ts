/**
 * Carries HTTP/1.1, and whatever it is upgraded to, between a client and the API of a host: streaming, with back-pressure, nothing
 * buffered, no limit of time but for connecting.
 */
import { request as httpRequest, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { Duplex } from 'node:stream'
import { BerthError } from '../../errors.ts'
import { beginWhenConnected, hasBody, passInformation, sendAnswer, sendBody } from './http-passing.ts'
import { clientAnswerHeaders, headerPairs, hostRequestHeaders } from './proxy-headers.ts'
import type { PendingTunnel } from './proxy-door.ts'
import { joinSockets } from './socket-tunnel.ts'
import type { WorkerLink } from './worker-links.ts'
import { WorkerUnreachableError, badWorkerAnswer, workerRefuses } from './worker-problems.ts'

export interface WorkerCall {
  link: WorkerLink
  /** Path and query for the host. */
  target: string
  prefix: string
  requestId: string
  /** Whether the gateway's credentials go along; without them the host alone decides. */
  isVouchedFor: boolean
  /** Whether a program in a sandbox answers, so that what it refuses is not the host's refusal. */
  isPreview: boolean
  idempotencyKey?: string | undefined
  protocols?: string | undefined
  /** Called with the status of the host's answer before its first byte goes out. */
  onAnswer: (status: number) => void
}

/** A client and its request. */
export interface WorkerExchange {
  request: IncomingMessage
  response: ServerResponse
  /** Of a request for an upgrade; `response` owns its socket. */
  tunnel?: PendingTunnel | undefined
  /** Aborted when everything is to end at once. */
  forcing: AbortSignal
  /** Aborted when what would last is to end: tunnels, and answers without a length. */
  closing: AbortSignal
}

/** A host's own limit for what it is sent is 16 KiB. */
const maxAnswerHeadBytes = 64 * 1024
/** 100, 102 and 103 in earnest come once or twice. */
const maxInformational = 16
/** How long a client may go on sending what nobody wants any more, so that it can read its answer. */
const drainMs = 10_000

const repeatable = new Set(['GET', 'HEAD', 'OPTIONS'])

/** A connection that was kept was closed by the host just when it was used again. */
class StaleConnectionError extends Error {}

/**
 * Answers with what the host answers; ends when that has been sent or broken off.
 * @throws BerthError before anything was sent: unavailable `worker_unreachable`.
 */
export async function forwardToWorker (call: WorkerCall, exchange: WorkerExchange): Promise<void> {
  const { request, tunnel } = exchange
  const isRepeatable = !hasBody(request) && repeatable.has(request.method ?? '')
  try {
    // An upgrade has a connection to itself.
    await new Passage(call, exchange, tunnel !== undefined).run()
  } catch (error) {
    if (!(error instanceof StaleConnectionError)) throw error
    if (!isRepeatable) throw new WorkerUnreachableError(call.link.access.worker.id, error, true)
    await new Passage(call, exchange, true).run()
  }
}

/** One request on its way, and its answer. */
class Passage {
  readonly #call: WorkerCall
  readonly #exchange: WorkerExchange
  readonly #upstream: ClientRequest
  readonly #done = Promise.withResolvers<void>()
  #wasSent = false
  #hasAnswer = false
  #lasts = false
  #informational = 0

  constructor (call: WorkerCall, exchange: WorkerExchange, isAlone: boolean) {
    this.#call = call
    this.#exchange = exchange
    const { link, target } = call
    const { request, tunnel } = exchange
    this.#upstream = (link.isEncrypted ? httpsRequest : httpRequest)({
      hostname: link.hostname,
      port: link.port,
      agent: isAlone ? false : link.agent,
      ...(isAlone && link.access.ca ? { ca: link.access.ca } : {}),
      method: request.method,
      path: link.basePath + target,
      headers: [...framedHeaders(call, request), ...(tunnel ? ['Connection', 'Upgrade', 'Upgrade', request.headers.upgrade ?? ''] : [])],
      maxHeaderSize: maxAnswerHeadBytes,
    })
  }

  async run (): Promise<void> {
    const { response, closing, forcing } = this.#exchange
    const onGone = () => { if (!response.writableFinished) this.#upstream.destroy() }
    const onClosing = () => { if (this.#lasts) this.#cut() }
    const onForcing = () => this.#cut()
    response.once('close', onGone)
    closing.addEventListener('abort', onClosing, { once: true })
    forcing.addEventListener('abort', onForcing, { once: true })
    this.#listen()
    try {
      await this.#done.promise
    } finally {
      response.off('close', onGone)
      closing.removeEventListener('abort', onClosing)
      forcing.removeEventListener('abort', onForcing)
    }
  }

  #cut (): void {
    this.#upstream.destroy()
    this.#exchange.request.socket.destroy()
  }

  #listen (): void {
    const upstream = this.#upstream
    const { request } = this.#exchange
    beginWhenConnected(upstream, this.#call.link.isEncrypted, () => {
      this.#wasSent = true
      if (hasBody(request)) sendBody(request, upstream)
      else upstream.end()
    })
    upstream.on('information', ({ statusCode, rawHeaders }: { statusCode: number, rawHeaders: string[] }) => {
      if (++this.#informational > maxInformational) return this.#fail(this.#bad('it sends interim answers without end'))
      passInformation(this.#exchange.response, statusCode, rawHeaders)
    })
    upstream.on('response', answer => this.#answer(answer))
    upstream.on('upgrade', (answer, socket, head) => this.#upgrade(answer, socket, head))
    upstream.on('error', (error: NodeJS.ErrnoException) => this.#onError(error))
    upstream.on('close', () => { if (!this.#hasAnswer) this.#done.resolve() })
  }

  #answer (answer: IncomingMessage): void {
    const { request, response, closing } = this.#exchange
    const { isVouchedFor, isPreview, link } = this.#call
    this.#hasAnswer = true
    if (answer.statusCode === 401 && isVouchedFor && !isPreview) return this.#fail(workerRefuses(link.access.worker.id))
    this.#lasts = answer.headers['content-length'] === undefined && request.method === 'GET'
    try {
      this.#sendHead(answer)
    } catch (error) {
      return this.#fail(this.#bad('its answer is not valid HTTP', error))
    }
    if (this.#lasts && closing.aborted) return this.#cut()
    sendAnswer(answer, response).catch(() => {
      // The client learns by the broken connection that there was more.
      response.destroy()
      this.#upstream.destroy()
    }).then(() => {
      if (hasBody(request)) this.#drain()
      this.#done.resolve()
    }, this.#done.reject)
  }

  #sendHead (answer: IncomingMessage): void {
    const { request, response } = this.#exchange
    const isChunked = answer.headers['transfer-encoding']?.toLowerCase() === 'chunked'
    if (answer.headers['transfer-encoding'] !== undefined && !isChunked) throw new Error('a transfer encoding that is not known')
    // A client that waits for leave to send its body, and got an answer, may go on with another request: where one ends can no longer be told.
    if (request.headers.expect !== undefined && !request.complete) response.shouldKeepAlive = false
    const headers = this.#headersOf(answer, isChunked && request.httpVersion === '1.1' && request.method !== 'HEAD')
    response.writeHead(answer.statusCode ?? 502, answer.statusMessage ?? '', headers)
    this.#call.onAnswer(answer.statusCode ?? 502)
    // A head whose body comes later goes out alone; with one that is there it shares a packet.
    setImmediate(() => { if (!response.writableEnded && !response.destroyed) response.flushHeaders() })
  }

  #upgrade (answer: IncomingMessage, socket: Duplex, head: Buffer): void {
    const { tunnel, response, closing } = this.#exchange
    this.#hasAnswer = true
    if (!tunnel || closing.aborted) {
      socket.destroy()
      return closing.aborted ? this.#cut() : this.#fail(this.#bad('it changed the protocol without being asked'))
    }
    this.#lasts = true
    this.#call.onAnswer(101)
    response.statusCode = 101
    const client = tunnel.socket
    if (response.socket) response.detachSocket(response.socket)
    const fields = [...headerPairs(this.#headersOf(answer, false))].map(([name, value]) => `${name}: ${value}\r\n`).join('')
    client.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${answer.headers.upgrade ?? ''}\r\n${fields}\r\n`, 'latin1')
    if (head.length > 0) client.write(head)
    if (tunnel.head.length > 0) socket.write(tunnel.head)
    void joinSockets(client, socket).then(() => {
      // To those who count it, the request lasted until here.
      response.emit('finish')
      this.#done.resolve()
    })
  }

  #headersOf (answer: IncomingMessage, hasTrailers: boolean): string[] {
    const { prefix, target, link } = this.#call
    // What is asked of one sandbox, of whatever host, stays with it: /v1/sandboxes/ID.
    const home = prefix === '' ? target.split('?', 1)[0]!.split('/', 4).join('/') : prefix
    return clientAnswerHeaders(answer.rawHeaders, { prefix, home, workerId: link.access.worker.id, hasTrailers })
  }

  #onError (error: NodeJS.ErrnoException): void {
    const { request, response } = this.#exchange
    // What fails after the answer began shows in the answer; a host need not read a body to its end.
    if (this.#hasAnswer) return
    if (response.destroyed || request.socket.destroyed) return this.#done.resolve()
    if (this.#upstream.reusedSocket && error.code === 'ECONNRESET' && !hasBody(request)) return this.#done.reject(new StaleConnectionError())
    if (error.code?.startsWith('HPE_')) return this.#fail(this.#bad('it is not HTTP/1.1', error))
    this.#fail(new WorkerUnreachableError(this.#call.link.access.worker.id, error, this.#wasSent))
  }

  #fail (error: BerthError): void {
    const { request, response } = this.#exchange
    this.#hasAnswer = true
    this.#upstream.destroy()
    if (response.headersSent) request.socket.destroy()
    else if (hasBody(request)) this.#drain()
    this.#done.reject(error)
  }

  #bad (what: string, cause?: unknown): BerthError {
    return badWorkerAnswer(this.#call.link.access.worker.id, what, cause)
  }

  /** Takes what a client still sends to nobody, so that it comes to read its answer; not for ever. */
  #drain (): void {
    const { request, response } = this.#exchange
    if (request.complete || request.destroyed) return
    if (request.headers.expect !== undefined && !response.headersSent) response.shouldKeepAlive = false
    request.unpipe()
    request.resume()
    const timer = setTimeout(() => request.socket.destroy(), drainMs)
    timer.unref()
    for (const event of ['end', 'close']) request.once(event, () => clearTimeout(timer))
  }
}

function framedHeaders ({ link, requestId, isVouchedFor, idempotencyKey, protocols }: WorkerCall, request: IncomingMessage): string[] {
  const { remoteAddress, encrypted } = request.socket as typeof request.socket & { encrypted?: boolean }
  const headers = hostRequestHeaders(request.rawHeaders, {
    authority: link.authority,
    clientAddress: remoteAddress?.replace(/^::ffff:/, ''),
    isEncrypted: encrypted === true,
    requestId,
    idempotencyKey,
    protocols,
    token: isVouchedFor ? link.access.token : undefined,
  })
  const encoding = request.headers['transfer-encoding']
  if (encoding !== undefined) {
    if (encoding.toLowerCase() !== 'chunked') throw new BerthError('invalid_argument', 'transfer_encoding_unknown', 'of transfer encodings only chunked is passed on; use Content-Encoding')
    headers.push('Transfer-Encoding', 'chunked', ...(request.headers.trailer === undefined ? [] : ['Trailer', request.headers.trailer]))
  } else if (!('content-length' in request.headers) && !repeatable.has(request.method ?? '')) headers.push('Content-Length', '0')
  if (request.headers.upgrade === undefined && /(^|,)\s*trailers\s*(,|$)/i.test(String(request.headers.te ?? ''))) headers.push('TE', 'trailers', 'Connection', 'keep-alive, TE')
  return headers
}
