/** What each scope of token may do, as one table; who is not named here may not. */
import { BerthError } from '../errors.ts'
import type { TicketFacts } from '../services/tokens/ticket-store.ts'
import type { Principal } from './authentication.ts'

/** A request as far as its permission goes. */
export interface AskedFor {
  method: string
  /** Pattern of the route; undefined when there is none, which anyone may be told. */
  route: string | undefined
  /** The sandbox that its path names. */
  sandboxId: string | undefined
}

const reading = new Set(['GET', 'HEAD'])
const own = '/v1/sandboxes/:id'

interface Grant {
  methods: 'reading' | 'all'
  /** Routes below this one, and it. */
  under: string
}

/** Within its own sandbox. Neither its life, nor its network, nor its tokens: those are for who owns the sandbox. */
const sandboxGrants: readonly Grant[] = [
  { methods: 'reading', under: own },
  { methods: 'all', under: `${own}/execs` },
  { methods: 'all', under: `${own}/files` },
  { methods: 'all', under: `${own}/terminals` },
]

const sandboxDenials = [`${own}/tokens`]

/** Routes that check for themselves what a token of a smaller scope may have of them. */
const checkedThere = new Set(['POST /v1/tickets'])

/** @throws BerthError permission_denied `scope_insufficient`. */
export function checkScope (principal: Principal, asked: AskedFor): void {
  if (principal.scope === 'admin') return
  if (principal.scope === 'read') {
    if (reading.has(asked.method) || isCheckedThere(asked)) return
    throw denied('this token may only read; use an admin token')
  }
  const { method, route } = asked
  if (route === undefined || isCheckedThere(asked)) return
  if (!isUnder(route, own) || asked.sandboxId !== principal.sandboxId) throw denied('this token is for one sandbox, and for nothing else; use an admin token')
  const isGranted = sandboxGrants.some(({ methods, under }) => isUnder(route, under) && (methods === 'all' || reading.has(method)))
  if (!isGranted || sandboxDenials.some(under => isUnder(route, under))) {
    throw denied('a token of a sandbox may look, execute and preview; use an admin token for its life, its network and its tokens')
  }
}

/** Whether a principal may talk to the ports of a sandbox. @throws BerthError permission_denied. */
export function checkPreview (principal: Principal, asked: { method: string, isUpgrade: boolean, sandboxId: string }): void {
  if (principal.scope === 'admin') return
  if (principal.scope === 'sandbox' && principal.sandboxId === asked.sandboxId) return
  if (principal.scope === 'read' && reading.has(asked.method) && !asked.isUpgrade) return
  throw denied(principal.scope === 'read' ? 'this token may only read, by GET and HEAD; use an admin token or one of the sandbox' : 'this token is for another sandbox')
}

/** Whether a principal may make this ticket: it opens no more than the token does. @throws BerthError permission_denied. */
export function checkTicket (principal: Principal, wanted: Omit<TicketFacts, 'tokenId'>): void {
  if (principal.scope === 'admin') return
  if (principal.scope === 'sandbox') {
    if ('sandboxId' in wanted && wanted.sandboxId === principal.sandboxId) return
    throw denied('this token makes tickets for its own sandbox alone')
  }
  const { scope, role } = wanted
  if (scope === 'logs' || (scope === 'terminal' && role === 'read')) return
  throw denied('this token may only read, so it makes tickets for logs, and for terminals with role read; use an admin token')
}

function isCheckedThere ({ method, route }: AskedFor): boolean {
  return checkedThere.has(`${method} ${route}`)
}

function isUnder (route: string, prefix: string): boolean {
  return route === prefix || route.startsWith(`${prefix}/`)
}

export function denied (message: string): BerthError {
  return new BerthError('permission_denied', 'scope_insufficient', message)
}
