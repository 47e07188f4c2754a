import { withDeadline } from '../../../lib/deadline.ts'
import type { OpenRequest } from './network-protocol.ts'

/** Has the packet filter let a sandbox reach addresses; resolves to whether it does. */
export type Open = (request: Omit<OpenRequest, 'requestId'>) => Promise<boolean>

const deadlineMs = 5_000
const minimumSeconds = 60
// A client counts the seconds of an answer from when it has it.
const slackSeconds = 5
const maximumEntries = 4_096

interface Opening {
  isOpen: Promise<boolean>
  /** Of the clock of performance.now. */
  untilMs: number
}

/** What the packet filter was asked to open for one policy of one sandbox: the same is not asked for while it holds. */
export class DnsOpenings {
  readonly #sandboxId: string
  readonly #open: Open
  readonly #openings = new Map<string, Opening>()

  constructor ({ sandboxId, open }: { sandboxId: string, open: Open }) {
    this.#sandboxId = sandboxId
    this.#open = open
  }

  /** Whether all these addresses can be reached by that port for as long as an answer of so many seconds holds. Never rejects. */
  async ensure (addresses: readonly string[], port: number, ttlSeconds: number): Promise<boolean> {
    const now = performance.now()
    const keyOf = (address: string): string => `${port} ${address}`
    const missing = addresses.filter(address => (this.#openings.get(keyOf(address))?.untilMs ?? 0) < now + ttlSeconds * 1_000)
    if (missing.length > 0) {
      const ttlMs = (Math.max(ttlSeconds, minimumSeconds) + slackSeconds) * 1_000
      const opening: Opening = { isOpen: this.#ask({ sandboxId: this.#sandboxId, addresses: missing, port, ttlMs }), untilMs: now + ttlMs }
      this.#makeRoom(now)
      for (const address of missing) this.#openings.set(keyOf(address), opening)
      if (!await opening.isOpen) {
        for (const address of missing) if (this.#openings.get(keyOf(address)) === opening) this.#openings.delete(keyOf(address))
        return false
      }
    }
    // Somebody else may have asked for the others a moment ago, and wait for the outcome.
    const outcomes = await Promise.all(addresses.map(async address => await this.#openings.get(keyOf(address))?.isOpen ?? false))
    return outcomes.every(Boolean)
  }

  async #ask (request: Omit<OpenRequest, 'requestId'>): Promise<boolean> {
    try {
      return await withDeadline(deadlineMs, 'opening addresses in the packet filter', async () => await this.#open(request))
    } catch {
      return false
    }
  }

  #makeRoom (now: number): void {
    if (this.#openings.size < maximumEntries) return
    for (const [key, { untilMs }] of this.#openings) if (untilMs < now) this.#openings.delete(key)
    if (this.#openings.size >= maximumEntries) this.#openings.clear()
  }
}
