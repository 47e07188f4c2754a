import { createHash } from 'node:crypto'
import { Semaphore } from 'async-mutex'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { DeadlineError } from '../../../lib/deadline.ts'
import { hexOf } from '../digest.ts'
import { SingleFlight } from '../single-flight.ts'
import { BundleRefusedError, openBundle, packBundle, type BundlePart, type BundleSubject } from './index-bundle.ts'
import type { IndexKey } from './index-key.ts'
import { StoreRefusedError, type RemoteIndexStore, type StoreContext } from './remote-index-store.ts'

export interface RemoteIndexesOptions {
  store: RemoteIndexStore
  /** Seals what goes out; what comes in without its seal is refused. */
  key: IndexKey
  logger: Logger
  /** Waits between tries to store something, in milliseconds; one try more than there are waits. */
  retryDelaysMs?: readonly number[]
  /** How long a store may take to say what it has, in milliseconds. */
  lookupMs?: number
}

const defaultRetryDelaysMs = [2_000, 10_000, 60_000]
const defaultLookupMs = 5_000
// Slower than this, the blob itself is worth more than its index.
const minBytesPerMs = 1024
// An image has many layers: not each is to wait for a store that is down.
const shunMs = 30_000
const refusalMs = 10 * 60_000
const pushesAtOnce = 2
const maxRemembered = 10_000

/** The store has none, or is not asked. */
class NotStoredError extends Error {}

/** What hosts share of indexes: bundles in a store that is not trusted, sealed by a key that is. */
export class RemoteIndexes {
  readonly #options: RemoteIndexesOptions
  readonly #pushing = new SingleFlight<void>()
  readonly #pushSlots = new Semaphore(pushesAtOnce)
  readonly #closing = new AbortController()
  /** Places that are not asked before this time, because they failed. */
  readonly #shunnedUntil = new Map<string, number>()
  /** Places that are sent nothing before this time, because they refuse it, or did not take it in many tries. */
  readonly #refusedUntil = new Map<string, number>()
  /** What is known to be stored. */
  readonly #stored = new Set<string>()
  /** What is stored and of no use, so that it is to be replaced. */
  readonly #spoilt = new Set<string>()

  constructor (options: RemoteIndexesOptions) {
    this.#options = options
  }

  /**
   * Fetches the files of a bundle into a directory, in bounded time.
   *
   * @throws Error, for `report`, when there is none, it is refused, or the store fails.
   */
  async fetch (subject: BundleSubject, context: StoreContext, parts: readonly BundlePart[], dir: string): Promise<void> {
    const { store, key, lookupMs = defaultLookupMs } = this.#options
    const place = store.placeOf(context)
    if (place === undefined || isBefore(this.#shunnedUntil.get(askerOf(place, context)))) throw new NotStoredError('no store is asked')
    const deadline = new Deadline(lookupMs, this.#closing.signal)
    try {
      const found = await store.find(this.#nameOf(subject), context, deadline.signal)
      if (!found) throw new NotStoredError('the store has none')
      const bundle = await openBundle(key, subject, parts, found.body)
      deadline.restart(lookupMs + bundle.storedBytes / minBytesPerMs)
      await bundle.extract(dir, deadline.signal)
      remember(this.#stored, idOf(place, subject))
    } catch (error) {
      if (error instanceof BundleRefusedError) remember(this.#spoilt, idOf(place, subject))
      // Not to be there is an answer all the same.
      else if (!(error instanceof NotStoredError)) leaveAlone(this.#shunnedUntil, askerOf(place, context), shunMs)
      throw error
    } finally {
      deadline.clear()
    }
  }

  /** Logs why a fetch, or what was made of it, failed. */
  report (digest: string, context: StoreContext, error: unknown): void {
    if (error instanceof NotStoredError || this.#closing.signal.aborted) return
    const facts = { digest, place: this.#options.store.placeOf(context), err: error }
    if (error instanceof BundleRefusedError) this.#options.logger.warn(facts, 'stored image index refused: it is not what this fleet has stored')
    else this.#options.logger.warn(facts, 'image index store not usable; going on without it')
  }

  /** Stores the files in a directory as a bundle, in the background, unless they are stored already; whatever goes wrong is logged. */
  push (subject: BundleSubject, context: StoreContext, parts: readonly BundlePart[], dir: string): void {
    const place = this.#options.store.placeOf(context)
    if (place === undefined || this.#closing.signal.aborted || this.#stored.has(idOf(place, subject)) || isBefore(this.#refusedUntil.get(askerOf(place, context)))) return
    const work = () => this.#pushSlots.runExclusive(() => this.#pushPersistently(place, subject, context, parts, dir))
    void this.#pushing.run(idOf(place, subject), undefined, work).catch(() => undefined)
  }

  /** Resolves when nothing is being stored, however it ended. */
  async settled (): Promise<void> {
    await this.#pushing.settled()
  }

  /** Gives up what is under way. */
  async close (): Promise<void> {
    this.#closing.abort(new Error('the index store was closed'))
    await this.settled()
    await this.#options.store.close()
  }

  async #pushPersistently (place: string, subject: BundleSubject, context: StoreContext, parts: readonly BundlePart[], dir: string): Promise<void> {
    const { logger, retryDelaysMs = defaultRetryDelaysMs } = this.#options
    const { kind, digest } = subject
    for (const delayMs of [...retryDelaysMs, undefined]) {
      // Others of this image may have learnt meanwhile that it is no use.
      if (isBefore(this.#refusedUntil.get(askerOf(place, context)))) return
      try {
        await this.#pushOnce(place, subject, context, parts, dir)
        return
      } catch (error) {
        if (this.#closing.signal.aborted) return
        if (error instanceof StoreRefusedError) {
          leaveAlone(this.#refusedUntil, askerOf(place, context), refusalMs)
          return logger.warn({ place, kind, digest, err: error }, 'image indexes are not stored there: it takes none from this host')
        }
        logger.warn({ place, kind, digest, err: error, willRetry: delayMs !== undefined }, 'image index not stored')
        if (delayMs === undefined) return leaveAlone(this.#refusedUntil, askerOf(place, context), refusalMs)
        // Half of it is chance, so that hosts that failed together do not come back together.
        await sleep(delayMs * (0.5 + Math.random() / 2), undefined, { signal: this.#closing.signal }).catch(() => undefined)
      }
    }
  }

  async #pushOnce (place: string, subject: BundleSubject, context: StoreContext, parts: readonly BundlePart[], dir: string): Promise<void> {
    const { store, key, logger, lookupMs = defaultLookupMs } = this.#options
    const id = idOf(place, subject)
    const deadline = new Deadline(lookupMs, this.#closing.signal)
    try {
      if (this.#spoilt.has(id) || !await this.#isStored(subject, context, parts, deadline.signal)) {
        const content = await packBundle(key, subject, parts, dir)
        deadline.restart(4 * (lookupMs + content.length / minBytesPerMs))
        await store.put(this.#nameOf(subject), content, context, deadline.signal)
        logger.info({ place, kind: subject.kind, digest: subject.digest, bytes: content.length }, 'image index stored')
      }
      remember(this.#stored, id)
      this.#spoilt.delete(id)
    } finally {
      deadline.clear()
    }
  }

  /** Whether another host was quicker. One that this host would refuse is as good as none. */
  async #isStored (subject: BundleSubject, context: StoreContext, parts: readonly BundlePart[], signal: AbortSignal): Promise<boolean> {
    const found = await this.#options.store.find(this.#nameOf(subject), context, signal)
    if (!found) return false
    try {
      await (await openBundle(this.#options.key, subject, parts, found.body)).close()
      return true
    } catch (error) {
      if (error instanceof BundleRefusedError) return false
      throw error
    }
  }

  #nameOf ({ kind, digest }: BundleSubject): string {
    return `${kind}-v1-${this.#options.key.id}-${hexOf(digest)}`
  }
}

/** A time limit that can be set again. */
class Deadline {
  readonly signal: AbortSignal
  readonly #controller = new AbortController()
  #timer: NodeJS.Timeout | undefined

  constructor (ms: number, outer: AbortSignal) {
    this.signal = AbortSignal.any([outer, this.#controller.signal])
    this.restart(ms)
  }

  restart (ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#controller.abort(new DeadlineError('the index store', Math.round(ms))), ms)
  }

  clear (): void {
    clearTimeout(this.#timer)
  }
}

/** To forget costs a request more. */
function remember (ids: Set<string>, id: string): void {
  if (ids.size >= maxRemembered) ids.clear()
  ids.add(id)
}

function idOf (place: string, { kind, digest }: BundleSubject): string {
  return `${place} ${kind} ${digest}`
}

/** Who brings other credentials may be let in where others are not, and nobody's failures are to be others'. */
function askerOf (place: string, { credentials }: StoreContext): string {
  return `${place} ${credentials === undefined ? '' : createHash('sha256').update(JSON.stringify(credentials)).digest('hex')}`
}

function leaveAlone (places: Map<string, number>, asker: string, ms: number): void {
  if (places.size >= maxRemembered) places.clear()
  places.set(asker, Date.now() + ms)
}

function isBefore (time: number | undefined): boolean {
  return time !== undefined && Date.now() < time
}
