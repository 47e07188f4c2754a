import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import { endImageKeeper, findImageKeeper, startImageKeeper } from '../../../host/image-keeper.ts'
import { detach } from '../../../host/mount.ts'
import { isAlive, type ProcessIdentity } from '../../../host/process.ts'
import { ServerGoneError } from '../../../lib/json-client.ts'
import { pollUntil } from '../../../lib/poll.ts'
import type { LayerProgress } from '../layers/image-layer.ts'
import { ImageServerClient } from './image-server-client.ts'
import type { BootRequest, PreparedLayer, PrepareRequest, ServerEvent, ServerSettings } from './control-protocol.ts'

export interface SupervisorOptions {
  /** `<run>/image-server`: holds a directory for each generation, that is for each keeper with its FUSE mount. */
  dir: string
  keeperPath: string
  /** The server's program; its settings and its directory come behind it. */
  command: readonly string[]
  logPath: string
  settings: ServerSettings
  logger: Logger
  onEvent: (event: ServerEvent) => void
  /** A keeper and its server are gone: what was mounted through them and is incomplete cannot be read any more. What they left stays until this is done. */
  onLost: (generation: number) => Promise<void>
}

interface Attached {
  generation: number
  keeper: ProcessIdentity
  client: ImageServerClient
  following: AbortController
}

const startTimeoutMs = 20_000
// A server that its keeper starts again is back in well under a second, on a loaded host in a few.
const returnTimeoutMs = 30_000
const retryPauseMs = 100
const handOverMs = 1000

/**
 * The daemon's image server: started when the first layer is needed, found again by the next daemon, replaced when it is lost.
 * A server that dies alone comes back under its keeper, with its mounts; that is not lost.
 */
export class ImageServerSupervisor {
  readonly #options: SupervisorOptions
  #attached: Promise<Attached> | undefined
  #isClosed = false

  constructor (options: SupervisorOptions) {
    this.#options = options
  }

  /** Takes over a server that runs; reports as lost those that do not run any more. */
  async adopt (): Promise<void> {
    await mkdir(this.#options.dir, { recursive: true, mode: 0o700 })
    for (const generation of await this.#generations()) {
      const keeper = await findImageKeeper(this.#dirOf(generation))
      if (keeper) this.#attached = this.#attach(generation, keeper)
      else void this.#bury(generation)
    }
    // A server that cannot be reached is found out by its first use.
    await this.#attached?.catch(() => { this.#attached = undefined })
  }

  /** Has a layer made ready by the server, which is started where there is none. Outlasts a restart of the server. */
  async prepare (request: PrepareRequest, options: { signal?: AbortSignal, onProgress?: (progress: LayerProgress) => void }): Promise<PreparedLayer & { generation: number }> {
    return await this.#outlast(options.signal, async ({ client, generation }) => ({ ...await client.prepare(request, options), generation }))
  }

  /** Starts the server where there is none: it will be needed in a moment. */
  warm (): void {
    this.#ensure().catch((error: unknown) => this.#options.logger.warn({ err: error }, 'the image server could not be started ahead'))
  }

  /** How far the layers that the server knows are; none when there is no server. */
  async layers (): Promise<LayerProgress[]> {
    if (!this.#attached) return []
    return await this.#outlast(undefined, ({ client }) => client.layers())
  }

  /** Has the server remove layers, which nothing may have mounted. */
  async forget (digests: readonly string[]): Promise<void> {
    if (digests.length > 0) await this.#outlast(undefined, ({ client }) => client.forget(digests))
  }

  /** Tells of a sandbox about to start. That it is not told costs time only. */
  async boot (request: BootRequest): Promise<void> {
    if (this.#attached) await (await this.#attached).client.boot(request)
  }

  /** Lets go of the server, which goes on. */
  async close (): Promise<void> {
    this.#isClosed = true
    const attached = await this.#attached?.catch(() => undefined)
    attached?.following.abort()
    await attached?.client.close()
  }

  /** Ends the server and its FUSE mount. Nothing may lie on it. */
  async end (): Promise<void> {
    await this.close()
    for (const generation of await this.#generations()) {
      const keeper = await findImageKeeper(this.#dirOf(generation))
      if (keeper) await endImageKeeper(keeper)
      await this.#remove(generation)
    }
    this.#attached = undefined
  }

  async #outlast<T> (signal: AbortSignal | undefined, call: (attached: Attached) => Promise<T>): Promise<T> {
    const giveUpAt = Date.now() + returnTimeoutMs
    for (;;) {
      signal?.throwIfAborted()
      const attached = await this.#ensure()
      try {
        return await call(attached)
      } catch (error) {
        if (!(error instanceof ServerGoneError)) throw error
        if (this.#isClosed || Date.now() > giveUpAt) throw unavailable(error)
        if (await this.#isLost(attached)) this.#lose(attached)
        await delay(retryPauseMs, undefined, { signal })
      }
    }
  }

  async #ensure (): Promise<Attached> {
    if (this.#isClosed) throw unavailable()
    this.#attached ??= this.#start().catch((error: unknown) => {
      this.#attached = undefined
      throw error
    })
    return await this.#attached
  }

  async #start (): Promise<Attached> {
    const { keeperPath, command, settings, logPath, logger } = this.#options
    const generation = Math.max(0, ...await this.#generations()) + 1
    const dir = this.#dirOf(generation)
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const keeper = await startImageKeeper({ keeperPath, dir, command: [...command, JSON.stringify(settings), dir], logPath })
    logger.info({ generation, pid: keeper.pid }, 'started the image server')
    return await this.#attach(generation, keeper)
  }

  async #attach (generation: number, keeper: ProcessIdentity): Promise<Attached> {
    const client = new ImageServerClient({ socketPath: join(this.#dirOf(generation), 'control.sock') })
    const answers = async () => await client.status().then(() => true, () => false)
    const isReady = await pollUntil(async () => !isAlive(keeper) || await answers(), startTimeoutMs)
    if (!isReady || !isAlive(keeper)) {
      await client.close()
      throw unavailable()
    }
    await client.setSettings(this.#options.settings)
    const attached = { generation, keeper, client, following: new AbortController() }
    void this.#follow(attached)
    return attached
  }

  /** Passes events on for as long as this server is ours, over its restarts. */
  async #follow (attached: Attached): Promise<void> {
    const { client, following } = attached
    let after = 0
    let pid = 0
    while (!following.signal.aborted) {
      try {
        const status = await client.status()
        if (status.pid !== pid) after = 0
        if (pid !== 0 && status.pid !== pid) this.#options.logger.warn({ pid: status.pid }, 'the image server was restarted by its keeper')
        pid = status.pid
        for await (const event of client.events(after, following.signal)) {
          after = event.seq
          this.#options.onEvent(event)
        }
      } catch (error) {
        if (following.signal.aborted) return
        if (!(error instanceof ServerGoneError)) this.#options.logger.error({ err: error }, 'events of the image server could not be read')
      }
      if (await this.#isLost(attached)) return this.#lose(attached)
      await delay(retryPauseMs)
    }
  }

  /** Whether neither server nor keeper is left. A server that lost its keeper starts another one, and is gone for a moment after it. */
  async #isLost (attached: Attached): Promise<boolean> {
    const isThere = async () => {
      attached.keeper = await findImageKeeper(this.#dirOf(attached.generation)) ?? attached.keeper
      return isAlive(attached.keeper) || await attached.client.status().then(() => true, () => false)
    }
    return !await pollUntil(isThere, handOverMs)
  }

  #lose (attached: Attached): void {
    if (attached.following.signal.aborted) return
    attached.following.abort()
    this.#attached = undefined
    void attached.client.close()
    void this.#bury(attached.generation)
  }

  async #bury (generation: number): Promise<void> {
    this.#options.logger.error({ generation }, 'the image server and its keeper are gone')
    try {
      await this.#options.onLost(generation)
      await this.#remove(generation)
    } catch (error) {
      this.#options.logger.error({ err: error, generation }, 'what a lost image server left could not be cleaned up; the next start tries again')
    }
  }

  async #remove (generation: number): Promise<void> {
    const dir = this.#dirOf(generation)
    await detach(join(dir, 'blobs'))
    await rm(dir, { recursive: true, force: true })
  }

  async #generations (): Promise<number[]> {
    const names = await readdir(this.#options.dir).catch(() => [])
    return names.filter(name => /^\d+$/.test(name)).map(Number).sort((a, b) => a - b)
  }

  #dirOf (generation: number): string {
    return join(this.#options.dir, String(generation))
  }
}

function unavailable (cause?: unknown): BerthError {
  return new BerthError('unavailable', 'image_server_unavailable', 'the image server of this host does not answer; try again, and see its log if it stays so', { cause })
}
