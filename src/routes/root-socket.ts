import { randomUUID } from 'node:crypto'
import { chmod, rm } from 'node:fs/promises'
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

export interface RootSocketOptions {
  path: string
  handle: RequestListener
  /** URL and headers together. */
  maxHeaderBytes: number
  requestTimeoutMs: number
  previews?: Doorkeeper
}

/** The door of root on this host: a unix socket with mode 0600, whose callers need no token. */
export class RootSocket {
  readonly #server: Server
  readonly #path: string
  readonly #connections = new WeakSet<Socket>()

  constructor (options: RootSocketOptions) {
    this.#path = options.path
    const { previews } = options
    this.#server = createServer({
      maxHeaderSize: options.maxHeaderBytes,
      // Bodies are bounded by whoever reads them.
      requestTimeout: 0,
      headersTimeout: options.requestTimeoutMs,
      shouldUpgradeCallback: request => previews?.shouldUpgrade(request) ?? false,
    }, options.handle)
    if (previews) {
      this.#server.on('upgrade', (request, socket, head) => previews.handleUpgrade(request, socket, head))
      this.#server.on('checkContinue', (request, response) => previews.handleContinue(request, response, options.handle))
    }
    this.#server.on('connection', socket => this.#connections.add(socket))
    this.#server.on('clientError', (error, socket) => answerClientError(error, socket as Socket, randomUUID))
  }

  /** Whether a connection came in by this door. */
  has (socket: Socket): boolean {
    return this.#connections.has(socket)
  }

  /** Listens. What lies at the path is a dead daemon's: the lock on the directories says that no live one listens there. */
  async open (): Promise<void> {
    await rm(this.#path, { force: true })
    const umask = process.umask(0o177)
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject)
        this.#server.listen(this.#path, resolve)
      })
    } finally {
      process.umask(umask)
    }
    await chmod(this.#path, 0o600)
  }

  async close (): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()))
    this.#server.closeIdleConnections()
    await closed
    await rm(this.#path, { force: true })
  }
}
