import { Agent } from 'node:http'
import type { TcpNetConnectOpts } from 'node:net'
import { BerthError } from '../../errors.ts'
import { connectToProgram } from './program-socket.ts'

export interface OpenPreviewsOptions {
  /** Told when a preview begins; what it answers is called at its end. Both also every so often while one is open, for those who write down times. */
  beginActivity?: (sandboxId: string) => () => void
  /** Between two such tellings, in milliseconds. */
  activityEveryMs?: number
}

/** Where connections to a sandbox come from. */
export interface PreviewAgents {
  /** Keeps them for the requests to come. */
  kept: Agent
  /**
   * Makes one for each request: by none of them can it be found closed. It still asks the program to keep it open,
   * or a program that answers early would close it on a body under way.
   */
  fresh: Agent
}

interface OpenSandbox {
  agents: PreviewAgents
  /** Ends one each. */
  cuts: Set<() => void>
}

/** Each holds two file descriptors of the daemon; a browser opens some six at a time. */
const maxOpenOfSandbox = 512
const defaultActivityEveryMs = 10_000
/** How long a connection without a request is kept; programs commonly give up theirs after 5 s, and say so. */
const idleConnectionMs = 15_000

class ProgramAgent extends Agent {
  override createConnection (options: object) {
    return connectToProgram(options as TcpNetConnectOpts)
  }
}

/** Gives no connection to a second request. */
class FreshAgent extends ProgramAgent {
  override keepSocketAlive (): boolean {
    return false
  }
}

/** The previews that are open, by sandbox: their number is bounded, and they end when their sandbox does. */
export class OpenPreviews {
  readonly #options: Required<OpenPreviewsOptions>
  readonly #bySandbox = new Map<string, OpenSandbox>()
  readonly #ticker: NodeJS.Timeout
  #isClosed = false

  constructor (options: OpenPreviewsOptions = {}) {
    this.#options = { beginActivity: () => () => {}, activityEveryMs: defaultActivityEveryMs, ...options }
    this.#ticker = setInterval(() => this.#tick(), this.#options.activityEveryMs)
    this.#ticker.unref()
  }

  /**
   * Counts a preview as open until `end` is called. `cut` ends it by force.
   * Connections are kept for the same sandbox alone: an address may be another one's later.
   * @throws BerthError exhausted `too_many_previews`.
   */
  begin (sandboxId: string, cut: () => void): { agents: PreviewAgents, end: () => void } {
    const open = this.#bySandbox.get(sandboxId) ?? this.#open(sandboxId)
    if (open.cuts.size >= maxOpenOfSandbox) {
      throw new BerthError('exhausted', 'too_many_previews', `${maxOpenOfSandbox} connections to this sandbox are open; close some`)
    }
    open.cuts.add(cut)
    if (this.#isClosed) cut()
    const endActivity = this.#options.beginActivity(sandboxId)
    return {
      agents: open.agents,
      end: () => {
        if (open.cuts.delete(cut)) endActivity()
      },
    }
  }

  /** How many are open, of one sandbox or of all. */
  count (sandboxId?: string): number {
    if (sandboxId !== undefined) return this.#bySandbox.get(sandboxId)?.cuts.size ?? 0
    return [...this.#bySandbox.values()].reduce((sum, { cuts }) => sum + cuts.size, 0)
  }

  /** Ends all of a sandbox: its end of the connections vanishes without a word. */
  endAllOf (sandboxId: string): void {
    const open = this.#bySandbox.get(sandboxId)
    if (!open) return
    this.#bySandbox.delete(sandboxId)
    for (const cut of [...open.cuts]) cut()
    open.agents.kept.destroy()
    open.agents.fresh.destroy()
  }

  /** Ends all; those that come later end at once. */
  close (): void {
    this.#isClosed = true
    clearInterval(this.#ticker)
    for (const sandboxId of [...this.#bySandbox.keys()]) this.endAllOf(sandboxId)
  }

  #open (sandboxId: string): OpenSandbox {
    const agents = {
      kept: new ProgramAgent({ keepAlive: true, timeout: idleConnectionMs, maxFreeSockets: 16, scheduling: 'lifo' }),
      fresh: new FreshAgent({ keepAlive: true }),
    }
    const open = { agents, cuts: new Set<() => void>() }
    this.#bySandbox.set(sandboxId, open)
    return open
  }

  #tick (): void {
    for (const [sandboxId, { agents, cuts }] of this.#bySandbox) {
      if (cuts.size > 0) this.#options.beginActivity(sandboxId)()
      else if (Object.keys(agents.kept.freeSockets).length === 0) this.#bySandbox.delete(sandboxId)
    }
  }
}
