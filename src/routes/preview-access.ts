/** Who may see a port of a sandbox: by token, by ticket, or by the session that a ticket began. Pages of sandboxes are hostile, to each other too. */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { BerthError } from '../errors.ts'
import { sessionCookieName } from '../services/network/preview-headers.ts'
import { sessionLifeMs } from '../services/tokens/preview-sessions.ts'
import { findBearerToken, root, unknownToken, type TokenVerifier } from './authentication.ts'
import { parsePreviewHost, splitTicket, type PreviewPlace } from './preview-place.ts'
import { checkPreview, denied } from './token-scopes.ts'

/** A port of a sandbox. */
interface Scope {
  sandboxId: string
  port: number
}

export interface PreviewAccessOptions {
  tokens: TokenVerifier
  tickets: { redeem: (ticket: string, wanted: Scope & { scope: 'preview' }) => { tokenId: string } | undefined }
  sessions: { issue: (scope: Scope & { tokenId: string }) => string, verify: (value: string, scope: Scope) => boolean }
  isTrusted: (socket: Socket) => boolean
  previewDomain: string | undefined
}

export type Admission =
  /** Forward it. */
  | { isAdmitted: true, path: string, isAuthorizationOurs: boolean }
  /** Lead a browser to the same place without the ticket; with a session when the ticket was good. */
  | { isAdmitted: false, location: string, cookie?: string }

const safe = new Set(['GET', 'HEAD'])
const maxCookies = 16

/** @throws BerthError unauthenticated or permission_denied. */
export function admit (request: IncomingMessage, place: PreviewPlace, options: PreviewAccessOptions): Admission {
  const method = request.method ?? 'GET'
  const isUpgrade = request.headers.upgrade !== undefined
  const scope = { sandboxId: place.sandboxId, port: place.port }
  const { path, ticket } = splitTicket(place.path)
  const { authorization } = request.headers
  const token = findBearerToken(authorization)
  const principal = token === undefined ? undefined : options.tokens.verify(token)
  // One that was revoked, or has a letter too many, is nobody else's business either.
  const isAuthorizationOurs = principal !== undefined || token?.startsWith('berth_') === true
  const pass = { isAdmitted: true, path, isAuthorizationOurs } as const
  if (options.isTrusted(request.socket)) {
    checkPreview(root, { method, isUpgrade, sandboxId: place.sandboxId })
    return pass
  }
  if (principal) {
    checkPreview(principal, { method, isUpgrade, sandboxId: place.sandboxId })
    return pass
  }
  if (isAuthorizationOurs) throw unknownToken()
  if (ticket !== undefined && (isUpgrade || safe.has(method))) {
    const redeemed = options.tickets.redeem(ticket, { scope: 'preview', ...scope })
    if (redeemed && isUpgrade) return pass
    const location = sameOrigin(place.prefix + path)
    if (redeemed) return { isAdmitted: false, location, cookie: sessionCookie(options.sessions.issue({ ...scope, tokenId: redeemed.tokenId }), place) }
    // Reloading a page that was entered by ticket.
    if (!isUpgrade && hasSession(request, scope, options)) return { isAdmitted: false, location }
    throw new BerthError('unauthenticated', 'ticket_invalid', 'this ticket is not known, was used before, or is too old: ask for another one with POST /v1/tickets')
  }
  if (hasSession(request, scope, options)) {
    refuseForeign(request, place, options, isUpgrade || !safe.has(method))
    return pass
  }
  if (authorization !== undefined) throw unknownToken()
  throw new BerthError('unauthenticated', 'token_missing',
    'a token is needed: send Authorization: Bearer <token>, or, from a browser, come with ?berth_ticket=<ticket> of POST /v1/tickets (berth preview prints such an address)')
}

function hasSession (request: IncomingMessage, scope: Scope, { sessions }: PreviewAccessOptions): boolean {
  // A sandbox may set cookies of this name for the whole domain; one good one is enough.
  const values = (request.headers.cookie ?? '').split(';').map(cookie => cookie.trim().split('=')).filter(([name]) => name === sessionCookieName)
  return values.slice(0, maxCookies).some(([, value = '']) => sessions.verify(value, scope))
}

/**
 * A cookie is sent whoever made the browser ask. Pages of other sandboxes are on the same site, so that SameSite does not
 * hold them off: what changes something, or is a conversation, must come from this sandbox's own pages; what is only
 * loaded may also be navigated to.
 */
function refuseForeign (request: IncomingMessage, { sandboxId, prefix }: PreviewPlace, { previewDomain }: PreviewAccessOptions, hasEffect: boolean): void {
  const { origin, host, 'sec-fetch-site': site, 'sec-fetch-mode': mode } = request.headers
  if (origin !== undefined && isOwnOrigin(origin)) return
  const advice = prefix === '' ? '' : '; under a path, pages of a sandbox have no origin of their own: use a host name for each port (BERTH_PREVIEW_DOMAIN), or a token'
  if (hasEffect && origin !== undefined) throw denied(`a page of another origin may not do this here${advice}`)
  if (prefix === '' && mode !== 'navigate' && (site === 'cross-site' || site === 'same-site')) throw denied('a page of another origin may not load this')

  function isOwnOrigin (text: string): boolean {
    // Of a page under a path the browser says `null`, whichever sandbox it is of.
    const named = prefix === '' && URL.canParse(text) ? new URL(text).host : undefined
    if (named === undefined) return false
    return named === host?.toLowerCase() || (previewDomain !== undefined && parsePreviewHost(named, previewDomain)?.sandboxId === sandboxId)
  }
}

/** Secure is left out: the daemon speaks plain HTTP and believes no header about what is before it. */
function sessionCookie (value: string, { prefix }: PreviewPlace): string {
  return `${sessionCookieName}=${value}; Path=${prefix}/; Max-Age=${sessionLifeMs / 1000}; HttpOnly; SameSite=Lax`
}

/** A path that a browser cannot take for another host: `//host` and `/\host` are made to begin with `/.`. */
function sameOrigin (path: string): string {
  return /^\/[/\\]/.test(path) ? `/.${path}` : path
}
