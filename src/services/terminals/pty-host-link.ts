import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { isAlive, type ProcessIdentity } from '../../host/process.ts'
import { endServerProcess, type ServerProcess } from '../../host/server-process.ts'
import { pollUntil } from '../../lib/poll.ts'
import { PtyHostClient, ptyHostUnavailable } from './pty-host-client.ts'
import type { PtyFrame } from './server/pty-frames.ts'
import type { PtyOperation, PtyStatus } from './server/pty-protocol.ts'

export interface PtyHostLinkOptions {
  server: ServerProcess
  /** The pty-host's own directory. */
  dir: string
  onFrame: (frame: PtyFrame) => void
  /** The connection was broken and is there again: nothing is subscribed to, and what was under way is unknown. */
  onReconnected: () => void
}

const connectTimeoutMs = 15_000
const connectPollMs = 5
// One that dies closes its connections a moment before it is gone.
const deathMs = 200

/** A pty-host that runs, and the connection to it: made again when it breaks, for as long as the process lives. */
export class PtyHostLink {
  readonly dir: string
  readonly settings: string
  readonly identity: ProcessIdentity
  /** Resolves when the process is dead, or this end has let go. */
  readonly gone: Promise<void>
  readonly #options: PtyHostLinkOptions
  readonly #closing = new AbortController()
  #client: PtyHostClient | undefined

  private constructor (options: PtyHostLinkOptions, client: PtyHostClient) {
    this.#options = options
    this.dir = options.dir
    this.settings = options.server.settings
    this.identity = options.server.identity
    this.#client = client
    this.gone = this.#keep(client)
  }

  /** Waits until it listens, and knows that it answers. @throws BerthError unavailable `pty_host_unavailable` */
  static async open (options: PtyHostLinkOptions): Promise<PtyHostLink> {
    const client = await connectTo(options, new AbortController().signal)
    try {
      await client.request('', { op: 'list' })
      return new PtyHostLink(options, client)
    } catch (error) {
      client.close()
      throw error
    }
  }

  get isClosed (): boolean { return this.#closing.signal.aborted }

  async request (terminalId: string, operation: PtyOperation): Promise<unknown> {
    if (!this.#client) throw ptyHostUnavailable()
    return await this.#client.request(terminalId, operation)
  }

  /** Every terminal that it has, those that have ended and were not forgotten too. */
  async list (): Promise<PtyStatus[]> {
    return await this.request('', { op: 'list' }) as PtyStatus[]
  }

  input (terminalId: string, bytes: Uint8Array): void {
    this.#client?.input(terminalId, bytes)
  }

  /** Lets go of it; it goes on. */
  async close (): Promise<void> {
    this.#closing.abort()
    this.#client?.close()
    await this.gone
  }

  /** Ends the process, and removes its directory. */
  async end (): Promise<void> {
    await this.close()
    await endServerProcess(this.identity)
    await rm(this.dir, { recursive: true, force: true })
  }

  async #keep (first: PtyHostClient): Promise<void> {
    const { signal } = this.#closing
    for (let client = first; ;) {
      await client.closed
      this.#client = undefined
      if (signal.aborted || await pollUntil(async () => !isAlive(this.identity), deathMs)) return
      try {
        client = await connectTo(this.#options, signal)
      } catch {
        // It lives and cannot be reached: its terminals are of no use to anybody.
        if (!signal.aborted) await endServerProcess(this.identity)
        return
      }
      this.#client = client
      this.#options.onReconnected()
    }
  }
}

async function connectTo ({ dir, server, onFrame }: PtyHostLinkOptions, signal: AbortSignal): Promise<PtyHostClient> {
  const giveUpAt = Date.now() + connectTimeoutMs
  for (;;) {
    try {
      return await PtyHostClient.connect({ socketPath: join(dir, 'control.sock'), onFrame })
    } catch (error) {
      if (signal.aborted || !isAlive(server.identity) || Date.now() > giveUpAt) throw ptyHostUnavailable(error)
      await delay(connectPollMs)
    }
  }
}
