/** A tar while it is written: hashed as a whole and in spans as it grows, and its headers inspected, by a thread of its own. */
import { createHash, type Hash } from 'node:crypto'
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { BerthError } from '../../../errors.ts'
import { errorFacts, errorFromFacts, type ErrorFacts } from '../../../lib/error-facts.ts'
import { readIndexHeader, readIndexPoints } from './gzip-index.ts'
import { writeIndexableTar } from './indexable-tar.ts'
import { inspectTar, type TarInspection } from './tar-inspector.ts'

export interface TarScanOptions {
  tarPath: string
  /** Where spans begin: as gztool's index says while it grows, every so many bytes, or nowhere. */
  spans: { indexPath: string } | { everyBytes: number } | undefined
  /** Where to write what is to be indexed, if that is not the tar itself; must not exist. */
  indexablePath: string
}

export interface TarScanResult extends TarInspection {
  diffId: string
  tarBytes: number
  spans: { tarStart: number, sha256: Buffer }[]
  /** What mkfs.erofs is to index. */
  indexablePath: string
}

type WorkerAnswer = { result: TarScanResult } | { error: ErrorFacts }

const workerMark = 'berth-tar-scan'
const readBytes = 1024 ** 2
const pollMs = 10
const workerHeapMiB = 2048

export class TarScan {
  readonly #worker: Worker
  readonly #answer: Promise<TarScanResult>

  /** Begins at once; neither file need be there yet. */
  constructor (options: TarScanOptions) {
    // This very file, whatever it is called when it is compiled.
    this.#worker = new Worker(new URL(import.meta.url), { workerData: { mark: workerMark, options }, resourceLimits: { maxOldGenerationSizeMb: workerHeapMiB } })
    const { promise, resolve, reject } = Promise.withResolvers<TarScanResult>()
    this.#worker.once('message', (answer: WorkerAnswer) => 'result' in answer ? resolve(revive(answer.result)) : reject(errorFromFacts(answer.error)))
    this.#worker.once('error', reject)
    this.#worker.once('exit', () => reject(new Error('the scan of a tar ended without an answer')))
    promise.catch(() => {})
    this.#answer = promise
  }

  /** The tar is whole: what it is. @throws BerthError `image_invalid` or `layer_needs_unpack`. */
  async finish (): Promise<TarScanResult> {
    this.#worker.postMessage('finish')
    return this.#answer
  }

  async close (): Promise<void> {
    await this.#worker.terminate()
  }
}

/** Buffers arrive from another thread as plain arrays. */
function revive (result: TarScanResult): TarScanResult {
  return { ...result, spans: result.spans.map(({ tarStart, sha256 }) => ({ tarStart, sha256: Buffer.from(sha256) })) }
}

/** Follows the files until it is told that they are whole. */
async function scan ({ tarPath, spans, indexablePath }: TarScanOptions): Promise<TarScanResult> {
  const finish = Promise.withResolvers<void>()
  let isWhole = false
  parentPort?.once('message', () => { isWhole = true; finish.resolve() })
  const tar = new GrowingFile(tarPath)
  const index = spans && 'indexPath' in spans ? new GrowingFile(spans.indexPath) : undefined
  const hashes = new SpanHashes()
  const boundaries = index ? new IndexFollower(index) : undefined
  try {
    for (;;) {
      const isLastRound = isWhole
      boundaries?.advance(hashes)
      const end = tar.size()
      if (spans && 'everyBytes' in spans) hashes.addEvery(spans.everyBytes, end)
      // Beyond the last known point the next one may already lie in data that has come.
      hashes.advance(tar, isLastRound || !boundaries ? end : Math.min(end, hashes.lastStart))
      if (isLastRound) break
      await Promise.race([finish.promise, delay(pollMs)])
    }
    const read = (offset: number, length: number) => tar.read(offset, length)
    const inspection = inspectTar(tar.size(), read)
    const isTarIndexable = inspection.implicitDirectories.length === 0
    if (!isTarIndexable) writeIndexableTar(indexablePath, inspection, tar.size(), read)
    return { ...inspection, ...hashes.result(), indexablePath: isTarIndexable ? tarPath : indexablePath }
  } finally {
    tar.close()
    index?.close()
  }
}

/** A file that may not be there yet. */
class GrowingFile {
  readonly #path: string
  #fd: number | undefined

  constructor (path: string) {
    this.#path = path
  }

  size (): number {
    try {
      this.#fd ??= openSync(this.#path, 'r')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
      throw error
    }
    return fstatSync(this.#fd).size
  }

  read (offset: number, length: number, buffer = Buffer.allocUnsafeSlow(length)): Buffer {
    return this.#fd === undefined ? buffer.subarray(0, 0) : buffer.subarray(0, readSync(this.#fd, buffer, 0, length, offset))
  }

  close (): void {
    if (this.#fd !== undefined) closeSync(this.#fd)
  }
}

/** Takes the points out of an index as they are written. */
class IndexFollower {
  readonly #file: GrowingFile
  #header: { hasLines: boolean } | undefined
  #offset = 0

  constructor (file: GrowingFile) {
    this.#file = file
  }

  advance (hashes: SpanHashes): void {
    const size = this.#file.size()
    if (!this.#header) {
      const header = readIndexHeader(this.#file.read(0, 64))
      if (!header) return
      this.#header = header
      this.#offset = header.offset
    }
    const bytes = this.#file.read(this.#offset, size - this.#offset)
    const { points, offset } = readIndexPoints(bytes, 0, this.#header.hasLines)
    this.#offset += offset
    for (const point of points) hashes.addStart(point.tarStart)
  }
}

/** Hashes a tar from its beginning, as a whole and between boundaries that become known before the data. */
class SpanHashes {
  readonly #whole = createHash('sha256')
  readonly #starts: number[] = []
  readonly #done: { tarStart: number, sha256: Buffer }[] = []
  readonly #buffer = Buffer.allocUnsafeSlow(readBytes)
  #current: { tarStart: number, hash: Hash } | undefined
  #next = 0
  #offset = 0

  get lastStart (): number {
    return this.#starts.at(-1) ?? 0
  }

  addStart (tarStart: number): void {
    const last = this.#starts.at(-1)
    if (last !== undefined && tarStart < last) throw new Error('the points of a gzip index go backwards')
    // An empty member makes a second point at the same place.
    if (tarStart !== last) this.#starts.push(tarStart)
  }

  addEvery (bytes: number, end: number): void {
    for (let start = this.#starts.length * bytes; start < end; start += bytes) this.#starts.push(start)
  }

  advance (tar: GrowingFile, end: number): void {
    while (this.#offset < end) {
      if (this.#offset === this.#starts[this.#next]) this.#begin()
      const chunkEnd = Math.min(end, this.#offset + readBytes, this.#starts[this.#next] ?? Infinity)
      const chunk = tar.read(this.#offset, chunkEnd - this.#offset, this.#buffer)
      if (chunk.length === 0) throw new Error('a tar became shorter while it was read')
      this.#whole.update(chunk)
      this.#current?.hash.update(chunk)
      this.#offset += chunk.length
    }
  }

  result (): { diffId: string, tarBytes: number, spans: { tarStart: number, sha256: Buffer }[] } {
    this.#end()
    return { diffId: `sha256:${this.#whole.digest('hex')}`, tarBytes: this.#offset, spans: this.#done }
  }

  #begin (): void {
    this.#end()
    this.#current = { tarStart: this.#offset, hash: createHash('sha256') }
    this.#next++
  }

  #end (): void {
    if (this.#current) this.#done.push({ tarStart: this.#current.tarStart, sha256: this.#current.hash.digest() })
    this.#current = undefined
  }
}

if (!isMainThread && (workerData as { mark?: string } | null)?.mark === workerMark) {
  const { options } = workerData as { options: TarScanOptions }
  const answer: WorkerAnswer = await scan(options).then(result => ({ result }), (error: unknown) => {
    if (error instanceof BerthError) return { error: errorFacts(error) }
    // The thread ends with it, and whoever waits gets it whole.
    throw error
  })
  parentPort?.postMessage(answer)
}
