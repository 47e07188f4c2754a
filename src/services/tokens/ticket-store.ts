import { createHash, randomBytes } from 'node:crypto'
import { BerthError } from '../../errors.ts'

/** What a ticket opens: a port of a sandbox (any when absent), the logs of a sandbox and its execs, that of a task, or a terminal. */
export type TicketTarget =
  | { scope: 'preview', sandboxId: string, port?: number }
  | { scope: 'logs', sandboxId: string }
  | { scope: 'logs', taskId: string }
  | { scope: 'terminal', sandboxId: string, terminalId: string }

/** What a ticket opens, how far, and for whom. */
export type TicketFacts = TicketTarget & {
  /** Whose ticket it is: what follows from it ends with this token. */
  tokenId: string
  /** Of scope `terminal`: what may be done there. Nothing but looking when absent. */
  role?: 'write' | 'read'
}

export interface TicketStoreOptions {
  /** Whether a token is still good: a ticket ends with the token that made it. Each is when absent. */
  isTokenValid?: (tokenId: string) => boolean
  /** How many may be outstanding, in all and of one token. */
  maxOpen?: number
  maxOpenOfToken?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

type StoredTicket = TicketFacts & { expiresAtMs: number }

const secretBytes = 32
const maxTicketLength = 128
/** The time from asking for it to using it, not more. */
const defaultLifeMs = 30_000
const defaultMaxOpen = 10_000
const defaultMaxOpenOfToken = 1000

/** Tickets: 256 random bits, good once and for seconds, in memory alone. One that is looked at is used up, whatever comes of it. */
export class TicketStore {
  readonly #options: Required<TicketStoreOptions>
  /** By hash, in the order of their making: how long a look-up takes tells of the hash alone, which says nothing of the ticket. */
  readonly #tickets = new Map<string, StoredTicket>()

  constructor (options: TicketStoreOptions = {}) {
    this.#options = { isTokenValid: () => true, maxOpen: defaultMaxOpen, maxOpenOfToken: defaultMaxOpenOfToken, now: Date.now, ...options }
  }

  /** Good for `ttlMs` milliseconds. @throws BerthError exhausted `too_many_tickets`. */
  create (facts: TicketFacts, { ttlMs = defaultLifeMs }: { ttlMs?: number } = {}): { ticket: string, expiresAt: string } {
    const { maxOpen, maxOpenOfToken, now } = this.#options
    this.#dropExpired()
    const tickets = [...this.#tickets.values()]
    if (tickets.length >= maxOpen || tickets.filter(({ tokenId }) => tokenId === facts.tokenId).length >= maxOpenOfToken) {
      throw new BerthError('exhausted', 'too_many_tickets', 'too many tickets are open; they end by themselves within seconds')
    }
    const ticket = randomBytes(secretBytes).toString('base64url')
    const expiresAtMs = now() + ttlMs
    this.#tickets.set(hashTicket(ticket), { ...facts, expiresAtMs })
    return { ticket, expiresAt: new Date(expiresAtMs).toISOString() }
  }

  /** What a ticket was made for; undefined when it is not known, used, too old, of a token that is not good any more, or made for something else. */
  redeem (ticket: string, wanted: TicketTarget): TicketFacts | undefined {
    if (ticket.length > maxTicketLength) return undefined
    const hash = hashTicket(ticket)
    const found = this.#tickets.get(hash)
    this.#tickets.delete(hash)
    if (!found || found.expiresAtMs <= this.#options.now() || !this.#options.isTokenValid(found.tokenId)) return undefined
    return opens(found, wanted) ? found : undefined
  }

  #dropExpired (): void {
    for (const [hash, { expiresAtMs }] of this.#tickets) {
      if (expiresAtMs <= this.#options.now()) this.#tickets.delete(hash)
    }
  }
}

function opens (made: TicketTarget, wanted: TicketTarget): boolean {
  if (made.scope === 'preview') {
    return wanted.scope === 'preview' && made.sandboxId === wanted.sandboxId && (made.port === undefined || made.port === wanted.port)
  }
  if (made.scope === 'terminal') {
    return wanted.scope === 'terminal' && made.sandboxId === wanted.sandboxId && made.terminalId === wanted.terminalId
  }
  if (wanted.scope !== 'logs') return false
  return 'taskId' in made ? 'taskId' in wanted && made.taskId === wanted.taskId : 'sandboxId' in wanted && made.sandboxId === wanted.sandboxId
}

function hashTicket (ticket: string): string {
  return createHash('sha256').update(ticket).digest('base64')
}
