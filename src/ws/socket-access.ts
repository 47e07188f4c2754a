/** Who may open a WebSocket. No cookie ever says who somebody is, so pages of other origins come to nothing, whatever their Origin. */
import type { Socket } from 'node:net'
import type { FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { bearerToken, findBearerToken, root, unknownToken, type Principal, type TokenVerifier } from '../routes/authentication.ts'
import { checkScope } from '../routes/token-scopes.ts'
import type { TicketFacts, TicketTarget } from '../services/tokens/ticket-store.ts'

export interface SocketAccess {
  tokens: TokenVerifier
  tickets: { redeem: (ticket: string, wanted: TicketTarget) => TicketFacts | undefined }
  isTrusted: (socket: Socket) => boolean
}

/** Who may open the sockets of a server, and how long they may stay. */
export interface SocketDoor<A extends Admission = Admission> {
  /** Refuses by throwing. `wanted`: what a ticket must be for. */
  admit: (request: FastifyRequest, wanted: TicketTarget) => A | Promise<A>
  /** Looked at again and again; without it who is in may stay. */
  mayStay?: (admission: A) => boolean
}

/** What who came in may do there. */
export interface Admission {
  /** Whose token it was, or the one that made the ticket. */
  tokenId: string
  /** More than to look. */
  mayWrite: boolean
}

/** The one subprotocol there is: JSON in text frames. Only it is answered back, so that no token is. */
export const subprotocol = 'berth.v1'
const bearerPrefix = 'bearer.'

/** The door of a host. */
export function hostSocketDoor (access: SocketAccess): SocketDoor {
  return {
    admit: (request, wanted) => admitSocket(request, wanted, access),
    mayStay: ({ tokenId }) => access.tokens.isValid(tokenId),
  }
}

/** Demands a token whose scope has the route, or a ticket for just this. @throws BerthError unauthenticated or permission_denied. */
function admitSocket (request: FastifyRequest, wanted: TicketTarget, access: SocketAccess): Admission {
  const principal = access.isTrusted(request.raw.socket) ? root : findOwner(request, access)
  if (!principal) {
    const { tokenId, role } = redeem(request, wanted, access)
    return { tokenId, mayWrite: role === 'write' }
  }
  const { id } = request.params as { id?: string }
  checkScope(principal, { method: request.method, route: request.routeOptions.url, sandboxId: id })
  request.principal = principal
  return { tokenId: principal.id, mayWrite: principal.scope === 'admin' || principal.scope === 'sandbox' }
}

/** Whose token the request brings; undefined when it brings none. @throws BerthError where it is of nobody. */
function findOwner (request: FastifyRequest, { tokens }: SocketAccess): Principal | undefined {
  const token = socketToken(request)
  if (token === undefined) return undefined
  const principal = tokens.verify(token)
  if (!principal) throw unknownToken()
  return principal
}

/** @throws BerthError invalid_argument where protocols are offered, and the one there is is not among them. */
export function checkSubprotocol (request: FastifyRequest): void {
  const offered = protocolsOf(request)
  if (offered.length > 0 && !offered.includes(subprotocol)) {
    throw new BerthError('invalid_argument', 'subprotocol_unknown', `Sec-WebSocket-Protocol does not offer ${subprotocol}; offer it, with ${bearerPrefix}<token> beside it where no header can be sent`)
  }
}

function redeem (request: FastifyRequest, wanted: TicketTarget, { tickets }: SocketAccess): TicketFacts {
  const { ticket } = request.query as { ticket?: unknown }
  if (typeof ticket !== 'string') {
    throw new BerthError('unauthenticated', 'token_missing',
      `a token is needed: send Authorization: Bearer <token>; or, from a browser, offer the subprotocols ${subprotocol} and ${bearerPrefix}<token>, or come with ?ticket=<ticket> of POST /v1/tickets`)
  }
  const redeemed = tickets.redeem(ticket, wanted)
  if (redeemed) return redeemed
  throw new BerthError('unauthenticated', 'ticket_invalid', 'this ticket is not known, was used before, is too old, or is for something else: ask for another one with POST /v1/tickets')
}

/**
 * The token that a request brings: a header says it best; browsers, which cannot send one, offer it as a subprotocol. undefined: none.
 * @throws BerthError unauthenticated for what can be none.
 */
export function socketToken (request: FastifyRequest): string | undefined {
  const { authorization } = request.headers
  if (authorization !== undefined) return bearerToken(authorization)
  const offered = protocolsOf(request).find(protocol => protocol.startsWith(bearerPrefix))?.slice(bearerPrefix.length)
  if (offered === undefined) return undefined
  const token = findBearerToken(`Bearer ${offered}`)
  if (token === undefined) throw unknownToken()
  return token
}

function protocolsOf ({ headers }: FastifyRequest): string[] {
  return (headers['sec-websocket-protocol'] ?? '').split(',').map(protocol => protocol.trim()).filter(Boolean)
}
