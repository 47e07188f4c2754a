/** Who may be passed on to a host, and whether the gateway vouches for them. */
import type { IncomingMessage } from 'node:http'
import type { FastifyRequest } from 'fastify'
import { BerthError } from '../../errors.ts'
import { bearerToken, findBearerToken, unknownToken } from '../../routes/authentication.ts'
import { subprotocol } from '../../ws/socket-access.ts'
import type { FleetPrincipal } from '../worker-record.ts'
import type { ProxyPlace } from './proxy-path.ts'
import { takesTickets } from './proxy-permissions.ts'

/** What is needed of a fleet's tokens. */
export interface FleetTokenVerifier {
  /** The token's owner, or undefined for a token that is not known. */
  verify: (token: string) => Promise<FleetPrincipal | undefined> | FleetPrincipal | undefined
}

export interface ProxyAdmission {
  /** Undefined: whoever it is, the host alone decides. */
  principal: FleetPrincipal | undefined
  /** Subprotocols that are offered to the host where the client's held a token. */
  protocols?: string | undefined
}

const bearerPrefix = 'bearer.'

/**
 * By a token of the fleet, in a header or, from a browser that opens a WebSocket, as a subprotocol. One thing goes to the host without
 * the gateway's word: an upgrade with one of the host's own tickets, where hosts take them.
 *
 * @throws BerthError unauthenticated.
 */
export async function admitToWorker (request: FastifyRequest, place: ProxyPlace, isUpgrade: boolean, tokens: FleetTokenVerifier): Promise<ProxyAdmission> {
  const { authorization } = request.headers
  if (authorization !== undefined) return { principal: await ownerOf(bearerToken(authorization), tokens), protocols: protocolsOf(request.raw).join(', ') || undefined }
  const offered = isUpgrade ? protocolsOf(request.raw) : []
  const bearer = offered.find(protocol => protocol.startsWith(bearerPrefix))
  if (bearer !== undefined) {
    const token = findBearerToken(`Bearer ${bearer.slice(bearerPrefix.length)}`)
    if (token === undefined) throw unknownToken()
    return { principal: await ownerOf(token, tokens), protocols: offered.filter(protocol => !protocol.startsWith(bearerPrefix)).join(', ') || undefined }
  }
  if (isUpgrade && place.query.has('ticket') && takesTickets(place.segments)) return { principal: undefined, protocols: offered.join(', ') || undefined }
  throw new BerthError('unauthenticated', 'token_missing',
    `a token is needed: send Authorization: Bearer <token>; or, from a browser that opens a WebSocket, offer the subprotocols ${subprotocol} and ${bearerPrefix}<token>, or come with ?ticket=<ticket>`)
}

/** @throws BerthError unauthenticated `token_invalid`. */
async function ownerOf (token: string, tokens: FleetTokenVerifier): Promise<FleetPrincipal> {
  const principal = await tokens.verify(token)
  if (!principal) throw unknownToken()
  return principal
}

function protocolsOf ({ headers }: IncomingMessage): string[] {
  return (headers['sec-websocket-protocol'] ?? '').split(',').map(protocol => protocol.trim()).filter(Boolean)
}
