import { createHash, randomBytes } from 'node:crypto'
import { BerthError } from '../../errors.ts'

/** How long a ticket of each purpose is good, in milliseconds: the time from asking for it to using it, not more. */
const lifeMs = Object.freeze({ preview: 30_000, logs: 30_000 })

/** What a ticket opens: a port of a sandbox (any when absent), the logs of a sandbox and its execs, or that of a task. */
export type TicketScope =
  | { purpose: 'preview', sandboxId: string, port?: number }
  | { purpose: 'logs', sandboxId: string }
  | { purpose: 'logs', taskId: string }

/** What a ticket opens, and for whom. */
export type TicketFacts = TicketScope & {
  /** Whose ticket it is: what follows from it ends with this token. */
  tokenId: string
}

export interface TicketStoreOptions {
  /** How many may be outstanding, in all and of one token. */
  maxOpen?: number
  maxOpenOfToken?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

type StoredTicket = TicketFacts & { expiresAtMs: number }

const secretBytes = 32
const maxTicketLength = 128
const defaultMaxOpen = 10_000
const defaultMaxOpenOfToken = 1000

/** Tickets: 256 random bits, good once and for seconds, in memory alone. One that is looked at is used up, whatever comes of it. */
export class TicketStore {
  readonly #options: Required<TicketStoreOptions>
  /** By hash, in the order of their making: how long a look-up takes tells of the hash alone, which says nothing of the ticket. */
  readonly #tickets = new Map<string, StoredTicket>()

  constructor (options: TicketStoreOptions = {}) {
    this.#options = { maxOpen: defaultMaxOpen, maxOpenOfToken: defaultMaxOpenOfToken, now: Date.now, ...options }
  }

  /** @throws BerthError exhausted `too_many_tickets`. */
  create (facts: TicketFacts): { ticket: string, expiresAt: string } {
    const { maxOpen, maxOpenOfToken, now } = this.#options
    this.#dropExpired()
    const tickets = [...this.#tickets.values()]
    if (tickets.length >= maxOpen || tickets.filter(({ tokenId }) => tokenId === facts.tokenId).length >= maxOpenOfToken) {
      throw new BerthError('exhausted', 'too_many_tickets', 'too many tickets are open; they end by themselves within seconds')
    }
    const ticket = randomBytes(secretBytes).toString('base64url')
    const expiresAtMs = now() + lifeMs[facts.purpose]
    this.#tickets.set(hashTicket(ticket), { ...facts, expiresAtMs })
    return { ticket, expiresAt: new Date(expiresAtMs).toISOString() }
  }

  /** What a ticket was made for; undefined when it is not known, used, too old, or made for something else. */
  redeem (ticket: string, wanted: TicketScope): TicketFacts | undefined {
    if (ticket.length > maxTicketLength) return undefined
    const hash = hashTicket(ticket)
    const found = this.#tickets.get(hash)
    this.#tickets.delete(hash)
    if (!found || found.expiresAtMs <= this.#options.now()) return undefined
    return opens(found, wanted) ? found : undefined
  }

  #dropExpired (): void {
    for (const [hash, { expiresAtMs }] of this.#tickets) {
      if (expiresAtMs <= this.#options.now()) this.#tickets.delete(hash)
    }
  }
}

function opens (made: TicketScope, wanted: TicketScope): boolean {
  if (made.purpose === 'preview') {
    return wanted.purpose === 'preview' && made.sandboxId === wanted.sandboxId && (made.port === undefined || made.port === wanted.port)
  }
  if (wanted.purpose !== 'logs') return false
  return 'taskId' in made ? 'taskId' in wanted && made.taskId === wanted.taskId : 'sandboxId' in wanted && made.sandboxId === wanted.sandboxId
}

function hashTicket (ticket: string): string {
  return createHash('sha256').update(ticket).digest('base64')
}
