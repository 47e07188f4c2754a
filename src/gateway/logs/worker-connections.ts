import { Agent } from 'undici'
import type { WorkerAccess } from '../worker-record.ts'

export interface ConnectionTimes {
  /** Until a connection is there, TLS and all. In milliseconds. */
  connectMs: number
  /** Until the head of an answer is there. */
  headMs: number
  /** Between two pieces of an answer that goes on. */
  silenceMs: number
}

/** Kept for the next call to the same worker. */
const keepAliveMs = 15_000
/** Workers that did not answer for a call in so long have no agent. */
const maxAgents = 2000

/** Connections to the APIs of workers, kept for the next call. Each worker has its own authorities, so each has an agent. */
export class WorkerConnections {
  readonly #times: ConnectionTimes
  /** By address and authorities, the one that was used last at the end. */
  readonly #agents = new Map<string, Agent>()

  constructor (times: ConnectionTimes) {
    this.#times = times
  }

  agentOf ({ url, ca }: Pick<WorkerAccess, 'url' | 'ca'>): Agent {
    const key = `${url}\n${ca ?? ''}`
    const agent = this.#agents.get(key) ?? this.#make(ca)
    this.#agents.delete(key)
    this.#agents.set(key, agent)
    if (this.#agents.size > maxAgents) this.#dropOldest()
    return agent
  }

  async close (): Promise<void> {
    const agents = [...this.#agents.values()]
    this.#agents.clear()
    await Promise.all(agents.map(agent => agent.destroy()))
  }

  #make (ca: string | undefined): Agent {
    const { connectMs, headMs, silenceMs } = this.#times
    return new Agent({
      connect: { timeout: connectMs, ...(ca ? { ca } : {}) },
      headersTimeout: headMs,
      bodyTimeout: silenceMs,
      keepAliveTimeout: keepAliveMs,
      pipelining: 1,
    })
  }

  #dropOldest (): void {
    const [oldest] = this.#agents
    if (!oldest) return
    this.#agents.delete(oldest[0])
    // What is under way on it goes on to its end.
    void oldest[1].close()
  }
}
