import { Mutex } from 'async-mutex'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { readJson, writeDurably } from '../../lib/durable-file.ts'
import type { HostDrainRequest, HostDrainState } from '../../schemas/host.ts'
import type { NewEvent } from '../events/event-log.ts'

export interface HostDrainOptions {
  /** Where it is kept across restarts. */
  path: string
  events: { append: (event: NewEvent) => unknown }
  logger: Logger
}

/** What is on disk. */
interface Kept {
  drain?: HostDrainState
  /** The number of the gateway's wish that was carried out last. */
  wishNumber?: number
}

export interface WishOption {
  /** Of the gateway's wish that this carries out; kept with it. */
  wishNumber?: number
}

const stopRetryMs = 5000

/** Whether this host is drained: it begins nothing more, and what runs goes on. Survives restarts. */
export class HostDrain {
  readonly #options: HostDrainOptions
  readonly #changing = new Mutex()
  readonly #changeListeners: Array<(isDraining: boolean) => void> = []
  readonly #stopListeners: Array<() => void | Promise<void>> = []
  #kept: Kept
  #timer: NodeJS.Timeout | undefined
  #hasStarted = false
  #isClosed = false

  private constructor (options: HostDrainOptions, kept: Kept) {
    this.#options = options
    this.#kept = kept
  }

  /** Reads what an earlier daemon has kept. Rejects where the file is there and cannot be read. */
  static async open (options: HostDrainOptions): Promise<HostDrain> {
    return new HostDrain(options, parseKept(await readJson(options.path)))
  }

  get isDraining (): boolean {
    return this.#kept.drain !== undefined
  }

  /** As `GET /v1/host` shows it. */
  get state (): HostDrainState | undefined {
    return this.#kept.drain
  }

  /** The gateway's wish that was carried out last, by this daemon or one before it. */
  get wishNumber (): number | undefined {
    return this.#kept.wishNumber
  }

  /** Calls back at each change, and at the start of a daemon that finds itself drained. The listener must not throw. */
  onChange (listener: (isDraining: boolean) => void): void {
    this.#changeListeners.push(listener)
  }

  /** Calls back when tasks that still run are to be stopped and given back; again a little later where that fails. */
  onStopDue (listener: () => void | Promise<void>): void {
    this.#stopListeners.push(listener)
  }

  /** Goes on with what an earlier daemon has begun. Before it no listener is called. */
  start (): void {
    this.#hasStarted = true
    if (!this.isDraining) return
    this.#notify()
    this.#arm()
  }

  /** Idempotent: only a time to stop that is given replaces the one before. Resolves when it is on disk. */
  async drain ({ stopAfterMs, wishNumber }: HostDrainRequest & WishOption = {}): Promise<void> {
    await this.#change(wishNumber, current => ({
      since: current?.since ?? new Date().toISOString(),
      ...(stopAfterMs === undefined ? current?.stopAt !== undefined && { stopAt: current.stopAt } : { stopAt: new Date(Date.now() + stopAfterMs).toISOString() }),
    }))
  }

  /** Idempotent. Resolves when it is on disk. */
  async undrain ({ wishNumber }: WishOption = {}): Promise<void> {
    await this.#change(wishNumber, () => undefined)
  }

  /** @throws BerthError unavailable `host_draining` while nothing more is taken. */
  assertTaking (): void {
    if (this.isDraining) throw new BerthError('unavailable', 'host_draining', 'this host is drained and takes nothing more; use another one, or undrain it: berth host undrain')
  }

  async close (): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.#changing.waitForUnlock()
  }

  async #change (wishNumber: number | undefined, next: (current: HostDrainState | undefined) => HostDrainState | undefined): Promise<void> {
    await this.#changing.runExclusive(async () => {
      const before = this.#kept
      const drain = next(before.drain)
      const number = wishNumber ?? before.wishNumber
      const kept: Kept = { ...(drain && { drain }), ...(number !== undefined && { wishNumber: number }) }
      if (JSON.stringify(kept) === JSON.stringify(before)) return
      await writeDurably(this.#options.path, `${JSON.stringify(kept)}\n`)
      this.#kept = kept
      if ((drain === undefined) !== (before.drain === undefined)) this.#tell()
      if (drain?.stopAt !== before.drain?.stopAt) this.#arm()
    })
  }

  #tell (): void {
    const { events, logger } = this.#options
    const { drain } = this.#kept
    events.append(drain ? { type: 'host.draining', data: drain.stopAt === undefined ? {} : { stopAt: drain.stopAt } } : { type: 'host.undrained' })
    logger.info({ ...drain }, drain ? 'the host is drained: it takes nothing more' : 'the host takes tasks and sandboxes again')
    this.#notify()
  }

  #notify (): void {
    if (!this.#hasStarted) return
    for (const listener of this.#changeListeners) listener(this.isDraining)
  }

  #arm (): void {
    clearTimeout(this.#timer)
    const stopAt = this.#kept.drain?.stopAt
    if (!this.#hasStarted || this.#isClosed || stopAt === undefined) return
    this.#timer = setTimeout(() => { void this.#stop(stopAt) }, Math.max(0, Date.parse(stopAt) - Date.now()))
  }

  async #stop (stopAt: string): Promise<void> {
    const { logger } = this.#options
    logger.info({ stopAt }, 'the time to drain is over: tasks that still run are stopped and given back')
    try {
      for (const listener of this.#stopListeners) await listener()
    } catch (error) {
      logger.error({ err: error }, 'tasks could not be stopped; it is tried again')
      if (this.#isClosed || this.#kept.drain?.stopAt !== stopAt) return
      this.#timer = setTimeout(() => { void this.#stop(stopAt) }, stopRetryMs)
    }
  }
}

/** What makes no sense is as good as nothing: a host that takes tasks is found sooner than one that silently takes none. */
function parseKept (value: unknown): Kept {
  const { drain, wishNumber } = (value ?? {}) as { drain?: Partial<HostDrainState>, wishNumber?: unknown }
  const isTime = (text: unknown): text is string => typeof text === 'string' && !Number.isNaN(Date.parse(text))
  return {
    ...(isTime(drain?.since) && { drain: { since: drain.since, ...(isTime(drain.stopAt) && { stopAt: drain.stopAt }) } }),
    ...(typeof wishNumber === 'number' && { wishNumber }),
  }
}
