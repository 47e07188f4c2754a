/** Who is asking, decided before the body is read. */
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'

export type TokenScope = 'admin' | 'read'

/** Who sent a request. */
export interface Principal {
  id: string
  scope: TokenScope
}

export interface TokenVerifier {
  /** The token's owner, or undefined for a token that is not known. Takes the same time for either. */
  verify: (token: string) => Principal | undefined
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

const root: Principal = { id: 'root', scope: 'admin' }
const reading = new Set(['GET', 'HEAD'])

/** Demands a bearer token on every route that is not public; `read` tokens may only GET. */
export function addAuthentication (app: FastifyInstance, options: AuthenticationOptions): void {
  app.decorateRequest('principal', undefined)
  app.addHook('onRequest', async request => {
    if (request.routeOptions.config?.isPublic || isDocumentation(request)) return
    const principal = options.isTrusted(request.raw.socket) ? root : options.tokens.verify(bearerToken(request))
    if (!principal) throw new BerthError('unauthenticated', 'token_invalid', 'this bearer token is not known')
    if (principal.scope === 'read' && !reading.has(request.method)) {
      throw new BerthError('permission_denied', 'scope_insufficient', 'this token may only read; use an admin token')
    }
    request.principal = principal
  })
}

function bearerToken (request: FastifyRequest): string {
  const header = request.headers.authorization
  if (header === undefined) throw new BerthError('unauthenticated', 'token_missing', 'a token is needed: send Authorization: Bearer <token>; the daemon prints at its start where the admin token lies')
  const token = /^Bearer +([A-Za-z0-9._~+/=-]{1,512})$/i.exec(header)?.[1]
  if (token === undefined) throw new BerthError('unauthenticated', 'token_invalid', 'the Authorization header must be: Bearer <token>')
  return token
}

/** The Swagger UI registers its own routes, so they are known by their path. */
function isDocumentation (request: FastifyRequest): boolean {
  const route = request.routeOptions.url
  return route === '/docs' || route?.startsWith('/docs/') === true
}
