/** Who asks a gateway, and what each scope may. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { findBearerToken, unknownToken } from '../routes/authentication.ts'
import type { FleetTokenScope } from '../schemas/fleet.ts'
import type { FleetPrincipal } from './worker-record.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks a gateway; undefined on routes that are public, unless a good token came all the same. */
    fleetPrincipal: FleetPrincipal | undefined
  }
  interface FastifyContextConfig {
    /** Scopes that may use this route of a gateway, beside admin; without it client, and read where it is GET or HEAD. */
    scopes?: readonly FleetTokenScope[]
    /** It tells of all pools: not for tokens of some. */
    isOfAllPools?: boolean
  }
}

export interface FleetAuthenticationOptions {
  tokens: { verify: (token: string) => Promise<FleetPrincipal | undefined> }
  /** Called with each request whose owner is known, before anything is done for it. May refuse by throwing. */
  onKnown: (request: FastifyRequest) => void
  /** Called when there is no token, or it is nobody's; likewise. */
  onUnknown: (request: FastifyRequest) => Promise<void>
}

const reading = new Set(['GET', 'HEAD'])
const noScopes: readonly FleetTokenScope[] = []

/** Who asks, on a route that is not public. */
export function principalOf ({ fleetPrincipal }: FastifyRequest): FleetPrincipal {
  if (!fleetPrincipal) throw new Error('the route is public')
  return fleetPrincipal
}

/** Demands a bearer token of the fleet on every route that is not public, and one whose scope has the route. */
export function addFleetAuthentication (app: FastifyInstance, options: FleetAuthenticationOptions): void {
  app.decorateRequest('fleetPrincipal', undefined)
  app.addHook('onRequest', async request => {
    const isPublic = request.routeOptions.config?.isPublic === true || isDocumentation(request)
    // Probes answer whatever Redis does. What is below /v1 and public looks for itself at who asks, and counts all the same.
    if (isPublic && !request.routeOptions.url?.startsWith('/v1/')) return
    const { authorization } = request.headers
    const token = findBearerToken(authorization)
    if (token === undefined) {
      if (isPublic) return
      await options.onUnknown(request)
      throw authorization === undefined
        ? new BerthError('unauthenticated', 'token_missing', 'a token is needed: send Authorization: Bearer <token>; the admin token lies in the file of --token-file')
        : new BerthError('unauthenticated', 'token_invalid', 'the Authorization header must be: Bearer <token>')
    }
    const principal = await options.tokens.verify(token)
    if (!principal) {
      await options.onUnknown(request)
      // What a public route does with a token that is not of the fleet is its own business.
      if (isPublic) return
      throw unknownToken()
    }
    request.fleetPrincipal = principal
    options.onKnown(request)
    if (!isPublic) checkFleetScope(principal, request)
  })
}

/** @throws BerthError permission_denied `scope_insufficient`. */
function checkFleetScope ({ scope, pools }: FleetPrincipal, request: FastifyRequest): void {
  // That there is no such route anyone may be told.
  if (scope === 'admin' || request.is404) return
  if (scope === 'worker') throw denied('this token is for hosts that join the fleet by gRPC; use one of scope admin, client or read')
  const { scopes = scope === 'read' && !reading.has(request.method) ? noScopes : (['client', 'read'] as const) } = request.routeOptions.config ?? {}
  if (!scopes.includes(scope)) throw denied(scope === 'read' ? 'this token may only read; use one of scope client or admin' : 'this is for tokens of scope admin')
  if (pools && request.routeOptions.config?.isOfAllPools) throw denied('this tells of all pools, and the token is for some; use one without pools')
}

export function denied (message: string): BerthError {
  return new BerthError('permission_denied', 'scope_insufficient', message)
}

/** The Swagger UI registers its own routes, so they are known by their path. */
function isDocumentation (request: FastifyRequest): boolean {
  const route = request.routeOptions.url
  return route === '/docs' || route?.startsWith('/docs/') === true
}
