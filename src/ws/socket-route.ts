/** Routes of WebSockets: everything that can be refused is refused before the upgrade, as an ordinary HTTP answer. */
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import type { WebSocket } from 'ws'
import { BerthError } from '../errors.ts'
import type { TicketTarget } from '../services/tokens/ticket-store.ts'
import { JsonSocket, type JsonSocketOptions, type SocketLimits } from './json-socket.ts'
import { checkSubprotocol, type Admission, type SocketDoor } from './socket-access.ts'
import { SocketAcceptor } from './socket-acceptor.ts'
import type { UpgradeKeeper } from './upgrade-keeper.ts'

/** What all WebSockets have in common. */
export interface SocketContext<A extends Admission = Admission> {
  upgrades: UpgradeKeeper
  door: SocketDoor<A>
  limits: SocketLimits
  /** Aborted when the daemon ends: sockets are told, and closed. */
  closing: AbortSignal
}

/** What a socket is for, from when it is open. */
export interface Talk {
  /** The socket is closed when it ends: with 1000, or with the code of what it throws. */
  run: (socket: JsonSocket) => Promise<void>
  /** As of JsonSocketOptions. */
  onMessage?: JsonSocketOptions['onMessage']
  /** Called in the place of `run`, with the signal aborted, where the socket does not come about. */
  abandon?: () => void
}

export interface SocketRoute<Params, Query, A extends Admission = Admission> {
  schema: FastifySchema & { operationId: string, summary: string }
  /** What a ticket must be for to open it; the id need not exist. */
  ticketFor: (params: Params) => TicketTarget
  /** What plain requests are told to ask instead, as the end of a sentence. */
  plainAdvice?: string
  /** The largest message that a client may send, in bytes, inflated; a larger one closes the socket with 1009. 64 KiB when absent. */
  maxMessageBytes?: number
  /** Whether frames are deflated for a client that offers it, as browsers do unasked. Always when absent. */
  deflates?: (query: Query) => boolean
  /** Refuses by throwing, as any route does. The signal is aborted once there is no use in sending. */
  open: (params: Params, query: Query, context: A & { signal: AbortSignal }) => Talk | Promise<Talk>
}

const defaultMaxMessageBytes = 64 * 1024

/** Adds the WebSocket of a path: Fastify's, below the prefix of `app`. A plain GET of it is answered 426. */
export function addSocketRoute<Params, Query, A extends Admission = Admission> (
  app: FastifyInstance, path: string, route: SocketRoute<Params, Query, A>, context: SocketContext<A>
): void {
  const { upgrades, door, limits, closing } = context
  const { maxMessageBytes = defaultMaxMessageBytes, deflates = () => true } = route
  const acceptors = { deflating: new SocketAcceptor({ maxMessageBytes, deflates: true }), plain: new SocketAcceptor({ maxMessageBytes, deflates: false }) }
  const admissions = new WeakMap<FastifyRequest, A>()
  upgrades.add(`${app.prefix}${path}`)
  app.get(path, {
    exposeHeadRoute: false,
    // Who may is looked at here and not there: tokens come in other ways too, and tickets.
    config: { isPublic: true },
    schema: route.schema,
    onRequest: async (request, reply) => {
      checkUpgrade(request, reply, upgrades, route.plainAdvice)
      admissions.set(request, await door.admit(request, route.ticketFor(request.params as Params)))
      checkSubprotocol(request)
    },
  }, async (request, reply) => {
    const over = new AbortController()
    const query = request.query as Query
    const admission = admissions.get(request)!
    const opening = route.open(request.params as Params, query, { ...admission, signal: over.signal })
    const talk = opening instanceof Promise ? await opening : opening
    const accepted = acceptOr(() => {
      over.abort()
      talk.abandon?.()
    }, () => acceptors[deflates(query) ? 'deflating' : 'plain'].accept(request, upgrades))
    takeOver(reply)
    // The request counts as under way until its socket is closed.
    const socket = new JsonSocket(accepted, {
      limits,
      closing,
      over,
      mayStay: door.mayStay && (() => door.mayStay!(admission)),
      onClosed: () => reply.raw.emit('finish'),
      onMessage: talk.onMessage,
      log: request.log,
    })
    await talk.run(socket).then(() => socket.end(), error => socket.fail(error))
  })
}

/** @throws BerthError upgrade_required, or what is wrong with the upgrade. */
function checkUpgrade (request: FastifyRequest, reply: FastifyReply, upgrades: UpgradeKeeper, plainAdvice: string | undefined): void {
  const { headers, raw } = request
  if (!upgrades.pendingOf(raw)) {
    reply.headers({ upgrade: 'websocket', connection: 'upgrade' })
    const advice = plainAdvice === undefined ? '' : `; ${plainAdvice}`
    throw new BerthError('invalid_argument', 'upgrade_required', `this path is a WebSocket: open it with a WebSocket client, at ws:// or wss://${advice}`)
  }
  if ('transfer-encoding' in headers || (headers['content-length'] ?? '0') !== '0') {
    throw new BerthError('invalid_argument', 'upgrade_with_body', 'a request that asks for an upgrade has no body here')
  }
}

function acceptOr (abandon: () => void, accept: () => WebSocket): WebSocket {
  try {
    return accept()
  } catch (error) {
    abandon()
    throw error
  }
}

/** What was to answer the request leaves the connection to the socket. */
function takeOver (reply: FastifyReply): void {
  const { raw } = reply
  // As with every stream, how long it lasts says nothing about how quickly it is answered.
  reply.header('x-accel-buffering', 'no').hijack()
  raw.statusCode = 101
  if (raw.socket) raw.detachSocket(raw.socket)
}
