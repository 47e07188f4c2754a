/** Where a request that a gateway passes on leads: read off the raw path, so that a host's router sees what was judged here. */
import { BerthError } from '../../errors.ts'

export interface ProxyPlace {
  /** Of a worker, or of a sandbox. */
  id: string
  /** Path and query, as the host gets them: nothing is decoded, nothing is resolved. */
  target: string
  /** The path, segment by segment, decoded as a router decodes them. */
  segments: string[]
  query: URLSearchParams
  /** Under what the client sees the host's own paths; empty where they are the same. */
  prefix: string
}

const belowWorker = /^(\/v1\/workers\/([^/?#]+)\/api)(\/[^?#]*)(\?[^#]*)?$/
const belowSandbox = /^(\/v1\/sandboxes\/([^/?#]+)(?:\/[^?#]*)?)(\?[^#]*)?$/

/** Of `/v1/workers/:id/api/*`. @throws BerthError not_found, or invalid_argument `invalid_url`. */
export function workerPlace (url: string): ProxyPlace {
  const [, prefix, id, path, query] = belowWorker.exec(url) ?? []
  if (prefix === undefined || id === undefined || path === undefined) throw noRoute()
  return { id: decode(id), target: path + (query ?? ''), segments: segmentsOf(path), query: new URLSearchParams(query), prefix }
}

/** Of `/v1/sandboxes/:id` and what is below it. @throws BerthError not_found, or invalid_argument `invalid_url`. */
export function sandboxPlace (url: string): ProxyPlace {
  const [, path, id, query] = belowSandbox.exec(url) ?? []
  if (path === undefined || id === undefined) throw noRoute()
  return { id: decode(id), target: path + (query ?? ''), segments: segmentsOf(path), query: new URLSearchParams(query), prefix: '' }
}

/** Whether an upgrade of this path is for a host to answer. */
export function isProxied (url: string): boolean {
  return belowWorker.test(url) || belowSandbox.test(url)
}

/** A slash that is encoded stays within its segment, here as there; what a server on the way might resolve is refused. */
function segmentsOf (path: string): string[] {
  const segments = path.slice(1).split('/').map(decode)
  // Backslashes and encoded slashes too: to some servers they separate.
  const isUnclear = segments.some(segment => segment.split(/[/\\]/).some(part => part === '.' || part === '..'))
  // eslint-disable-next-line no-control-regex
  if (isUnclear || /[\\\u0000-\u0020\u007f]/.test(path) || segments.some(segment => segment.includes('\0'))) {
    throw new BerthError('invalid_argument', 'invalid_url', 'the path must not hold . or .. as a segment, backslashes, blanks or control characters')
  }
  return segments
}

function decode (segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    throw new BerthError('invalid_argument', 'invalid_url', 'the path is not a valid URL path')
  }
}

function noRoute (): BerthError {
  return new BerthError('not_found', 'route_not_found', 'there is no such path; /docs lists what there is')
}
