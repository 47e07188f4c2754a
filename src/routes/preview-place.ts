/** Which requests are for a port of a sandbox: told from the raw head, since such a path belongs to the sandbox and is not to be understood here. */
import type { IncomingMessage } from 'node:http'

/** A port of a sandbox, and what is asked of it. */
export interface PreviewPlace {
  sandboxId: string
  /** As it stands there; whether it is a port is for the caller to check. */
  port: number
  /** What the program inside is asked for: path and query, the ticket among it. */
  path: string
  /** Path under which the program is seen; empty where it has a host name of its own. */
  prefix: string
  /** Where the path ends in the port and lacks its slash: where it should lead. */
  redirect?: string
}

// Decoded and encoded ids are the same: none of their characters needs it.
const pathPattern = /^(\/v1\/sandboxes\/(sbx_[a-z0-9]{20})\/ports\/(\d{1,6}))(?=[/?]|$)/
/** An underscore is not allowed in host names, so `-` may stand for it. 30 characters at most, of the 63 that a label has. */
const labelPattern = /^(\d{1,6})-sbx[_-]([a-z0-9]{20})$/

/**
 * What a request asks of a sandbox; undefined when it is for the API.
 * `previewDomain` gives each port the host name `<port>-<id>.<previewDomain>`.
 */
export function previewPlace ({ url = '/', headers }: Pick<IncomingMessage, 'url' | 'headers'>, previewDomain: string | undefined): PreviewPlace | undefined {
  const named = previewDomain === undefined ? undefined : parsePreviewHost(headers.host ?? '', previewDomain)
  if (named) return { ...named, path: pathOf(url), prefix: '' }
  const [, prefix = '', sandboxId = '', port] = pathPattern.exec(url) ?? []
  if (port === undefined) return undefined
  const path = url.slice(prefix.length)
  return { sandboxId, port: Number(port), prefix, path, ...(path.startsWith('/') ? {} : { redirect: `${prefix}/${path}` }) }
}

/** Path and query, also of a request in the absolute form that proxies are sent (RFC 9112, section 3.2.2). */
function pathOf (url: string): string {
  if (url.startsWith('/') || url === '*') return url
  const path = url.replace(/^[a-z]+:\/\/[^/?]*/i, '')
  return path.startsWith('/') ? path : `/${path}`
}

/** The port and sandbox that a host name stands for, whatever its letters' case and its port. */
export function parsePreviewHost (host: string, previewDomain: string): { sandboxId: string, port: number } | undefined {
  const name = host.toLowerCase().replace(/:\d*$/, '').replace(/\.$/, '')
  const domain = previewDomain.toLowerCase()
  if (!name.endsWith(`.${domain}`)) return undefined
  const [, port, id] = labelPattern.exec(name.slice(0, -domain.length - 1)) ?? []
  return port === undefined ? undefined : { sandboxId: `sbx_${id}`, port: Number(port) }
}

const ticketName = 'berth_ticket'

/** Takes the ticket out of a path with query: it is for Berth, never for the program inside. */
export function splitTicket (path: string): { path: string, ticket?: string } {
  const cut = path.indexOf('?')
  if (cut === -1 || !path.includes(ticketName, cut)) return { path }
  let ticket: string | undefined
  const rest = path.slice(cut + 1).split('&').filter(part => {
    const [name, value = ''] = part.split('=', 2)
    if (name !== ticketName) return true
    ticket = value
    return false
  })
  return { path: path.slice(0, cut) + (rest.length > 0 ? `?${rest.join('&')}` : ''), ...(ticket === undefined ? {} : { ticket }) }
}
