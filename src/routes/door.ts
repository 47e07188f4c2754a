import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { answerClientError } from './http-errors.ts'

/** What else than plain requests comes in, and to whom it goes. */
export interface Doorkeeper {
  shouldUpgrade: (request: IncomingMessage) => boolean
  handleUpgrade: (request: IncomingMessage, socket: Duplex, head: Buffer) => void
  handleContinue: (request: IncomingMessage, response: ServerResponse, handle: RequestListener) => void
}

export interface DoorOptions {
  handle: RequestListener
  /** URL and headers together. */
  maxHeaderBytes: number
  requestTimeoutMs: number
  previews?: Doorkeeper
}

/** An HTTP server by which the API is reached beside its own port. It does not listen yet. */
export function createDoor ({ handle, maxHeaderBytes, requestTimeoutMs, previews }: DoorOptions): Server {
  const server = createServer({
    maxHeaderSize: maxHeaderBytes,
    // Bodies are bounded by whoever reads them.
    requestTimeout: 0,
    headersTimeout: requestTimeoutMs,
    shouldUpgradeCallback: request => previews?.shouldUpgrade(request) ?? false,
  }, handle)
  if (previews) {
    server.on('upgrade', (request, socket, head) => previews.handleUpgrade(request, socket, head))
    server.on('checkContinue', (request, response) => previews.handleContinue(request, response, handle))
  }
  server.on('clientError', (error, socket) => answerClientError(error, socket as Socket, randomUUID))
  return server
}
