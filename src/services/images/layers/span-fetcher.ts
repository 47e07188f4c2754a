import type { FileHandle } from 'node:fs/promises'
import { BerthError } from '../../../errors.ts'
import { diskFullError } from '../../../host/gztool.ts'
import type { SpanPresence } from './span-presence.ts'
import { inflateSpan } from './span-reader.ts'
import type { SpanTable } from './span-table.ts'

/** Bytes of the blob from `start` up to `end`, without it. `isSecondTry`: what came at first was not what it should be, so another place had better be asked. */
export type FetchRange = (start: number, end: number, options: { signal: AbortSignal, isSecondTry: boolean }) => Promise<Buffer>

export interface SpanFetcherOptions {
  table: SpanTable
  presence: SpanPresence
  /** The local file, open for writing. */
  tar: FileHandle
  fetchRange: FetchRange
  /** How long one range may take, from the request to the file. */
  timeoutMs: number
  onBytes: (bytes: number) => void
}

// A range this large is one request; a larger one would keep its first span waiting for its last.
const maxRangeBytes = 4 * 1024 ** 2

/**
 * Brings spans from the blob into the local file, each once however many ask for it: neighbours in one request, verified before they are
 * written, marked after. A fetch belongs to nobody: it goes on when whoever asked has gone, and ends by its own deadline.
 */
export class SpanFetcher {
  readonly #options: SpanFetcherOptions
  readonly #running = new Map<number, Promise<void>>()

  constructor (options: SpanFetcherOptions) {
    this.#options = options
  }

  get isBusy (): boolean {
    return this.#running.size > 0
  }

  /**
   * Resolves when the spans from `first` to `last` are here.
   *
   * @throws BerthError unavailable `registry_unavailable`, invalid_argument `image_invalid`, exhausted `disk_full`, or what `fetchRange` throws.
   */
  async fetch (first: number, last: number): Promise<void> {
    const waits = new Set<Promise<void>>()
    for (let i = first; i <= last; i++) {
      if (this.#options.presence.has(i)) continue
      const running = this.#running.get(i)
      if (running) waits.add(running)
      else waits.add(this.#start(i, this.#runEnd(i, last)))
    }
    await Promise.all(waits)
  }

  /** Resolves when nothing is under way. */
  async settled (): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running.values())
  }

  /** The last span of those that follow this one, are not here, and fit into one request with it. */
  #runEnd (first: number, last: number): number {
    const { spans } = this.#options.table
    const start = spans[first]?.blobStart ?? 0
    let end = first
    while (end < last && !this.#options.presence.has(end + 1) && !this.#running.has(end + 1) && (spans[end + 1]?.blobEnd ?? Infinity) - start <= maxRangeBytes) end++
    return end
  }

  #start (first: number, last: number): Promise<void> {
    const running = this.#run(first, last).finally(() => {
      for (let i = first; i <= last; i++) this.#running.delete(i)
    })
    // Nobody need wait for it any more when it fails.
    running.catch(() => {})
    for (let i = first; i <= last; i++) this.#running.set(i, running)
    return running
  }

  async #run (first: number, last: number): Promise<void> {
    const { timeoutMs } = this.#options
    const controller = new AbortController()
    const { promise: deadline, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => {
      const error = new BerthError('unavailable', 'registry_unavailable', `a part of a layer did not come within ${timeoutMs / 1000} s; it is asked for again at the next read`)
      controller.abort(error)
      reject(error)
    }, timeoutMs)
    try {
      // Whatever the source makes of the signal, the wait ends.
      await Promise.race([this.#bring(first, last, controller.signal), deadline])
    } finally {
      clearTimeout(timer)
    }
  }

  async #bring (first: number, last: number, signal: AbortSignal): Promise<void> {
    try {
      await this.#bringFrom(first, last, { signal, isSecondTry: false })
    } catch (error) {
      if (!(error instanceof BerthError) || error.code !== 'image_invalid') throw error
      await this.#bringFrom(first, last, { signal, isSecondTry: true })
    }
  }

  async #bringFrom (first: number, last: number, options: { signal: AbortSignal, isSecondTry: boolean }): Promise<void> {
    const { table, fetchRange, onBytes } = this.#options
    const { signal } = options
    const [start, end] = [table.spans[first]?.blobStart ?? 0, table.spans[last]?.blobEnd ?? 0]
    const bytes = await fetchRange(start, end, options)
    onBytes(bytes.length)
    if (bytes.length !== end - start) throw new BerthError('unavailable', 'registry_unavailable', 'the source of a layer answered with another part of it than it was asked for; try again or use another source')
    const spans = Array.from({ length: last - first + 1 }, (_, i) => first + i)
    await Promise.all(spans.map(index => this.#keep(index, bytes.subarray((table.spans[index]?.blobStart ?? 0) - start, (table.spans[index]?.blobEnd ?? 0) - start), signal)))
  }

  async #keep (index: number, compressed: Buffer, signal: AbortSignal): Promise<void> {
    const { table, tar, presence } = this.#options
    const data = await inflateSpan(table, index, compressed)
    // The next fetch of this span may already be writing.
    signal.throwIfAborted()
    let position = table.spans[index]?.tarStart ?? 0
    for (let at = 0; at < data.length;) {
      const { bytesWritten } = await tar.write(data, at, data.length - at, position).catch((error: NodeJS.ErrnoException) => {
        throw error.code === 'ENOSPC' || error.code === 'EDQUOT' ? diskFullError(error) : error
      })
      at += bytesWritten
      position += bytesWritten
    }
    presence.mark(index)
  }
}
