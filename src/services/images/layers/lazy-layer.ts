import { open, type FileHandle } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { BerthError, errorKinds, toBerthError } from '../../../errors.ts'
import { rejectWhenAborted } from '../../../lib/abort-race.ts'
import { readJson, writeDurably } from '../../../lib/durable-file.ts'
import { ReadAhead } from './read-ahead.ts'
import { SpanFetcher, type FetchRange } from './span-fetcher.ts'
import { completeLayer } from './layer-completion.ts'
import type { LayerDirectory, LayerFiles } from './layer-directory.ts'
import { SpanPresence } from './span-presence.ts'
import { spanAt, type SpanTable } from './span-table.ts'

/** `stalled`: reads fail; `recovered`: they succeed again; `completed`: all of it is here; `damaged`: it can never be complete. */
export interface LazyLayerEvent {
  type: 'stalled' | 'recovered' | 'completed' | 'damaged'
  message?: string
}

export interface LazyLayerOptions {
  directory: LayerDirectory
  /** Of a layer that is in the directory and not complete. */
  digest: string
  /** Its table of spans, where that has been read already. */
  table?: SpanTable
  fetchRange: FetchRange
  /** How long a read waits for its source. */
  readTimeoutMs?: number
  onEvent?: (event: LazyLayerEvent) => void
}

export interface LazyLayerStatistics {
  /** Bytes of the blob that came, also those that came twice. */
  fetchedBytes: number
  /** Bytes of the tar that are here, and its size. */
  localBytes: number
  totalBytes: number
}

const defaultReadTimeoutMs = 30_000
// What one request of a prefetch or of the background asks for.
const spansPerRequest = 4
// More requests at a time would take the line from those that somebody waits for.
const prefetchWidth = 3
// Loss of power costs no more than what came within this time: it is fetched again.
const flushMs = 5000
const idlePollMs = 50
const maxBadAnswers = 5
const fillRetryMs = { first: 1000, longest: 60_000 }

/**
 * A layer whose data comes when it is read. Every span is verified before it is in the file.
 *
 * Crash-only: `present` names a span only after its data is on disk (fdatasync first), so whatever ends this process or this host, what it
 * names is there; spans that came in the last 5 seconds are fetched again.
 */
export class LazyLayer {
  readonly table: SpanTable
  readonly files: LayerFiles
  readonly #options: LazyLayerOptions
  readonly #presence: SpanPresence
  readonly #tar: FileHandle
  readonly #fetcher: SpanFetcher
  readonly #touched = new Set<number>()
  readonly #readAhead = new ReadAhead()
  #fetchedBytes = 0
  #isStalled = false
  #poison: BerthError | undefined
  #isClosed = false
  #saved: string
  #flushing: Promise<void> = Promise.resolve()
  readonly #flushTimer: NodeJS.Timeout

  /** Opens a layer of the directory. @throws BerthError `image_invalid` when its table is damaged. */
  static async open (options: LazyLayerOptions): Promise<LazyLayer> {
    const files = options.directory.files(options.digest)
    const table = options.table ?? await options.directory.readSpans(options.digest)
    const tar = await open(files.tarPath, 'r+')
    try {
      const saved = await readJson(files.presentPath) as { version?: number, spans?: string } | undefined
      // A file of another size has lost what was in it.
      const isWhole = (await tar.stat()).size === table.tarBytes
      if (!isWhole) await tar.truncate(table.tarBytes)
      return new LazyLayer(options, files, table, new SpanPresence(table, isWhole && saved?.version === 1 ? saved.spans : undefined), tar)
    } catch (error) {
      await tar.close()
      throw error
    }
  }

  private constructor (options: LazyLayerOptions, files: LayerFiles, table: SpanTable, presence: SpanPresence, tar: FileHandle) {
    this.#options = options
    this.files = files
    this.table = table
    this.#presence = presence
    this.#tar = tar
    this.#saved = presence.toString()
    this.#fetcher = new SpanFetcher({
      table,
      presence,
      tar,
      fetchRange: options.fetchRange,
      timeoutMs: options.readTimeoutMs ?? defaultReadTimeoutMs,
      onBytes: bytes => { this.#fetchedBytes += bytes },
    })
    this.#flushTimer = setInterval(() => void this.#flush().catch(() => {}), flushMs).unref()
  }

  /** For the thread that answers reads: which granules may be read from the file. */
  get present (): SharedArrayBuffer {
    return this.#presence.granules
  }

  /** Whether every span is here; `fill` has still to check the whole. */
  get hasAllSpans (): boolean {
    return this.#presence.isComplete
  }

  statistics (): LazyLayerStatistics {
    return { fetchedBytes: this.#fetchedBytes, localBytes: this.#presence.localBytes, totalBytes: this.table.tarBytes }
  }

  /** Spans in the order in which they were first read: what a later start of the same image wants to have early. */
  touchedSpans (): number[] {
    return [...this.#touched]
  }

  /**
   * Resolves when this part of the tar is in the file. An abort ends the wait, not the fetch.
   *
   * @throws BerthError as SpanFetcher does; within the time limit of a read, whatever the source does. The next read tries afresh.
   */
  async ensure (startByte: number, endByte: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    this.#check()
    options.signal?.throwIfAborted()
    const end = Math.min(endByte, this.table.tarBytes)
    if (startByte >= end) return
    const [first, last] = [spanAt(this.table, startByte), spanAt(this.table, end - 1)]
    for (let i = first; i <= last; i++) this.#touched.add(i)
    const missing = this.#presence.firstMissing(first)
    if (missing === undefined || missing > last) return
    const ahead = this.#readAhead.next(missing, last)
    // A reader that follows finds these here and is not seen.
    for (let i = last + 1; i <= last + ahead && i < this.table.spans.length; i++) this.#touched.add(i)
    const here = this.#fetcher.fetch(missing, last)
    // Its failure is that of whoever reads there.
    if (ahead > 0) this.#fetcher.fetch(last + 1, Math.min(last + ahead, this.table.spans.length - 1)).catch(() => {})
    await this.#watch(rejectWhenAborted(here, options.signal))
  }

  /** Fetches spans ahead of their reads, in this order, six at a time. Those that fail come when they are read. */
  async prefetch (spans: readonly number[], options: { signal?: AbortSignal } = {}): Promise<void> {
    const queue = [...spans]
    const work = async () => {
      for (let span = queue.shift(); span !== undefined && !options.signal?.aborted && !this.#isClosed; span = queue.shift()) {
        let last = span
        // Somebody waits for the first one at this moment.
        while (span !== spans[0] && queue[0] === last + 1 && last - span < spansPerRequest - 1) last = queue.shift() ?? last
        if (this.table.spans[last]) await this.#fetcher.fetch(span, last).catch(() => {})
      }
    }
    await Promise.all(Array.from({ length: prefetchWidth }, work))
  }

  /**
   * Brings all that is missing, one range at a time and only while nobody reads and `isIdle` says so, checks the whole and makes the
   * layer complete. A source that fails is tried again, with pauses.
   *
   * @throws BerthError `image_invalid` when the source keeps answering with something else, or when the whole is not what it should be:
   * then the layer is removed (`damaged`) and no read succeeds any more; `disk_full`; the reason of the signal.
   */
  async fill (options: { signal: AbortSignal, isIdle: () => boolean }): Promise<void> {
    const { signal, isIdle } = options
    let pauseMs = fillRetryMs.first
    let vain = 0
    for (let next = this.#presence.firstMissing(0); next !== undefined; next = this.#presence.firstMissing(next)) {
      while (this.#fetcher.isBusy || !isIdle()) await delay(idlePollMs, undefined, { signal })
      signal.throwIfAborted()
      this.#check()
      try {
        await this.#fetcher.fetch(next, Math.min(next + spansPerRequest - 1, this.table.spans.length - 1))
        pauseMs = fillRetryMs.first
        vain = 0
      } catch (error) {
        const { kind, code } = toBerthError(error)
        if (code === 'disk_full' || this.#isClosed) throw error
        // A damaged answer may be its carrier's fault: only the hash of the whole condemns a layer.
        if (!errorKinds[kind].retryable && ++vain >= maxBadAnswers) throw error
        await delay(pauseMs, undefined, { signal })
        pauseMs = Math.min(pauseMs * 2, fillRetryMs.longest)
      }
    }
    await this.#complete(signal)
  }

  /** Saves what is here. Reads in flight are waited for; later ones fail. */
  async close (): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#flushTimer)
    await this.#fetcher.settled()
    await this.#flush().finally(() => this.#tar.close())
  }

  #check (): void {
    if (this.#poison) throw this.#poison
    if (this.#isClosed) throw new BerthError('unavailable', 'registry_unavailable', 'the layer is not served any more; try again')
  }

  /** Tells of the first failure and of the first success after it. */
  async #watch (read: Promise<void>): Promise<void> {
    try {
      await read
      if (this.#isStalled) this.#tell({ type: 'recovered' })
      this.#isStalled = false
    } catch (error) {
      if (error instanceof BerthError && !this.#isStalled) {
        this.#isStalled = true
        this.#tell({ type: 'stalled', message: error.message })
      }
      throw error
    }
  }

  async #complete (signal: AbortSignal): Promise<void> {
    try {
      await this.#tar.datasync()
      await completeLayer({ files: this.files, table: this.table, signal })
    } catch (error) {
      if (error instanceof BerthError && error.code === 'image_invalid') throw await this.#damage(error)
      throw error
    }
    this.#tell({ type: 'completed' })
  }

  /** No read succeeds from here on, and nothing of it is used by the next process. */
  async #damage (error: BerthError): Promise<BerthError> {
    this.#poison = error
    this.#isClosed = true
    clearInterval(this.#flushTimer)
    await this.#fetcher.settled()
    await this.#flushing.catch(() => {})
    await this.#tar.close()
    await this.#options.directory.remove(this.table.digest)
    this.#tell({ type: 'damaged', message: error.message })
    return error
  }

  #tell (event: LazyLayerEvent): void {
    this.#options.onEvent?.(event)
  }

  /** One at a time; the bits are taken before the data is synced, so they never say more than the disk has. */
  #flush (): Promise<void> {
    this.#flushing = this.#flushing.catch(() => {}).then(async () => {
      const spans = this.#presence.toString()
      if (spans === this.#saved || this.#poison) return
      await this.#tar.datasync()
      await writeDurably(this.files.presentPath, JSON.stringify({ version: 1, spans }))
      this.#saved = spans
    })
    return this.#flushing
  }
}
