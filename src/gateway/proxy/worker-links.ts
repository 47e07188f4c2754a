import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { urlToHttpOptions } from 'node:url'
import { BerthError } from '../../errors.ts'
import type { WorkerAccess, Workers } from '../worker-record.ts'

/** A worker's API as it is reached: by connections that are kept for the next request. */
export interface WorkerLink {
  access: WorkerAccess
  isEncrypted: boolean
  hostname: string
  port: number
  /** Host and port, for the header. */
  authority: string
  /** What the address has of a path, without a slash at its end. */
  basePath: string
  agent: HttpAgent
}

export interface WorkerLinksOptions {
  workers: Pick<Workers, 'access'>
  /** How long what is known of a worker is believed, in milliseconds: a call should cost no look into Redis. */
  believeMs?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

interface Kept {
  /** What the connections depend on. */
  address: string
  agent: HttpAgent
}

const defaultBelieveMs = 2000
/** A host closes a connection that has been idle for 72 s. */
const idleConnectionMs = 30_000
/** For each worker; more may be open at a time. */
const maxFreeConnections = 64
/** Above so many workers, those without a connection are forgotten. */
const maxKept = 4096

/** The links to all workers. */
export class WorkerLinks {
  readonly #options: Required<WorkerLinksOptions>
  readonly #known = new Map<string, { link: Promise<WorkerLink>, untilMs: number }>()
  readonly #kept = new Map<string, Kept>()

  constructor (options: WorkerLinksOptions) {
    this.#options = { believeMs: defaultBelieveMs, now: Date.now, ...options }
  }

  /** @throws BerthError not_found `worker_not_found`; unavailable `worker_unreachable`. */
  open (id: string): Promise<WorkerLink> {
    const known = this.#known.get(id)
    if (known && known.untilMs > this.#options.now()) return known.link
    const link = this.#options.workers.access(id).then(access => this.#linkTo(id, access))
    const entry = { link, untilMs: this.#options.now() + this.#options.believeMs }
    this.#known.set(id, entry)
    link.catch((error: unknown) => {
      if (this.#known.get(id) === entry) this.#known.delete(id)
      if (error instanceof BerthError && error.kind === 'not_found') this.#drop(id)
    })
    return link
  }

  /** What is known of a worker was wrong; connections are kept where its address stays. */
  doubt (id: string): void {
    this.#known.delete(id)
  }

  /** Ends all connections. */
  close (): void {
    for (const { agent } of this.#kept.values()) agent.destroy()
    this.#kept.clear()
    this.#known.clear()
  }

  #linkTo (id: string, access: WorkerAccess): WorkerLink {
    const url = URL.canParse(access.url) ? new URL(access.url) : undefined
    if (url === undefined || !/^https?:$/.test(url.protocol)) {
      throw new BerthError('unavailable', 'worker_unreachable', `worker ${id} gave no address that can be used: it must be http(s)://HOST:PORT; see its --advertise`, { details: { workerId: id } })
    }
    const isEncrypted = url.protocol === 'https:'
    const { hostname } = urlToHttpOptions(url)
    return {
      access,
      isEncrypted,
      hostname: hostname ?? url.hostname,
      port: url.port === '' ? (isEncrypted ? 443 : 80) : Number(url.port),
      authority: url.host,
      basePath: url.pathname.replace(/\/+$/, ''),
      agent: this.#agentOf(id, access, isEncrypted),
    }
  }

  #agentOf (id: string, { url, ca }: WorkerAccess, isEncrypted: boolean): HttpAgent {
    const address = `${url}\n${ca ?? ''}`
    const kept = this.#kept.get(id)
    if (kept?.address === address) return kept.agent
    this.#drop(id)
    const settings = { keepAlive: true, timeout: idleConnectionMs, maxFreeSockets: maxFreeConnections, scheduling: 'lifo' } as const
    const agent = isEncrypted ? new HttpsAgent({ ...settings, ...(ca ? { ca } : {}) }) : new HttpAgent(settings)
    if (this.#kept.size >= maxKept) this.#forgetIdle()
    this.#kept.set(id, { address, agent })
    return agent
  }

  #forgetIdle (): void {
    for (const [id, { agent: { sockets, freeSockets } }] of this.#kept) {
      if (Object.keys(sockets).length > 0 || Object.keys(freeSockets).length > 0) continue
      this.#drop(id)
      this.#known.delete(id)
    }
  }

  /** What is under way goes on; no connection to the old address is used again. */
  #drop (id: string): void {
    const kept = this.#kept.get(id)
    if (!kept) return
    this.#kept.delete(id)
    kept.agent.keepSocketAlive = () => false
    for (const socket of Object.values(kept.agent.freeSockets).flat()) socket?.destroy()
  }
}
