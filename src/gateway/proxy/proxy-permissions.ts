/** What each scope of a fleet's token may ask of a host by way of the gateway, as one table; who is not named here may not. */
import { BerthError } from '../../errors.ts'
import type { FleetPrincipal } from '../worker-record.ts'

/** A request to a host, as far as its permission goes. */
export interface ProxiedRequest {
  method: string
  /** Of the host's path, decoded. */
  segments: readonly string[]
  query: URLSearchParams
  isUpgrade: boolean
}

interface Grant {
  methods: 'reading' | 'all'
  /** This path and what is below it; `*` stands for any one segment. */
  under: string
}

const reading = new Set(['GET', 'HEAD'])

/** A client's: what runs on the hosts of its pools, and what helps to run it. The rest of a host is for who runs it. */
const clientGrants: readonly Grant[] = [
  { methods: 'all', under: 'v1/sandboxes' },
  { methods: 'all', under: 'v1/tasks' },
  { methods: 'all', under: 'v1/tickets' },
  { methods: 'all', under: 'v1/images/pull' },
  { methods: 'reading', under: 'v1/images' },
  { methods: 'reading', under: 'v1/events' },
  { methods: 'reading', under: 'v1/usage' },
  { methods: 'reading', under: 'v1/queue' },
  { methods: 'reading', under: 'v1/host' },
  { methods: 'reading', under: 'openapi.json' },
  { methods: 'reading', under: 'docs' },
  { methods: 'reading', under: 'healthz' },
  { methods: 'reading', under: 'readyz' },
  { methods: 'reading', under: 'metrics' },
]

/** A token that a host makes would be good there without the gateway, and outlive the client's own. */
const clientDenials = ['v1/sandboxes/*/tokens']

/** The WebSockets of a host that take its tickets. Those of logs only look; those of terminals, for who says so. */
const hostSockets: readonly { path: string, role?: string }[] = [
  { path: 'v1/sandboxes/*/logs/ws' },
  { path: 'v1/sandboxes/*/execs/*/logs/ws' },
  { path: 'v1/tasks/*/logs/ws' },
  { path: 'v1/sandboxes/*/terminals/*/attach', role: 'read' },
]

/** @throws BerthError permission_denied `scope_insufficient`. */
export function checkProxied (principal: FleetPrincipal, asked: ProxiedRequest): void {
  const { method, segments, isUpgrade } = asked
  if (principal.scope === 'admin') return
  if (principal.scope === 'read') {
    if (!reading.has(method)) throw denied('this token may only read, by GET and HEAD; use an admin or a client token')
    if (isUpgrade && !isLooking(asked)) throw denied('this token may only look: it opens the sockets of logs, and of terminals with ?role=read')
    return
  }
  if (principal.scope !== 'client') throw denied('this token lets a host join, and nothing else; use an admin or a client token')
  const isGranted = clientGrants.some(({ methods, under }) => isUnder(segments, under) && (methods === 'all' || (reading.has(method) && !isUpgrade)))
  if (!isGranted || clientDenials.some(under => isUnder(segments, under))) {
    throw denied('a client\'s token is for sandboxes, tasks and images; use an admin token for what concerns the host, and for tokens')
  }
}

/** @throws BerthError permission_denied `pool_not_allowed`. */
export function checkPool (principal: FleetPrincipal, pool: string): void {
  if (principal.pools === undefined || principal.pools.includes(pool)) return
  throw new BerthError('permission_denied', 'pool_not_allowed', `this token is for other pools: ${principal.pools.join(', ')}`)
}

/** Whether a host opens this path to whoever has a ticket. */
export function takesTickets (segments: readonly string[]): boolean {
  return hostSockets.some(({ path }) => isAt(segments, path))
}

function isLooking ({ segments, query }: ProxiedRequest): boolean {
  return hostSockets.some(({ path, role }) => isAt(segments, path) && (role === undefined || (query.getAll('role').length === 1 && query.get('role') === role)))
}

function isAt (segments: readonly string[], pattern: string): boolean {
  return segments.length === pattern.split('/').length && isUnder(segments, pattern)
}

function isUnder (segments: readonly string[], pattern: string): boolean {
  return pattern.split('/').every((part, index) => part === '*' ? (segments[index] ?? '') !== '' : segments[index] === part)
}

function denied (message: string): BerthError {
  return new BerthError('permission_denied', 'scope_insufficient', message)
}
