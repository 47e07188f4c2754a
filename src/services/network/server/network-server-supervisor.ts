import { mkdir, open, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import { isAlive, type ProcessIdentity } from '../../../host/process.ts'
import { endServerProcess, findServerProcess, findServerProcesses, startServerProcess } from '../../../host/server-process.ts'
import { ServerGoneError } from '../../../lib/json-client.ts'
import { pollUntil } from '../../../lib/poll.ts'
import { raceWithDelay } from '../../../lib/race.ts'
import type { NetworkDecision } from '../../../schemas/network.ts'
import { EventBookmark } from './event-bookmark.ts'
import type { NetworkServerEvent, NetworkServerSettings, OpenRequest, ServerPolicy } from './network-protocol.ts'
import { NetworkServerClient } from './network-server-client.ts'

export interface NetworkServerSupervisorOptions {
  /** `<run>/network-server`: the server's own; holds its socket and its pid file. */
  dir: string
  /** The server's program, its script last; settings and directory come behind it. */
  command: readonly string[]
  logPath: string
  settings: NetworkServerSettings
  /** All that shall be in force, asked for whenever a server starts or is found. */
  policies: () => ServerPolicy[]
  onDecision: (decision: Omit<NetworkDecision, 'seq'>) => void
  /** Answers whether the addresses can be reached. The server may have been taken over by a sandbox: what it asks for is to be judged. */
  onOpen: (request: OpenRequest) => Promise<boolean>
  logger: Logger
}

interface Attached {
  identity: ProcessIdentity
  client: NetworkServerClient
}

const startTimeoutMs = 15_000
const readyPollMs = 5
// A server that dies is back in well under a second.
const awayTimeoutMs = 10_000
const retryPauseMs = 50
const firstBackOffMs = 100
const lastBackOffMs = 5000
// One that has lived so long does not die of its start.
const provenAfterMs = 10_000
const deathMs = 200
const lastWordsMs = 1000
const portRetryMs = 5000
const loggedTailBytes = 2000

/** The daemon's network server: found or started at the daemon's start, started again whenever it dies, with the policies of the moment. */
export class NetworkServerSupervisor {
  readonly #options: NetworkServerSupervisorOptions
  readonly #closing = new AbortController()
  readonly #script: string
  readonly #settings: string
  readonly #bookmark: EventBookmark
  #attached: Attached | undefined
  /** Settled when a server is there, or this end has let go. */
  #arrival = Promise.withResolvers<void>()
  #supervising: Promise<void> | undefined
  /** Sandboxes that were removed while no server was there. */
  readonly #removed = new Set<string>()

  constructor (options: NetworkServerSupervisorOptions) {
    this.#options = options
    this.#script = basename(options.command.at(-1) ?? '')
    this.#settings = JSON.stringify(options.settings)
    this.#bookmark = new EventBookmark({ path: join(options.dir, 'acknowledged'), logger: options.logger })
  }

  /**
   * Takes over a server that runs with the same settings; ends any other, and starts one. Resolves when all policies are in force.
   *
   * @throws BerthError unavailable `network_server_unavailable` when it does not come up; it is tried again and again all the same.
   */
  async start (): Promise<void> {
    const first = this.#adoptOrStart()
    this.#supervising = this.#supervise(first)
    await first
  }

  /**
   * Puts a policy in force, or another one in its place: connections that it forbids are cut. Outlasts a restart of the server.
   *
   * @throws BerthError conflict `port_taken`, and the policy before it stays in force; unavailable `network_server_unavailable`.
   */
  async setPolicy (policy: ServerPolicy): Promise<void> {
    await this.#outlast(client => client.setPolicy(policy))
  }

  /** Forgets a sandbox and cuts its connections; one that is not known is fine. A server that is away holds none, and is not waited for. */
  async removePolicy (sandboxId: string): Promise<void> {
    // One that comes up just now may have been given it a moment before.
    if (!this.#attached) return void this.#removed.add(sandboxId)
    await this.#attached.client.removePolicy(sandboxId).catch((error: unknown) => {
      if (!(error instanceof ServerGoneError)) throw error
    })
  }

  /** Lets go of the server, which goes on. */
  async close (): Promise<void> {
    this.#closing.abort()
    this.#arrival.resolve()
    await this.#supervising
    this.#bookmark.write()
  }

  /** Ends the server, whoever has started it, and removes its directory. */
  async end (): Promise<void> {
    await this.close()
    await Promise.all(findServerProcesses(this.#script, this.#options.dir).map(({ identity }) => endServerProcess(identity)))
    await rm(this.#options.dir, { recursive: true, force: true })
  }

  async #outlast<T> (call: (client: NetworkServerClient) => Promise<T>): Promise<T> {
    const giveUpAt = Date.now() + awayTimeoutMs
    for (;;) {
      const attached = await this.#whoIsThere(giveUpAt - Date.now())
      if (!attached) throw unavailable()
      try {
        return await call(attached.client)
      } catch (error) {
        if (!(error instanceof ServerGoneError)) throw error
        if (Date.now() > giveUpAt) throw unavailable(error)
        await delay(retryPauseMs)
      }
    }
  }

  /** The server, waited for at most this long. */
  async #whoIsThere (timeoutMs: number): Promise<Attached | undefined> {
    if (!this.#attached && !this.#closing.signal.aborted) await raceWithDelay(timeoutMs, [this.#arrival.promise])
    return this.#closing.signal.aborted ? undefined : this.#attached
  }

  async #supervise (first: Promise<Attached>): Promise<void> {
    let backOffMs = firstBackOffMs
    for (let next = first; ; next = this.#startServer()) {
      const startedMs = performance.now()
      const attached = await next.catch((error: unknown) => {
        if (!this.#closing.signal.aborted) this.#options.logger.error({ err: error }, 'the network server could not be started; it is tried again')
      })
      if (attached) {
        this.#attached = attached
        for (const sandboxId of this.#removed) attached.client.removePolicy(sandboxId).catch(() => { /* gone again, with all it knew */ })
        this.#removed.clear()
        this.#arrival.resolve()
        await this.#follow(attached)
        this.#attached = undefined
        this.#arrival = Promise.withResolvers()
        await attached.client.close()
        if (!this.#closing.signal.aborted) this.#options.logger.error({ pid: attached.identity.pid }, 'the network server is gone; another one is started')
        if (performance.now() - startedMs > provenAfterMs) backOffMs = firstBackOffMs
      }
      await delay(backOffMs, undefined, { signal: this.#closing.signal }).catch(() => undefined)
      if (this.#closing.signal.aborted) return
      backOffMs = Math.min(backOffMs * 2, lastBackOffMs)
    }
  }

  async #adoptOrStart (): Promise<Attached> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 })
    await this.#bookmark.read()
    return await this.#adopt() ?? await this.#startServer()
  }

  /** A server that runs with these settings, and all policies in force; what else runs in its place is ended when it has said what it had to say. */
  async #adopt (): Promise<Attached | undefined> {
    const { dir, logger } = this.#options
    const found = await findServerProcess(this.#script, dir)
    const running = found ? [found] : findServerProcesses(this.#script, dir)
    for (const { identity, settings } of running) {
      const attached = { identity, client: new NetworkServerClient({ socketPath: join(dir, 'control.sock') }) }
      if (settings === this.#settings && await this.#greet(attached).then(() => true, () => false)) {
        logger.info({ pid: identity.pid }, 'the network server of an earlier daemon goes on')
        return attached
      }
      if (this.#closing.signal.aborted) throw unavailable()
      logger.info({ pid: identity.pid }, 'the network server of an earlier daemon is replaced')
      const answered = Promise.withResolvers<void>()
      const followed = this.#follow(attached, answered.resolve)
      await raceWithDelay(lastWordsMs, [answered.promise, followed])
      await endServerProcess(identity)
      await followed
      await attached.client.close()
    }
    return undefined
  }

  async #startServer (): Promise<Attached> {
    const { dir, command, logPath, logger } = this.#options
    await mkdir(dir, { recursive: true, mode: 0o700 })
    await rm(join(dir, 'control.sock'), { force: true })
    const server = await startServerProcess({ command, settings: this.#settings, dir, logPath }).catch((error: unknown) => { throw unavailable(error) })
    if (!server) throw unavailable()
    const attached = { identity: server.identity, client: new NetworkServerClient({ socketPath: join(dir, 'control.sock') }) }
    try {
      await this.#greet(attached)
      logger.info({ pid: server.identity.pid }, 'started the network server')
      return attached
    } catch (error) {
      await attached.client.close()
      await endServerProcess(server.identity)
      if (error instanceof BerthError) throw error
      throw unavailable(new Error(`the network server did not come up: ${await readTail(logPath)}`, { cause: error }))
    }
  }

  /** Waits until a server answers, and gives it all policies. @throws ServerGoneError */
  async #greet ({ identity, client }: Attached): Promise<void> {
    const giveUpAt = Date.now() + startTimeoutMs
    for (;;) {
      try {
        await client.status()
        break
      } catch (error) {
        if (!isAlive(identity) || Date.now() > giveUpAt || this.#closing.signal.aborted) throw error
        await delay(readyPollMs)
      }
    }
    await this.#setPolicies(client)
  }

  /** Tries again for as long as a published port is taken, which no other policy waits for. */
  async #setPolicies (client: NetworkServerClient): Promise<void> {
    const failures = await client.setPolicies(this.#options.policies())
    if (failures.length === 0) return
    this.#options.logger.error({ failures }, 'published ports are taken by another program; they are tried again until they are free')
    setTimeout(() => {
      if (!this.#closing.signal.aborted) this.#setPolicies(client).catch(() => { /* another server gets them all */ })
    }, portRetryMs).unref()
  }

  /** Passes on what happens until the server or this end is gone. */
  async #follow ({ identity, client }: Attached, onAnswer?: () => void): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted && isAlive(identity)) {
      try {
        for await (const event of client.events(this.#bookmark.of(identity), signal, onAnswer)) {
          this.#bookmark.move(event.seq)
          this.#hear(event, client)
        }
      } catch (error) {
        if (!signal.aborted && !(error instanceof ServerGoneError)) this.#options.logger.error({ err: error }, 'what the network server says could not be heard')
      }
      // One that dies closes its connections a moment before it is gone.
      if (!signal.aborted) await pollUntil(async () => !isAlive(identity), deathMs)
    }
  }

  #hear (event: NetworkServerEvent, client: NetworkServerClient): void {
    if (event.type === 'decision') this.#options.onDecision(event.decision)
    else void this.#answerOpen(event.request, client)
  }

  async #answerOpen (request: OpenRequest, client: NetworkServerClient): Promise<void> {
    try {
      const isOpen = await this.#options.onOpen(request).catch((error: unknown) => {
        this.#options.logger.error({ err: error, request }, 'an address could not be opened for a sandbox')
        return false
      })
      await client.answerOpen({ requestId: request.requestId, isOpen })
    } catch { /* the server is gone, and with it who asked */ }
  }
}

async function readTail (path: string): Promise<string> {
  const file = await open(path)
  try {
    const { size } = await file.stat()
    const { buffer, bytesRead } = await file.read(Buffer.alloc(loggedTailBytes), 0, loggedTailBytes, Math.max(0, size - loggedTailBytes))
    return buffer.toString('utf8', 0, bytesRead)
  } finally {
    await file.close()
  }
}

function unavailable (cause?: unknown): BerthError {
  return new BerthError('unavailable', 'network_server_unavailable', 'the network server of this host does not answer; try again, and see its log if it stays so', { cause })
}
