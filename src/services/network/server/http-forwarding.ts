/** Sends one HTTP request on and its answer back: both bodies stream, neither is held. */
import { Agent, type ClientRequest, type ClientRequestArgs, type IncomingMessage, request as makeRequest, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { requestHead, responseHead, trailerPairs } from './http-heads.ts'
import { cut, join } from './socket-pair.ts'

const maximumHeadBytes = 64 * 1024

/** Keeps connections to servers for the next request on one connection of a client; nobody else gets them. */
export interface UpstreamAgent {
  agent: Agent
  /** Opens the connection of the request at hand, if it needs one. */
  open: () => Promise<Socket>
  /** Closes what no request uses, except for this key. */
  dropIdle: (except?: string) => void
  /** Keeps nothing from here on. */
  close: () => void
  /** What its connections are connected to. */
  addresses: WeakMap<Socket, string>
}

export function makeUpstreamAgent (): UpstreamAgent {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 1 })
  const upstreams: UpstreamAgent = {
    agent,
    addresses: new WeakMap(),
    close () {
      agent.maxFreeSockets = 0
      upstreams.dropIdle()
    },
    open: async () => { throw new Error('nothing is asked for') },
    dropIdle (except) {
      for (const [key, sockets = []] of Object.entries(agent.freeSockets)) {
        if (key !== except) for (const socket of sockets) socket.destroy()
      }
    },
  }
  agent.getName = options => options?.host ?? ''
  agent.createConnection = (_options, callback) => {
    upstreams.open().then(socket => callback?.(null, socket), (error: Error) => callback?.(error, undefined as unknown as Duplex))
    return undefined
  }
  return upstreams
}

export interface ForwardOptions {
  request: IncomingMessage
  response: ServerResponse
  agent: UpstreamAgent
  /** Connects to where the request goes. */
  open: () => Promise<Socket>
  /** For a request that has no Host. */
  host: string
  /** What requests must have in common to share a connection. */
  key: string
  onUpstream: (upstream: Socket) => void
  /** With a change of protocol: what came after the request. */
  head?: Buffer
}

/** done: answered, or handed over to another protocol that has ended; failed: nothing was answered; broken: it ended in the midst. */
export type ForwardOutcome = { state: 'done' } | { state: 'failed', error: unknown } | { state: 'broken' }

export async function forwardRequest (options: ForwardOptions): Promise<ForwardOutcome> {
  const { request, response, agent, host, key, head } = options
  const upgrade = head === undefined ? undefined : request.headers.upgrade
  const forwarded = requestHead(request, { isKeptAlive: response.shouldKeepAlive, host, ...upgrade !== undefined && { upgrade } })
  if (forwarded === undefined) return { state: 'failed', error: new Error('an unknown transfer coding') }
  agent.dropIdle(key)
  agent.open = options.open
  return await new Promise(resolve => {
    let upstreamRequest: ClientRequest
    try {
      const { method, url: path } = request
      const target: ClientRequestArgs = { method, path, headers: forwarded.headers, host: key, setHost: false, agent: agent.agent }
      upstreamRequest = makeRequest({ ...target, maxHeaderSize: maximumHeadBytes, insecureHTTPParser: false })
    } catch (error) {
      resolve({ state: 'failed', error })
      return
    }
    upstreamRequest.maxHeadersCount = 0
    /** What a server sends must not end the process, whatever Node thinks of it. */
    const guarded = <Arguments extends unknown[]>(work: (...args: Arguments) => void) => (...args: Arguments): void => {
      try {
        work(...args)
      } catch (error) {
        upstreamRequest.destroy()
        resolve(response.headersSent ? { state: 'broken' } : { state: 'failed', error })
      }
    }
    upstreamRequest.once('socket', options.onUpstream)
    upstreamRequest.on('error', error => {
      // A kept connection may end just when it is used: to the client it is as if its own had, and it knows whether it may ask again.
      resolve(response.headersSent || upstreamRequest.reusedSocket ? { state: 'broken' } : { state: 'failed', error })
    })
    response.once('close', () => {
      if (!response.writableFinished) upstreamRequest.destroy()
      resolve({ state: 'done' })
    })
    upstreamRequest.on('continue', () => response.writeContinue())
    upstreamRequest.on('information', guarded(({ statusCode, rawHeaders }) => {
      // Node has told of 100 already; who asked in HTTP/1.0 would take it for the answer.
      if (statusCode === 100 || request.httpVersion === '1.0') return
      response.writeInformation(statusCode, rawHeaders)
    }))
    upstreamRequest.on('response', guarded(answer => returnAnswer(answer, { request, response, upstreamRequest, resolve, guarded })))
    upstreamRequest.on('upgrade', guarded((answer, upstream: Socket, rest) => {
      const near = request.socket
      if (head === undefined || near.destroyed) {
        cut(upstream)
        throw new Error('a change of protocol that nobody asked for')
      }
      response.detachSocket(near)
      const lines = [`HTTP/1.1 101 ${answer.statusMessage ?? ''}`]
      for (let at = 0; at < answer.rawHeaders.length; at += 2) lines.push(`${answer.rawHeaders[at]}: ${answer.rawHeaders[at + 1]}`)
      near.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
      if (rest.length > 0) near.write(rest)
      if (head.length > 0) upstream.write(head)
      join(near, upstream, { hasReceiver: false })
      near.once('close', () => resolve({ state: 'done' }))
    }))
    sendBody(request, upstreamRequest, guarded)
    // A client that has ended its side may have left, or may wait: the server is told the same, and decides.
    const passEnd = (): void => { if (request.socket.readableEnded && upstreamRequest.writableFinished) upstreamRequest.socket?.end() }
    request.socket.on('end', passEnd)
    upstreamRequest.once('finish', passEnd).once('close', () => request.socket.off('end', passEnd))
  })
}

type Guard = <Arguments extends unknown[]>(work: (...args: Arguments) => void) => (...args: Arguments) => void

function sendBody (request: IncomingMessage, upstreamRequest: ClientRequest, guarded: Guard): void {
  request.pipe(upstreamRequest, { end: false })
  request.once('end', guarded(() => {
    const trailers = trailerPairs(request.rawTrailers)
    if (trailers.length > 0) upstreamRequest.addTrailers(trailers)
    upstreamRequest.end()
  }))
  // A body that the server waits for may come late; its head does not.
  setImmediate(() => { if (!upstreamRequest.destroyed && !upstreamRequest.writableEnded) upstreamRequest.flushHeaders() })
}

interface Exchange {
  request: IncomingMessage
  response: ServerResponse
  upstreamRequest: ClientRequest
  resolve: (outcome: ForwardOutcome) => void
  guarded: Guard
}

function returnAnswer (answer: IncomingMessage, { request, response, upstreamRequest, resolve, guarded }: Exchange): void {
  const head = responseHead(answer, request.httpVersion !== '1.0')
  if (head === undefined || answer.statusCode === undefined) {
    upstreamRequest.destroy()
    resolve({ state: 'failed', error: new Error('an unknown transfer coding') })
    return
  }
  response.sendDate = false
  response.writeHead(answer.statusCode, answer.statusMessage, head.headers)
  answer.pipe(response, { end: false })
  answer.once('end', guarded(() => {
    // What is left of the request is nobody's, and must not be taken for another one.
    if (!request.complete) response.once('finish', () => request.socket.destroySoon())
    if (!upstreamRequest.writableFinished) upstreamRequest.destroy()
    if (head.isChunked) response.addTrailers(trailerPairs(answer.rawTrailers))
    response.end()
  }))
  answer.on('error', () => {})
  answer.once('close', () => { if (!answer.complete) resolve({ state: 'broken' }) })
  setImmediate(() => { if (!response.destroyed && !response.writableEnded) response.flushHeaders() })
}
