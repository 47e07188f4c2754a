/** What passes between a client and a program in a sandbox, header by header. The program is not trusted; nor, by the program, is the client. */

/** Names and values in turn, as Node gives and takes them: order, case and repetitions are kept. */
export type RawHeaders = string[]

/** About one connection, not about the message (RFC 9110, section 7.6.1); what `Connection` names joins them. */
const hopByHop = ['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade']

/** Said anew by the proxy, or not to be believed of a client. */
const replacedInRequests = [
  'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-prefix', 'x-forwarded-port', 'x-forwarded-server', 'forwarded', 'x-real-ip',
  // Some programs take it for the variable HTTP_PROXY (httpoxy.org).
  'proxy',
]

/** Answers of a program seen under a path share the API's origin; what speaks for a whole origin is not theirs to say. */
const strippedUnderPath: Readonly<Record<string, string>> = Object.freeze({
  'set-cookie': 'a cookie would be sent with every request to the API, and to other previews',
  'service-worker-allowed': 'a service worker could catch requests beyond the preview',
  'clear-site-data': 'it would end the sessions of other previews',
  'strict-transport-security': 'it would lock browsers out of an API that speaks plain HTTP',
  'public-key-pins': 'as above',
  'alt-svc': 'it would send later requests for the API elsewhere',
  'www-authenticate': 'a browser would ask for a password in the API\'s name, and send it with every later request',
  nel: 'reports about requests to the API would go where the program says',
  'report-to': 'as above',
  'accept-ch': 'it is remembered for the whole origin',
})

/** A host name of its own is the program's; only what reaches beyond it is taken out. */
const strippedUnderHost: Readonly<Record<string, string>> = Object.freeze({
  'clear-site-data': 'cookies are cleared for the whole registrable domain, that is of other sandboxes and of what else lives there',
})

/**
 * Scripts of a preview under a path run in an origin of their own, though the path is on the API's: no `allow-same-origin`.
 * It is added to what the program says; a browser obeys both.
 */
export const pathModePolicy = 'sandbox allow-scripts allow-forms allow-popups allow-downloads allow-modals'

/** The cookie of who came to a preview with a ticket. */
export const sessionCookieName = 'berth_preview'

export interface RequestFacts {
  /** Where the program listens, for clients that name no host. */
  authority: string
  /** Path under which the program is seen; empty where it has a host name of its own. */
  prefix: string
  clientAddress: string | undefined
  isEncrypted: boolean
  /** Whether Authorization was for Berth. */
  isAuthorizationOurs: boolean
}

/** Headers of a request as the program inside gets them. Those that frame the body are left out and have to be added. */
export function requestHeaders (raw: RawHeaders, facts: RequestFacts): RawHeaders {
  const dropped = new Set([...hopByHop, ...namedByConnection(raw), ...replacedInRequests, ...(facts.isAuthorizationOurs ? ['authorization'] : [])])
  const kept: RawHeaders = []
  let host: string | undefined
  for (const [name, value] of pairs(raw)) {
    const lower = name.toLowerCase()
    if (lower === 'host') host = value
    if (dropped.has(lower)) continue
    if (lower !== 'cookie') {
      kept.push(name, value)
      continue
    }
    // Under a path the program can set none, so all there are were set by others.
    const cookies = facts.prefix === '' ? withoutSession(value) : ''
    if (cookies !== '') kept.push(name, cookies)
  }
  if (host === undefined) kept.push('Host', facts.authority)
  if (facts.clientAddress !== undefined) kept.push('X-Forwarded-For', facts.clientAddress)
  kept.push('X-Forwarded-Proto', facts.isEncrypted ? 'https' : 'http')
  if (host !== undefined) kept.push('X-Forwarded-Host', host)
  if (facts.prefix !== '') kept.push('X-Forwarded-Prefix', facts.prefix)
  return kept
}

export interface AnswerFacts {
  prefix: string
  /** The host that the client named. */
  host: string | undefined
  /** The program's own names for itself: host and port. */
  authorities: readonly string[]
}

/** Headers of an answer as the client gets them, without those that frame the body. */
export function answerHeaders (raw: RawHeaders, facts: AnswerFacts): RawHeaders {
  const isUnderPath = facts.prefix !== ''
  const dropped = new Set([...hopByHop, ...namedByConnection(raw), ...Object.keys(isUnderPath ? strippedUnderPath : strippedUnderHost)])
  const kept: RawHeaders = []
  for (const [name, value] of pairs(raw)) {
    const lower = name.toLowerCase()
    if (dropped.has(lower)) continue
    if (lower === 'set-cookie') {
      const cookie = hostOnly(value)
      if (cookie !== undefined) kept.push(name, cookie)
    } else kept.push(name, lower === 'location' ? rewriteLocation(value, facts) : value)
  }
  if (isUnderPath) kept.push('Content-Security-Policy', pathModePolicy)
  return kept
}

export function * pairs (raw: RawHeaders): Generator<[name: string, value: string]> {
  for (let at = 0; at + 1 < raw.length; at += 2) yield [raw[at]!, raw[at + 1]!]
}

function namedByConnection (raw: RawHeaders): string[] {
  return [...pairs(raw)].flatMap(([name, value]) => name.toLowerCase() === 'connection' ? value.split(',').map(token => token.trim().toLowerCase()) : [])
    // A message cannot do without these, whatever it says of them.
    .filter(name => !['content-length', 'host', 'cookie', 'authorization'].includes(name))
}

/** Cookies but for Berth's own. */
function withoutSession (cookies: string): string {
  if (!cookies.includes(sessionCookieName)) return cookies
  return cookies.split(';').map(cookie => cookie.trim()).filter(cookie => cookie !== '' && cookieName(cookie) !== sessionCookieName).join('; ')
}

/** A cookie without its domain, so that it stays with its host; undefined for one that takes the name of Berth's. */
function hostOnly (cookie: string): string | undefined {
  if (cookieName(cookie) === sessionCookieName) return undefined
  return cookie.split(';').filter((attribute, index) => index === 0 || !/^\s*domain\s*(=|$)/i.test(attribute)).join(';')
}

function cookieName (cookie: string): string {
  return cookie.split(/[=;]/, 1)[0]!.trim()
}

/** Keeps a redirection inside the preview; one that leads elsewhere is left as it is. */
function rewriteLocation (location: string, { prefix, host, authorities }: AnswerFacts): string {
  // `//host` and `/\host` lead elsewhere.
  if (/^\/(?![/\\])/.test(location)) return isBelow(location, prefix) ? location : prefix + location
  const target = /^https?:/i.test(location) && URL.canParse(location) ? new URL(location) : undefined
  if (!target) return location
  const path = target.pathname + target.search + target.hash
  const authority = target.port === '' ? `${target.hostname}:${target.protocol === 'http:' ? 80 : 443}` : target.host
  if (authorities.includes(authority)) return prefix + path
  if (prefix === '' || host === undefined || target.host !== host.toLowerCase()) return location
  return isBelow(target.pathname, prefix) ? location : `${target.protocol}//${target.host}${prefix}${path}`
}

function isBelow (path: string, prefix: string): boolean {
  return path === prefix || path.startsWith(`${prefix}/`)
}
