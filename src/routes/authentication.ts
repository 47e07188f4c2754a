/** Who is asking, decided before the body is read. */
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { checkScope } from './token-scopes.ts'

export type TokenScope = 'admin' | 'read' | 'sandbox'

/** Who sent a request. */
export interface Principal {
  id: string
  scope: TokenScope
  /** Of scope `sandbox`: the one sandbox that it is for. */
  sandboxId?: string
}

export interface TokenVerifier {
  /** The token's owner, or undefined for a token that is not known. Takes the same time for either. */
  verify: (token: string) => Principal | undefined
  /** Whether the owner's token, by its id, is still good. */
  isValid: (id: string) => boolean
}

export interface AuthenticationOptions {
  tokens: TokenVerifier
  /** Whether a connection needs no token: the unix socket, which only root can open. */
  isTrusted: (socket: Socket) => boolean
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; undefined on public routes. */
    principal: Principal | undefined
  }
  interface FastifyContextConfig {
    /** No token is needed. */
    isPublic?: boolean
  }
}

/** Who comes in by the unix socket. */
export const root: Readonly<Principal> = Object.freeze({ id: 'root', scope: 'admin' })

/** Demands a bearer token on every route that is not public, and one whose scope has the route. */
export function addAuthentication (app: FastifyInstance, options: AuthenticationOptions): void {
  app.decorateRequest('principal', undefined)
  app.addHook('onRequest', async request => {
    if (request.routeOptions.config?.isPublic || isDocumentation(request)) return
    const principal = options.isTrusted(request.raw.socket) ? root : options.tokens.verify(bearerToken(request.headers.authorization))
    if (!principal) throw unknownToken()
    const { id } = request.params as { id?: string }
    checkScope(principal, { method: request.method, route: request.is404 ? undefined : request.routeOptions.url, sandboxId: id })
    request.principal = principal
  })
}

/** The token of an Authorization header. @throws BerthError when there is none. */
export function bearerToken (header: string | undefined): string {
  if (header === undefined) throw new BerthError('unauthenticated', 'token_missing', 'a token is needed: send Authorization: Bearer <token>; the daemon prints at its start where the admin token lies')
  const token = findBearerToken(header)
  if (token === undefined) throw new BerthError('unauthenticated', 'token_invalid', 'the Authorization header must be: Bearer <token>')
  return token
}

/** The token of an Authorization header, if it is of that form. */
export function findBearerToken (header: string | undefined): string | undefined {
  return /^Bearer +([A-Za-z0-9._~+/=-]{1,512})$/i.exec(header ?? '')?.[1]
}

export function unknownToken (): BerthError {
  return new BerthError('unauthenticated', 'token_invalid', 'this bearer token is not known')
}

/** The Swagger UI registers its own routes, so they are known by their path. */
function isDocumentation (request: FastifyRequest): boolean {
  const route = request.routeOptions.url
  return route === '/docs' || route?.startsWith('/docs/') === true
}
