import type { FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { unknownToken } from '../routes/authentication.ts'
import { socketToken, subprotocol, type Admission, type SocketDoor } from '../ws/socket-access.ts'
import { denied } from './fleet-authentication.ts'
import type { FleetTokens } from './fleet-tokens.ts'
import type { FleetPrincipal } from './worker-record.ts'

export interface FleetAdmission extends Admission {
  principal: FleetPrincipal
}

/** The door of the gateway's own sockets: a token of the fleet opens it, in a header or as a subprotocol; there are no tickets for it. */
export function fleetSocketDoor (tokens: Pick<FleetTokens, 'verify'>): SocketDoor<FleetAdmission> {
  return {
    async admit (request) {
      // Of a header it is known already.
      const principal = request.fleetPrincipal ?? await ownerOf(request, tokens)
      if (principal.scope === 'worker') throw denied('this token is for hosts that join the fleet by gRPC; use one of scope admin, client or read')
      request.fleetPrincipal = principal
      return { principal, tokenId: principal.id, mayWrite: principal.scope !== 'read' }
    },
  }
}

/** @throws BerthError unauthenticated `token_missing` or `token_invalid`. */
async function ownerOf (request: FastifyRequest, tokens: Pick<FleetTokens, 'verify'>): Promise<FleetPrincipal> {
  const token = socketToken(request)
  if (token === undefined) {
    throw new BerthError('unauthenticated', 'token_missing',
      `a token is needed: send Authorization: Bearer <token>; or, from a browser, offer the subprotocols ${subprotocol} and bearer.<token>`)
  }
  const principal = await tokens.verify(token)
  if (!principal) throw unknownToken()
  return principal
}
