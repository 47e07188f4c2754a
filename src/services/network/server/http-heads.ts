/** Heads of HTTP/1.1 messages as an intermediary reads and writes them: RFC 9110 section 7.6, RFC 9112. Names, case and order are kept. */
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { canonicalHostName } from './tls-client-hello.ts'

/** Whom a request is for; `problem` where it cannot be told beyond doubt. */
export type AskedHost = { name?: string, problem?: undefined } | { problem: string }

// Proxy-*: only for a proxy that the client knows of.
const hopByHop: ReadonlySet<string> = new Set(['connection', 'keep-alive', 'proxy-connection', 'proxy-authorization', 'proxy-authenticate', 'te', 'transfer-encoding', 'trailer', 'upgrade'])
// A client that lists these under Connection would have a proxy change what the message means.
const neverDropped: ReadonlySet<string> = new Set(['host', 'content-length', 'cache-control', 'authorization'])
const neverInTrailers: ReadonlySet<string> = new Set(['host', 'content-length', 'transfer-encoding', 'trailer', 'connection', 'content-type', 'content-encoding', 'authorization', 'cookie', 'set-cookie'])

const headerPairs = (raw: readonly string[]): [name: string, value: string][] =>
  Array.from({ length: raw.length >> 1 }, (_, index) => [raw[2 * index] ?? '', raw[2 * index + 1] ?? ''])

const valuesOf = (raw: readonly string[], name: string): string[] => headerPairs(raw).filter(([key]) => key.toLowerCase() === name).map(([, value]) => value)

/** The host of a request by its only Host, which an absolute target must agree with. */
export function askedHost ({ rawHeaders, url = '', httpVersion }: IncomingMessage): AskedHost {
  const hosts = valuesOf(rawHeaders, 'host')
  if (hosts.length > 1) return { problem: 'it has several Host headers' }
  const host = hosts[0]?.toLowerCase()
  if (host === undefined && httpVersion !== '1.0') return { problem: 'it has no Host header' }
  const [, scheme, authority = ''] = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)/i.exec(url) ?? []
  if (scheme !== undefined && (scheme.toLowerCase() !== 'http' || host === undefined || withoutPort(authority.toLowerCase()) !== withoutPort(host))) {
    return { problem: 'its target and its Host differ' }
  }
  if (scheme === undefined && !url.startsWith('/') && url !== '*') return { problem: 'its target is no path' }
  if (host === undefined || host === '') return {}
  const bare = withoutPort(host)
  if (isIP(bare.replace(/^\[(.*)\]$/, '$1')) !== 0) return {}
  const name = canonicalHostName(bare)
  return name === undefined ? { problem: 'its Host is not a name' } : { name }
}

const withoutPort = (authority: string): string => authority.replace(/:\d{0,5}$/, '')

export interface ForwardedHead {
  headers: string[]
  /** Whether a body of unknown length follows, in chunks, and trailers may follow it. */
  isChunked: boolean
}

/** Without what is between the client and us alone. Undefined for a transfer coding other than chunked, which nobody uses. */
function endToEnd (raw: readonly string[]): ForwardedHead | undefined {
  const codings = valuesOf(raw, 'transfer-encoding')
  const isChunked = codings.length === 1 && codings[0]?.toLowerCase() === 'chunked'
  if (codings.length > 0 && !isChunked) return undefined
  const named = new Set(valuesOf(raw, 'connection').flatMap(value => value.split(',').map(token => token.trim().toLowerCase())))
  const headers = headerPairs(raw).filter(([key]) => {
    const name = key.toLowerCase()
    if (name === 'transfer-encoding' || name === 'trailer') return isChunked
    return !hopByHop.has(name) && (neverDropped.has(name) || !named.has(name))
  })
  return { headers: headers.flat(), isChunked }
}

export interface RequestHeadOptions {
  isKeptAlive: boolean
  /** The Host where the client, by HTTP/1.0, has none: servers are always asked by HTTP/1.1. */
  host: string
  /** The protocol that the client asks to change to. */
  upgrade?: string
}

/** The head that a server gets. */
export function requestHead ({ rawHeaders, method = '' }: IncomingMessage, { isKeptAlive, host, upgrade }: RequestHeadOptions): ForwardedHead | undefined {
  const head = endToEnd(rawHeaders)
  if (head === undefined) return undefined
  const { headers, isChunked } = head
  const hasLength = valuesOf(rawHeaders, 'content-length').length > 0
  if (valuesOf(rawHeaders, 'host').length === 0) headers.unshift('Host', host.includes(':') ? `[${host}]` : host)
  // Node would announce a body in chunks where there is none.
  if (!hasLength && !isChunked && !['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'].includes(method)) headers.push('Content-Length', '0')
  if (upgrade !== undefined) headers.push('Connection', 'Upgrade', 'Upgrade', upgrade)
  // A client that understands trailers says so hop by hop; so do we.
  else if (valuesOf(rawHeaders, 'te').some(value => /\btrailers\b/i.test(value))) headers.push('TE', 'trailers', 'Connection', isKeptAlive ? 'keep-alive, TE' : 'close, TE')
  else headers.push('Connection', isKeptAlive ? 'keep-alive' : 'close')
  return head
}

/** The head that a client gets; Node adds how the connection goes on, and chunks where the length is not known. */
export function responseHead ({ rawHeaders }: IncomingMessage, hasChunks: boolean): ForwardedHead | undefined {
  const head = endToEnd(rawHeaders)
  if (head === undefined || hasChunks) return head
  // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
  const headers = headerPairs(head.headers).filter(([name]) => !['transfer-encoding', 'trailer'].includes(name.toLowerCase()))
  return { headers: headers.flat(), isChunked: false }
}

/** Fields after a body that cannot change what the message means: RFC 9110 section 6.5.1. */
export const trailerPairs = (raw: readonly string[]): [string, string][] => headerPairs(raw).filter(([name]) => !neverInTrailers.has(name.toLowerCase()))
