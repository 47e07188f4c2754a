/** What passes between a client and a host, header by header: RFC 9110, section 7.6.1. Who the client is to the gateway is not for the host. */
import { createHash } from 'node:crypto'
import { activeSpan } from '../../services/tracing/span.ts'

/** Names and values in turn, as Node gives and takes them: order, case and repetitions are kept. */
export type RawHeaders = readonly string[]

/** About one connection; what `Connection` names joins them. */
const hopByHop = ['connection', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade']

/** Said anew by the gateway, or the client's own business with it. */
const replacedInRequests = [
  'host', 'authorization', 'cookie', 'x-request-id', 'idempotency-key', 'sec-websocket-protocol', 'trailer',
  'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-prefix', 'x-forwarded-port', 'x-forwarded-server', 'forwarded', 'x-real-ip',
]

/** Not for a host to say: they hold for the whole origin of the gateway. */
const strippedFromAnswers = [
  'set-cookie', 'set-cookie2', 'clear-site-data', 'service-worker-allowed', 'strict-transport-security', 'public-key-pins', 'alt-svc', 'nel', 'report-to', 'accept-ch',
]

/**
 * What a host answers lies on the gateway's origin, and a program in a sandbox may have written it: should a browser ever come to show
 * it as a page (of HTML, SVG, XML, or of what it takes for one), it may run nothing there and is of no origin. Whoever fetches it sees no
 * difference. A policy of the host's own holds beside this one.
 */
const harmlessAsPage = ['Content-Security-Policy', 'sandbox', 'X-Content-Type-Options', 'nosniff']

/** A message cannot do without these, whatever its Connection says of them. */
const neverNamed = new Set(['content-length', 'host', 'content-type', 'content-encoding', 'expect'])

export interface RequestHeaderFacts {
  /** Where the host listens: host and port. */
  authority: string
  clientAddress: string | undefined
  isEncrypted: boolean
  requestId: string
  /** Of the host's own; without it the host is not told who asks. */
  token?: string | undefined
  idempotencyKey?: string | undefined
  /** Subprotocols of a WebSocket, in the place of those that were offered. */
  protocols?: string | undefined
}

/** Headers of a request as the host gets them, without those that frame the body. */
export function hostRequestHeaders (raw: RawHeaders, facts: RequestHeaderFacts): string[] {
  // What the host does belongs to what the gateway does; untraced, to what the client does.
  const traceparent = activeSpan()?.traceparent
  const dropped = new Set([...hopByHop, ...namedByConnection(raw), ...replacedInRequests, ...(traceparent === undefined ? [] : ['traceparent'])])
  const kept = ['Host', facts.authority]
  let host: string | undefined
  for (const [name, value] of headerPairs(raw)) {
    const lower = name.toLowerCase()
    if (lower === 'host') host ??= value
    if (!dropped.has(lower) && !lower.startsWith('x-berth-')) kept.push(name, value)
  }
  if (facts.token !== undefined) kept.push('Authorization', `Bearer ${facts.token}`)
  if (facts.idempotencyKey !== undefined) kept.push('Idempotency-Key', facts.idempotencyKey)
  if (facts.protocols !== undefined) kept.push('Sec-WebSocket-Protocol', facts.protocols)
  if (facts.clientAddress !== undefined) kept.push('X-Forwarded-For', facts.clientAddress)
  kept.push('X-Forwarded-Proto', facts.isEncrypted ? 'https' : 'http')
  if (host !== undefined) kept.push('X-Forwarded-Host', host)
  if (traceparent !== undefined) kept.push('Traceparent', traceparent)
  kept.push('X-Request-Id', facts.requestId)
  return kept
}

export interface AnswerHeaderFacts {
  /** Under what the client sees the host's paths. */
  prefix: string
  /** Below which path of the gateway an answer may send the client elsewhere. */
  home: string
  workerId: string
  /** Whether fields may follow the body. */
  hasTrailers: boolean
}

const anywhere = 'http://gateway.invalid'

/** Headers of an answer as the client gets them, without those that frame the body. */
export function clientAnswerHeaders (raw: RawHeaders, { prefix, home, workerId, hasTrailers }: AnswerHeaderFacts): string[] {
  const dropped = new Set([...hopByHop, ...namedByConnection(raw), ...strippedFromAnswers, 'x-berth-worker', 'x-content-type-options', ...(hasTrailers ? [] : ['trailer'])])
  const kept: string[] = []
  for (const [name, value] of headerPairs(raw)) {
    const lower = name.toLowerCase()
    if (dropped.has(lower)) continue
    if (lower !== 'location') kept.push(name, value)
    else if (value.startsWith('/') && staysBelow(home, prefix + value)) kept.push(name, prefix + value)
  }
  kept.push(...harmlessAsPage, 'X-Berth-Worker', workerId)
  return kept
}

/**
 * Whether a place that a host sends a client to is its own. A client would follow any other with the token that it has for the gateway,
 * as `fetch` does within an origin, and repeat its request there.
 */
function staysBelow (home: string, place: string): boolean {
  if (!URL.canParse(place, anywhere)) return false
  const { origin, pathname } = new URL(place, anywhere)
  return origin === anywhere && (pathname === home || pathname.startsWith(`${home}/`))
}

/** A client's Idempotency-Key as hosts know it: theirs all come by one token, and two clients may choose the same. */
export function hostIdempotencyKey (principalId: string, key: string): string {
  return `fleet-${createHash('sha256').update(`${principalId}\n${key}`).digest('base64url')}`
}

export function * headerPairs (raw: RawHeaders): Generator<[name: string, value: string]> {
  for (let at = 0; at + 1 < raw.length; at += 2) yield [raw[at]!, raw[at + 1]!]
}

function namedByConnection (raw: RawHeaders): string[] {
  return [...headerPairs(raw)]
    .flatMap(([name, value]) => name.toLowerCase() === 'connection' ? value.split(',').map(token => token.trim().toLowerCase()) : [])
    .filter(name => !neverNamed.has(name))
}
