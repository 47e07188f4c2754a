import { createHash } from 'node:crypto'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { endServerProcess, findServerProcess, findServerProcesses, startServerProcess, type ServerProcess } from '../../host/server-process.ts'
import { raceWithDelay } from '../../lib/race.ts'
import { ptyHostUnavailable } from './pty-host-client.ts'
import { PtyHostLink } from './pty-host-link.ts'
import { decodeAdvanced, decodeJson, decodeOutput, decodeTaken, type PtyFrame } from './server/pty-frames.ts'
import { frameKinds, type PtyCreate, type PtyEnd, type PtyHostSettings, type PtyOperation, type PtyStatus } from './server/pty-protocol.ts'

export interface PtyHostSupervisorOptions {
  /** `<run>/pty-host`: of all pty-hosts; each has a directory of its own below, named after its settings. */
  dir: string
  /** The program, its script last; settings and directory come behind it. */
  command: readonly string[]
  logPath: string
  settings: PtyHostSettings
  logger: Logger
}

/** What a terminal hears of its pty-host. */
export interface PtyListener {
  onOutput: (offset: number, bytes: Buffer) => void
  onAdvanced: (offset: number) => void
  onTaken: (bytes: number) => void
  onEnded: (end: PtyEnd) => void
  /** The connection was broken and is there again. `status`: of this terminal, if it is known there. */
  onReconnected: (status: PtyStatus | undefined) => void
  /** The pty-host is dead, and with it the pseudo-terminal. */
  onLost: () => void
}

/** What terminals need of it. */
export type PtyHosts = Pick<PtyHostSupervisor, 'adopt' | 'list' | 'listen' | 'create' | 'request' | 'input' | 'forget' | 'discard' | 'sweep' | 'close' | 'end'>

const awayTimeoutMs = 10_000
const endTimeoutMs = 5000
const firstBackOffMs = 100
const lastBackOffMs = 5000
// One that has lived so long does not die of its start.
const provenAfterMs = 10_000

/**
 * The pty-hosts of this daemon. One with the daemon's own settings takes every new terminal: it is found at the daemon's start, or started
 * when the first terminal is asked for, and from then on started again whenever it dies. Those of another version or other settings that an
 * earlier daemon left keep the terminals that they have, and are ended when none of these lives any more: so terminals survive an upgrade.
 */
export class PtyHostSupervisor {
  readonly #options: PtyHostSupervisorOptions
  readonly #script: string
  readonly #settings: string
  readonly #ownDir: string
  readonly #closing = new AbortController()
  readonly #listeners = new Map<string, PtyListener>()
  readonly #linkOf = new Map<string, PtyHostLink>()
  /** Of other settings. */
  readonly #elders = new Set<PtyHostLink>()
  #current: PtyHostLink | undefined
  #arrival = Promise.withResolvers<void>()
  #supervising: Promise<void> | undefined
  #following: Promise<void>[] = []

  constructor (options: PtyHostSupervisorOptions) {
    this.#options = options
    this.#script = basename(options.command.at(-1) ?? '')
    this.#settings = JSON.stringify(options.settings)
    this.#ownDir = join(options.dir, createHash('sha256').update(this.#settings).digest('hex').slice(0, 12))
  }

  /** Takes over the pty-hosts that an earlier daemon left. One that does not answer is ended. */
  async adopt (): Promise<void> {
    const { dir, logger } = this.#options
    for (const name of await readdir(dir).catch(() => [])) {
      const hostDir = join(dir, name)
      const running = await this.#findIn(hostDir)
      const [server, ...others] = running
      // A daemon that died while it started one may have left a second.
      await Promise.all(others.map(({ identity }) => endServerProcess(identity)))
      const link = server && await this.#open(server, hostDir).catch(async (error: unknown) => {
        logger.error({ pid: server.identity.pid, err: error }, 'a pty-host of an earlier daemon does not answer: it is ended')
        await endServerProcess(server.identity)
      })
      if (!link) {
        await rm(hostDir, { recursive: true, force: true })
        continue
      }
      const isCurrent = link.settings === this.#settings
      logger.info({ pid: link.identity.pid, isCurrent }, 'the pty-host of an earlier daemon goes on')
      if (isCurrent) this.#supervise(link)
      else this.#followElder(link)
    }
  }

  /** Every terminal of every pty-host, by id; from here on each of them can be spoken to. */
  async list (): Promise<Map<string, PtyStatus>> {
    const statuses = new Map<string, PtyStatus>()
    for (const link of this.#links()) {
      for (const status of await link.list().catch(() => [])) {
        statuses.set(status.id, status)
        this.#linkOf.set(status.id, link)
      }
    }
    return statuses
  }

  /** Has a terminal heard by this listener from now on, until it is forgotten. */
  listen (terminalId: string, listener: PtyListener): void {
    this.#listeners.set(terminalId, listener)
  }

  /**
   * Starts a program at a terminal of its own. Starts the pty-host where there is none.
   *
   * @throws BerthError unavailable `pty_host_unavailable`, or what the pty-host answers.
   */
  async create (terminalId: string, request: Omit<PtyCreate, 'op'>): Promise<void> {
    this.#supervise()
    if (!this.#current && !this.#closing.signal.aborted) await raceWithDelay(awayTimeoutMs, [this.#arrival.promise])
    const link = this.#current
    if (!link) throw ptyHostUnavailable()
    this.#linkOf.set(terminalId, link)
    await link.request(terminalId, { op: 'create', ...request })
  }

  /** @throws BerthError unavailable `pty_host_unavailable`, or what the pty-host answers. */
  async request (terminalId: string, operation: PtyOperation): Promise<unknown> {
    const link = this.#linkOf.get(terminalId)
    if (!link) throw ptyHostUnavailable()
    return await link.request(terminalId, operation)
  }

  input (terminalId: string, bytes: Uint8Array): void {
    this.#linkOf.get(terminalId)?.input(terminalId, bytes)
  }

  /** Has nothing to do with a terminal any more. Resolves when its pty-host, if that lives, has not either. */
  async forget (terminalId: string): Promise<void> {
    this.#listeners.delete(terminalId)
    const link = this.#linkOf.get(terminalId)
    this.#linkOf.delete(terminalId)
    await link?.request(terminalId, { op: 'forget' }).catch(() => { /* gone, with all that it knew */ })
  }

  /** Ends a terminal that belongs to nobody, and forgets it. Resolves when it has ended, or cannot be asked; at most after some seconds. */
  async discard (terminalId: string): Promise<void> {
    const link = this.#linkOf.get(terminalId)
    const { promise: isOver, resolve } = Promise.withResolvers<void>()
    const silent = () => {}
    this.listen(terminalId, { onOutput: silent, onAdvanced: silent, onTaken: silent, onReconnected: () => resolve(), onLost: resolve, onEnded: () => resolve() })
    const isThere = await link?.request(terminalId, { op: 'hangUp', force: true }).then(() => true, () => false)
    // One that has ended before does not say so again, but can be forgotten.
    const isForgotten = isThere && await link?.request(terminalId, { op: 'forget' }).then(() => true, () => false)
    if (isThere && !isForgotten) await raceWithDelay(endTimeoutMs, [isOver])
    await this.forget(terminalId)
  }

  /** Ends pty-hosts of other settings that have no terminal any more. */
  async sweep (): Promise<void> {
    for (const link of this.#elders) {
      const statuses = await link.list().catch(() => undefined)
      if (!statuses || statuses.some(({ end }) => !end)) continue
      this.#elders.delete(link)
      this.#options.logger.info({ pid: link.identity.pid }, 'a pty-host of another version has no terminal any more: it is ended')
      await link.end()
    }
  }

  /** Lets go of all; they go on. */
  async close (): Promise<void> {
    this.#closing.abort()
    this.#arrival.resolve()
    await Promise.all(this.#links().map(link => link.close()))
    await this.#supervising
    await Promise.all(this.#following)
  }

  /** Ends all, whoever has started them, and removes their directories. */
  async end (): Promise<void> {
    await this.close()
    const { dir } = this.#options
    for (const name of await readdir(dir).catch(() => [])) {
      await Promise.all(findServerProcesses(this.#script, join(dir, name)).map(({ identity }) => endServerProcess(identity)))
    }
    await rm(dir, { recursive: true, force: true })
  }

  #links (): PtyHostLink[] {
    return [...(this.#current ? [this.#current] : []), ...this.#elders]
  }

  async #findIn (hostDir: string): Promise<ServerProcess[]> {
    const found = await findServerProcess(this.#script, hostDir)
    return found ? [found] : findServerProcesses(this.#script, hostDir)
  }

  async #open (server: ServerProcess, dir: string): Promise<PtyHostLink> {
    const link: PtyHostLink = await PtyHostLink.open({ server, dir, onFrame: frame => this.#hear(frame), onReconnected: () => { void this.#resume(link) } })
    return link
  }

  #followElder (link: PtyHostLink): void {
    this.#elders.add(link)
    this.#following.push(link.gone.then(() => {
      this.#elders.delete(link)
      this.#lose(link)
    }))
  }

  #supervise (found?: PtyHostLink): void {
    if (this.#closing.signal.aborted) return
    this.#supervising ??= this.#keepOne(found).catch((error: unknown) => { this.#options.logger.error({ err: error }, 'the pty-host is not looked after any more') })
  }

  async #keepOne (found: PtyHostLink | undefined): Promise<void> {
    const { logger } = this.#options
    const { signal } = this.#closing
    let backOffMs = firstBackOffMs
    for (let next = found; !signal.aborted; next = undefined) {
      const startedMs = performance.now()
      const link = next ?? await this.#start().catch((error: unknown) => { logger.error({ err: error }, 'the pty-host could not be started; it is tried again') })
      if (link) {
        this.#current = link
        this.#arrival.resolve()
        if (signal.aborted) await link.close()
        await link.gone
        this.#current = undefined
        this.#arrival = Promise.withResolvers()
        this.#lose(link)
        if (performance.now() - startedMs > provenAfterMs) backOffMs = firstBackOffMs
      }
      await delay(backOffMs, undefined, { signal }).catch(() => undefined)
      backOffMs = Math.min(backOffMs * 2, lastBackOffMs)
    }
  }

  async #start (): Promise<PtyHostLink> {
    const { command, logPath, logger } = this.#options
    await mkdir(this.#ownDir, { recursive: true, mode: 0o700 })
    await rm(join(this.#ownDir, 'control.sock'), { force: true })
    const server = await startServerProcess({ command, settings: this.#settings, dir: this.#ownDir, logPath })
    if (!server) throw ptyHostUnavailable()
    try {
      const link = await this.#open(server, this.#ownDir)
      logger.info({ pid: server.identity.pid }, 'started the pty-host')
      return link
    } catch (error) {
      await endServerProcess(server.identity)
      throw error
    }
  }

  #lose (link: PtyHostLink): void {
    if (link.isClosed) return
    const lost = [...this.#linkOf].filter(([, other]) => other === link).map(([id]) => id)
    this.#options.logger.error({ pid: link.identity.pid, terminals: lost.length }, 'a pty-host is gone, and its terminals with it')
    for (const id of lost) {
      this.#linkOf.delete(id)
      this.#listeners.get(id)?.onLost()
    }
  }

  async #resume (link: PtyHostLink): Promise<void> {
    const statuses = await link.list().catch(() => undefined)
    // Broken again: the next time.
    if (!statuses) return
    this.#options.logger.warn({ pid: link.identity.pid }, 'the connection to a pty-host was broken, and is there again')
    const byId = new Map(statuses.map(status => [status.id, status]))
    for (const [id, other] of this.#linkOf) if (other === link) this.#listeners.get(id)?.onReconnected(byId.get(id))
  }

  #hear (frame: PtyFrame): void {
    const listener = this.#listeners.get(frame.terminalId)
    if (!listener) return
    if (frame.kind === frameKinds.output) {
      const { offset, bytes } = decodeOutput(frame)
      listener.onOutput(offset, bytes)
    } else if (frame.kind === frameKinds.advanced) listener.onAdvanced(decodeAdvanced(frame))
    else if (frame.kind === frameKinds.taken) listener.onTaken(decodeTaken(frame))
    else if (frame.kind === frameKinds.ended) listener.onEnded(decodeJson(frame) as PtyEnd)
  }
}
