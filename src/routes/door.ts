import { randomUUID } from 'node:crypto'
import { createServer, ServerResponse, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { answerClientError } from './http-errors.ts'

/** What else than plain requests comes in, and to whom it goes. */
export interface Doorkeeper {
  shouldUpgrade: (request: IncomingMessage) => boolean
  handleUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer, handle: RequestListener) => void
  handleContinue: (request: IncomingMessage, response: ServerResponse, handle: RequestListener) => void
}

export interface DoorOptions {
  handle: RequestListener
  /** URL and headers together. */
  maxHeaderBytes: number
  requestTimeoutMs: number
  upgrades: Doorkeeper
}

/** An HTTP server by which the API is reached beside its own port. It does not listen yet. */
export function createDoor ({ handle, maxHeaderBytes, requestTimeoutMs, upgrades }: DoorOptions): Server {
  const server = createServer({
    maxHeaderSize: maxHeaderBytes,
    // Bodies are bounded by whoever reads them.
    requestTimeout: 0,
    headersTimeout: requestTimeoutMs,
    shouldUpgradeCallback: request => upgrades.shouldUpgrade(request),
  }, handle)
  server.on('upgrade', (request, socket, head) => upgrades.handleUpgrade(request, socket, head, handle))
  server.on('checkContinue', (request, response) => upgrades.handleContinue(request, response, handle))
  server.on('clientError', (error, socket) => answerClientError(error, socket as Socket, randomUUID))
  return server
}

/** An answer to a request whose connection its server has let go of. The connection ends with it, unless it is detached before. */
export function responseOn (request: IncomingMessage, socket: Socket): ServerResponse<IncomingMessage> & { req: IncomingMessage } {
  const response = new ServerResponse(request)
  response.shouldKeepAlive = false
  response.assignSocket(socket)
  // A server does this for its own answers; this one is made by hand.
  socket.on('drain', () => response.emit('drain'))
  socket.on('error', () => {})
  response.once('finish', () => socket.destroySoon())
  return response as ServerResponse<IncomingMessage> & { req: IncomingMessage }
}
