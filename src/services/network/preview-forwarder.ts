/**
 * Carries HTTP/1.1 and whatever it is upgraded to between a client and a program in a sandbox:
 * streaming, with back-pressure, nothing buffered, no limit of time but for connecting.
 */
import { request as httpRequest, type Agent, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { BerthError } from '../../errors.ts'
import { OpenPreviews, type OpenPreviewsOptions, type PreviewAgents } from './open-previews.ts'
import { sendAnswer } from './preview-body.ts'
import { answerHeaders, pairs, requestHeaders, type AnswerFacts, type RawHeaders } from './preview-headers.ts'
import { joinUpgraded } from './preview-upgrade.ts'

/** Where sandboxes are. */
export interface PreviewTargets {
  /** @throws BerthError not_found, or conflict for a sandbox that does not run. */
  previewTarget: (sandboxId: string) => { host: string }
}

export interface PreviewForwarderOptions extends OpenPreviewsOptions {
  targets: PreviewTargets
  connectTimeoutMs?: number
}

/** What is asked of which port, admitted. */
export interface PreviewCall {
  sandboxId: string
  port: number
  /** Path and query for the program. */
  path: string
  /** Path under which the program is seen; empty where it has a host name of its own. */
  prefix: string
  isAuthorizationOurs: boolean
  /** Called before the first byte of an answer that is the program's own. */
  onAnswer?: () => void
}

const defaultConnectTimeoutMs = 5000
/** What a program may send as its head; curl takes 300 KB, browsers 256 KB, most servers send less than 8. */
const maxAnswerHeadBytes = 64 * 1024
/** 100, 102 and 103 in earnest come once or twice. */
const maxInformational = 16
/** Lets the system notice peers that vanished. */
const keepAliveMs = 30_000
/** How long a client may go on sending what nobody wants any more, so that it can read its answer. */
const drainMs = 10_000

const repeatable = new Set(['GET', 'HEAD', 'OPTIONS'])

interface Attempt {
  call: PreviewCall
  request: IncomingMessage
  response: ServerResponse
  target: { host: string, port: number }
  agents: PreviewAgents
  /** Told of the outgoing request, to be able to end it. */
  hold: (upstream: ClientRequest) => void
}

export class PreviewForwarder {
  readonly #targets: PreviewTargets
  readonly #connectTimeoutMs: number
  readonly open: OpenPreviews

  constructor (options: PreviewForwarderOptions) {
    this.#targets = options.targets
    this.#connectTimeoutMs = options.connectTimeoutMs ?? defaultConnectTimeoutMs
    this.open = new OpenPreviews(options)
  }

  /**
   * Answers with what the program answers; ends when that has been sent or broken off.
   * @throws BerthError before anything was sent: nothing listens, no proper answer.
   */
  async forward (request: IncomingMessage, response: ServerResponse, call: PreviewCall): Promise<void> {
    await this.#run(request, response, call, attempt => this.#exchange(attempt))
  }

  /**
   * Carries an upgraded connection; ends when it does. A program that does not upgrade answers as to any request,
   * on `response`, which must own the socket.
   * @throws BerthError before anything was sent.
   */
  async upgrade (request: IncomingMessage, response: ServerResponse, socket: Duplex, head: Buffer, call: PreviewCall): Promise<void> {
    await this.#run(request, response, call, attempt => this.#exchange(attempt, { socket, head }))
  }

  async #run (request: IncomingMessage, response: ServerResponse, call: PreviewCall, work: (attempt: Attempt) => Promise<void>): Promise<void> {
    const target = { host: this.#targets.previewTarget(call.sandboxId).host, port: call.port }
    let upstream: ClientRequest | undefined
    const cut = () => {
      upstream?.destroy()
      request.socket.destroy()
    }
    const onGone = () => { if (!response.writableFinished) upstream?.destroy() }
    const { agents, end } = this.open.begin(call.sandboxId, cut)
    response.once('close', onGone)
    try {
      await work({ call, request, response, target, agents, hold: made => { upstream = made } })
    } finally {
      response.off('close', onGone)
      end()
    }
  }

  async #exchange (attempt: Attempt, tunnel?: { socket: Duplex, head: Buffer }): Promise<void> {
    const { request, agents } = attempt
    const hasBody = 'content-length' in request.headers ? request.headers['content-length'] !== '0' : 'transfer-encoding' in request.headers
    // A kept connection may be closed by the program just when it is used again: only what can be sent twice goes there.
    const isRepeatable = !tunnel && !hasBody && repeatable.has(request.method ?? '')
    try {
      await this.#attempt(isRepeatable ? agents.kept : agents.fresh, attempt, hasBody, tunnel)
    } catch (error) {
      if (!(error instanceof StaleConnectionError)) throw error
      await this.#attempt(agents.fresh, attempt, hasBody, tunnel)
    }
  }

  async #attempt (agent: Agent, attempt: Attempt, hasBody: boolean, tunnel?: { socket: Duplex, head: Buffer }): Promise<void> {
    const { call, request, response, target, hold } = attempt
    const done = Promise.withResolvers<void>()
    const upstream = httpRequest({
      ...target,
      agent,
      method: request.method,
      path: call.path,
      headers: [...framedHeaders(attempt, hasBody), ...(tunnel ? upgradeHeaders(request) : [])],
      maxHeaderSize: maxAnswerHeadBytes,
    })
    hold(upstream)
    watchConnecting(upstream, this.#connectTimeoutMs, () => hasBody ? sendBody(request, upstream) : upstream.end())
    let hasAnswer = false
    let informational = 0
    const fail = (error: unknown) => {
      upstream.destroy()
      response.statusMessage = ''
      if (response.headersSent) request.socket.destroy()
      else if (hasBody) drain(request, response)
      done.reject(error)
    }
    upstream.on('information', ({ statusCode, rawHeaders }: { statusCode: number, rawHeaders: string[] }) => {
      if (++informational > maxInformational) return fail(badAnswer(call, 'it sends interim answers without end'))
      passInformation(response, statusCode, rawHeaders)
    })
    upstream.on('response', answer => {
      hasAnswer = true
      try {
        sendHead(answer, attempt)
      } catch (error) {
        return fail(badAnswer(call, 'its answer is not valid HTTP', error))
      }
      sendAnswer(answer, response).then(() => {
        if (hasBody) drain(request, response)
        done.resolve()
      }, () => {
        // The client learns by the broken connection that there was more.
        response.destroy()
        upstream.destroy()
        done.resolve()
      })
    })
    upstream.on('upgrade', (answer, socket, head) => {
      hasAnswer = true
      if (!tunnel) {
        socket.destroy()
        return fail(badAnswer(call, 'it changed the protocol without being asked'))
      }
      call.onAnswer?.()
      const headers = answerHeaders(answer.rawHeaders, answerFacts(attempt))
      void joinUpgraded({ client: tunnel.socket, clientHead: tunnel.head, program: socket as Socket, programHead: head, response, answer, headers }).then(done.resolve)
    })
    upstream.on('error', error => {
      // What fails after the answer began shows in the answer; a program need not read a body to its end.
      if (hasAnswer) return
      if (response.destroyed || request.socket.destroyed) return done.resolve()
      if (upstream.reusedSocket && (error as NodeJS.ErrnoException).code === 'ECONNRESET') return done.reject(new StaleConnectionError())
      fail(explain(error, call))
    })
    upstream.on('close', () => { if (!hasAnswer) done.resolve() })
    return done.promise
  }
}

/** A connection kept from a request before was closed by the program: no fault of this one. */
class StaleConnectionError extends Error {}

/** Starts the body when there is somebody to take it; only connecting has a limit of time. */
function watchConnecting (upstream: ClientRequest, timeoutMs: number, begin: () => void): void {
  upstream.once('socket', socket => {
    if (!socket.connecting) return begin()
    const timer = setTimeout(() => upstream.destroy(Object.assign(new Error('connecting took too long'), { code: 'ETIMEDOUT' })), timeoutMs)
    socket.once('connect', () => {
      socket.setKeepAlive(true, keepAliveMs)
      begin()
    })
    for (const event of ['connect', 'close']) socket.once(event, () => clearTimeout(timer))
  })
}

function framedHeaders (attempt: Attempt, hasBody: boolean): RawHeaders {
  const { call, request, target } = attempt
  const { remoteAddress, encrypted } = request.socket as typeof request.socket & { encrypted?: boolean }
  const headers = requestHeaders(request.rawHeaders, {
    authority: `${target.host}:${target.port}`,
    prefix: call.prefix,
    clientAddress: remoteAddress?.replace(/^::ffff:/, ''),
    isEncrypted: encrypted === true,
    isAuthorizationOurs: call.isAuthorizationOurs,
  })
  const encoding = request.headers['transfer-encoding']
  if (encoding !== undefined) {
    if (encoding.toLowerCase() !== 'chunked') throw new BerthError('invalid_argument', 'transfer_encoding_unknown', 'of transfer encodings only chunked is passed on; use Content-Encoding')
    headers.push('Transfer-Encoding', 'chunked')
  } else if (!hasBody && !('content-length' in request.headers) && !repeatable.has(request.method ?? '')) headers.push('Content-Length', '0')
  if (/(^|,)\s*trailers\s*(,|$)/i.test(String(request.headers.te ?? ''))) headers.push('TE', 'trailers')
  return headers
}

function upgradeHeaders (request: IncomingMessage): RawHeaders {
  return ['Connection', 'Upgrade', 'Upgrade', request.headers.upgrade ?? '']
}

function answerFacts ({ call, request, target }: Attempt): AnswerFacts {
  const authorities = [target.host, 'localhost', '127.0.0.1', '0.0.0.0'].map(host => `${host}:${target.port}`)
  return { prefix: call.prefix, host: request.headers.host, authorities }
}

function sendBody (request: IncomingMessage, upstream: ClientRequest): void {
  request.pipe(upstream, { end: false })
  request.once('end', () => {
    if (request.rawTrailers.length > 0) upstream.addTrailers([...pairs(request.rawTrailers)])
    upstream.end()
  })
}

function passInformation (response: ServerResponse, statusCode: number, rawHeaders: string[]): void {
  if (response.headersSent || !response.writable) return
  if (statusCode === 100) return response.writeContinue()
  if (statusCode === 102) return response.writeProcessing()
  if (statusCode !== 103) return
  const links = [...pairs(rawHeaders)].flatMap(([name, value]) => name.toLowerCase() === 'link' ? value : [])
  if (links.length === 0) return
  try {
    response.writeEarlyHints({ link: links })
  } catch {
    // A hint that Node takes for malformed can be done without.
  }
}

function sendHead (answer: IncomingMessage, attempt: Attempt): void {
  const { call, request, response } = attempt
  const encoding = answer.headers['transfer-encoding']
  if (encoding !== undefined && encoding.toLowerCase() !== 'chunked') throw new Error(`transfer encoding ${encoding}`)
  // A client that waits for leave to send its body, and got an answer, may go on with another request: where one ends can no longer be told.
  if (request.headers.expect !== undefined && !request.complete) response.shouldKeepAlive = false
  response.writeHead(answer.statusCode ?? 502, answer.statusMessage ?? '', answerHeaders(answer.rawHeaders, answerFacts(attempt)))
  call.onAnswer?.()
  // A head whose body comes later goes out alone; with one that is there it shares a packet.
  setImmediate(() => { if (!response.writableEnded && !response.destroyed) response.flushHeaders() })
}

/** Takes what a client still sends to nobody, so that it comes to read its answer; not for ever. */
function drain (request: IncomingMessage, response: ServerResponse): void {
  if (request.complete || request.destroyed) return
  if (request.headers.expect !== undefined && !response.headersSent) response.shouldKeepAlive = false
  request.unpipe()
  request.resume()
  const timer = setTimeout(() => request.socket.destroy(), drainMs)
  timer.unref()
  for (const event of ['end', 'close']) request.once(event, () => clearTimeout(timer))
}

function badAnswer (call: PreviewCall, what: string, cause?: unknown): BerthError {
  return new BerthError('unavailable', 'port_answer_invalid', `the program on port ${call.port} of this sandbox gave no proper answer: ${what}`, { cause, details: { port: call.port } })
}

function explain (error: NodeJS.ErrnoException, call: PreviewCall): BerthError {
  const { port } = call
  const options = { cause: error, details: { port } }
  const at = error.syscall === 'connect' || error.code === 'ETIMEDOUT'
  if (at && error.code === 'ECONNREFUSED') {
    return new BerthError('unavailable', 'port_not_listening', `nothing listens on port ${port} in this sandbox: start a server that listens on 0.0.0.0, not 127.0.0.1`, options)
  }
  if (at) return new BerthError('unavailable', 'port_unreachable', `port ${port} of this sandbox cannot be connected to: it is too busy, or frozen`, options)
  if (error.code === 'HPE_HEADER_OVERFLOW') return badAnswer(call, `its head has more than ${maxAnswerHeadBytes} bytes`, error)
  if (error.code?.startsWith('HPE_')) return badAnswer(call, 'what it sends is not HTTP/1.1', error)
  return badAnswer(call, 'it closed the connection before an answer', error)
}
