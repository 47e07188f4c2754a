/** Routes of WebSockets: everything that can be refused is refused before the upgrade, as an ordinary HTTP answer. */
import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import { WebSocketServer, type WebSocket } from 'ws'
import { BerthError } from '../errors.ts'
import type { TicketScope } from '../services/tokens/ticket-store.ts'
import { JsonSocket, type SocketLimits } from './json-socket.ts'
import { admitSocket, checkSubprotocol, subprotocol, type SocketAccess } from './socket-access.ts'
import type { UpgradeKeeper } from './upgrade-keeper.ts'

/** What all WebSockets have in common. */
export interface SocketContext {
  upgrades: UpgradeKeeper
  access: SocketAccess
  limits: SocketLimits
  /** Aborted when the daemon ends: sockets are told, and closed. */
  closing: AbortSignal
}

export interface SocketRoute<Params, Query> {
  schema: FastifySchema & { operationId: string, summary: string }
  /** What a ticket must be for to open it; the id need not exist. */
  ticketFor: (params: Params) => TicketScope
  /**
   * Refuses by throwing, as any route does; what it gives back is run once the socket is open, which is closed when that ends.
   * The signal is aborted once there is no use in sending.
   */
  open: (params: Params, query: Query, signal: AbortSignal) => (socket: JsonSocket) => Promise<void>
}

/** The largest message that a client may send, in bytes, inflated; a larger one closes the socket with 1009. */
const maxMessageBytes = 64 * 1024

/** Adds the WebSocket of a path: Fastify's, below the prefix of `app`. A plain GET of it is answered 426. */
export function addSocketRoute<Params, Query> (app: FastifyInstance, path: string, route: SocketRoute<Params, Query>, context: SocketContext): void {
  const { upgrades, access, limits, closing } = context
  upgrades.add(`${app.prefix}${path}`)
  app.get(path, {
    exposeHeadRoute: false,
    // Who may is looked at here and not there: tokens come in other ways too, and tickets.
    config: { isPublic: true },
    schema: route.schema,
    onRequest: async (request, reply) => {
      checkUpgrade(request, reply, upgrades)
      admitSocket(request, route.ticketFor(request.params as Params), access)
      checkSubprotocol(request)
    },
  }, async (request, reply) => {
    const over = new AbortController()
    const talk = route.open(request.params as Params, request.query as Query, over.signal)
    const accepted = accept(request, upgrades)
    takeOver(reply)
    // The request counts as under way until its socket is closed.
    const socket = new JsonSocket(accepted, { limits, closing, over, onClosed: () => reply.raw.emit('finish'), log: request.log })
    await talk(socket).then(() => socket.end(), error => socket.fail(error))
  })
}

/** @throws BerthError upgrade_required, or what is wrong with the upgrade. */
function checkUpgrade (request: FastifyRequest, reply: FastifyReply, upgrades: UpgradeKeeper): void {
  const { headers, raw } = request
  if (!upgrades.pendingOf(raw)) {
    reply.headers({ upgrade: 'websocket', connection: 'upgrade' })
    throw new BerthError('invalid_argument', 'upgrade_required', 'this path is a WebSocket: open it with a WebSocket client, at ws:// or wss://; /logs beside it answers plain requests')
  }
  if ('transfer-encoding' in headers || (headers['content-length'] ?? '0') !== '0') {
    throw new BerthError('invalid_argument', 'upgrade_with_body', 'a request that asks for an upgrade has no body here')
  }
}

/** Only what a follower asks for is deflated, and nothing is remembered between messages: what it costs is spent while one is deflated, a few at a time. */
const server = new WebSocketServer({
  noServer: true,
  clientTracking: false,
  maxPayload: maxMessageBytes,
  handleProtocols: () => subprotocol,
  perMessageDeflate: { serverNoContextTakeover: true, clientNoContextTakeover: true, threshold: 1024, zlibDeflateOptions: { level: 1 } },
})

const requestIds = new WeakMap<IncomingMessage, string>()
const refusals = new WeakMap<IncomingMessage, Error>()
server.on('headers', (headers, request) => headers.push(`X-Request-Id: ${requestIds.get(request)}`))
server.on('wsClientError', (error, _socket, request) => refusals.set(request, error))

/** Answers 101. @throws BerthError where the request is not a WebSocket's; then it can still be answered. */
function accept (request: FastifyRequest, upgrades: UpgradeKeeper): WebSocket {
  const { raw } = request
  const { socket, head } = upgrades.pendingOf(raw)!
  requestIds.set(raw, request.id)
  let accepted: WebSocket | undefined
  // Without a hook that checks clients it calls back before it returns, or never.
  server.handleUpgrade(raw, socket, head, opened => { accepted = opened })
  if (accepted) return accepted
  const refusal = refusals.get(raw)
  if (refusal) throw new BerthError('invalid_argument', 'invalid_upgrade', `this is not a WebSocket's request: ${refusal.message}`)
  throw new BerthError('cancelled', 'client_gone', 'the client went away before the answer')
}

/** What was to answer the request leaves the connection to the socket. */
function takeOver (reply: FastifyReply): void {
  const { raw } = reply
  // As with every stream, how long it lasts says nothing about how quickly it is answered.
  reply.header('x-accel-buffering', 'no').hijack()
  raw.statusCode = 101
  if (raw.socket) raw.detachSocket(raw.socket)
}
