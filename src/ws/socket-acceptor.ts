/** Makes a WebSocket of a request that asks for one, when nothing speaks against it. */
import type { IncomingMessage } from 'node:http'
import type { FastifyRequest } from 'fastify'
import { WebSocketServer, type WebSocket } from 'ws'
import { BerthError } from '../errors.ts'
import { subprotocol } from './socket-access.ts'
import type { UpgradeKeeper } from './upgrade-keeper.ts'

export interface SocketAcceptorOptions {
  /** The largest message that a client may send, in bytes, inflated; a larger one closes the socket with 1009. */
  maxMessageBytes: number
  /** Whether frames are deflated where the client offers it. */
  deflates: boolean
}

/** Nothing is remembered between messages: what deflating costs is spent while one is deflated, a few at a time. Small ones go as they are. */
const deflate = { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 1024, zlibDeflateOptions: { level: 1 } }

export class SocketAcceptor {
  readonly #server: WebSocketServer
  readonly #requestIds = new WeakMap<IncomingMessage, string>()
  readonly #refusals = new WeakMap<IncomingMessage, Error>()

  constructor ({ maxMessageBytes, deflates }: SocketAcceptorOptions) {
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      maxPayload: maxMessageBytes,
      // Who asks for answers and takes none would have them pile up; JsonSocket answers.
      autoPong: false,
      handleProtocols: () => subprotocol,
      perMessageDeflate: deflates && deflate,
    })
    this.#server.on('headers', (headers, request) => headers.push(`X-Request-Id: ${this.#requestIds.get(request)}`))
    this.#server.on('wsClientError', (error, _socket, request) => this.#refusals.set(request, error))
  }

  /** Answers 101. @throws BerthError where the request is not a WebSocket's; then it can still be answered. */
  accept (request: FastifyRequest, upgrades: UpgradeKeeper): WebSocket {
    const { raw } = request
    const { socket, head } = upgrades.pendingOf(raw)!
    this.#requestIds.set(raw, request.id)
    let accepted: WebSocket | undefined
    // Without a hook that checks clients it calls back before it returns, or never.
    this.#server.handleUpgrade(raw, socket, head, opened => { accepted = opened })
    if (accepted) return accepted
    const refusal = this.#refusals.get(raw)
    if (refusal) throw new BerthError('invalid_argument', 'invalid_upgrade', `this is not a WebSocket's request: ${refusal.message}`)
    throw new BerthError('cancelled', 'client_gone', 'the client went away before the answer')
  }
}
