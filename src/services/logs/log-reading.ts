import type { LogRecord } from '../../schemas/log.ts'
import { findTail, splitBefore } from './log-backwards.ts'
import { formatCursor, type LogPosition } from './log-cursor.ts'
import { listLogFiles, oldestGeneration, openLogFile, type LogListing, type OpenLogFile } from './log-files.ts'
import { LogParser } from './log-parser.ts'
import type { LogReadOptions } from './log-reader.ts'
import type { LogSubscription, LogWatcher } from './log-watcher.ts'

const blockBytes = 64 * 1024

const removedMessage = 'earlier output was removed by log rotation; reading goes on with the oldest there is'
const beyondMessage = 'the cursor lies behind the end of the log; reading goes on with the oldest output there is'
const truncatedMessage = 'the log was truncated; reading goes on at its beginning'

type Step = 'more' | 'idle' | 'done'

/** One reading of a log: a place, the file it lies in, and at times the file that comes next. */
export class LogReading {
  readonly #options: LogReadOptions
  readonly #asked: LogPosition | undefined
  readonly #watcher: LogWatcher
  readonly #block = Buffer.allocUnsafeSlow(blockBytes)
  #parser = new LogParser({ position: { generation: 0, offset: 0 } })
  /** The generation that is read, or waited for while there is no file of it. */
  #generation = 0
  #file: OpenLogFile | undefined
  /** Opened at the end of the file: once the next one is there, the one before grows no more. */
  #next: OpenLogFile | undefined
  /** Where a reading that does not follow ends. */
  #stopAt: LogPosition | undefined
  #ready: LogRecord[] = []

  constructor (options: LogReadOptions, asked: LogPosition | undefined, watcher: LogWatcher) {
    this.#options = options
    this.#asked = asked
    this.#watcher = watcher
  }

  async * batches (): AsyncGenerator<LogRecord[]> {
    const { dir, follow, signal, isEnded } = this.#options
    let subscription: LogSubscription | undefined
    try {
      if (follow) subscription = this.#watcher.subscribe(dir)
      const wasEnded = isEnded()
      await this.#begin(wasEnded)
      for (;;) {
        // Looked at before the file is: what is written or said in between shows in the next round.
        const version = subscription?.version ?? 0
        const step = await this.#step(follow ? isEnded() : wasEnded)
        if (signal.aborted) return
        if (this.#ready.length > 0) yield this.#ready.splice(0)
        if (step === 'done' || signal.aborted) return
        if (step === 'idle') await subscription?.changed(version, signal)
      }
    } finally {
      subscription?.close()
      await this.#file?.handle.close()
      await this.#next?.handle.close()
    }
  }

  async #begin (isEnded: boolean): Promise<void> {
    const { dir, stream, follow, tail } = this.#options
    const listing = await listLogFiles(dir)
    const end = await findEnd(dir, listing)
    if (!follow) this.#stopAt = end
    let start: LogPosition | undefined
    if (this.#asked) start = await this.#openAt(this.#asked, listing)
    else if (tail !== undefined) start = await this.#openAt(await findTail({ dir, end, isEnded, count: tail, stream }), listing)
    if (start) {
      this.#generation = start.generation
      this.#parser = new LogParser({ position: start, stream, split: await splitBefore(dir, start) })
      return
    }
    this.#parser = new LogParser({ position: { generation: 0, offset: 0 }, stream })
    this.#generation = oldestGeneration(listing)
    this.#enter(await openLogFile(dir, this.#generation))
    const isBeyond = this.#asked && this.#asked.generation >= this.#generation
    if (this.#asked || this.#generation > 0) this.#gap(isBeyond ? beyondMessage : removedMessage)
  }

  /** Opens the file of a place; undefined when there is no such place (any more). */
  async #openAt (place: LogPosition | undefined, listing: LogListing): Promise<LogPosition | undefined> {
    if (!place) return undefined
    const file = await openLogFile(this.#options.dir, place.generation)
    if (file?.generation === place.generation && (await file.handle.stat()).size >= place.offset) {
      this.#file = file
      return place
    }
    await file?.handle.close()
    const isAwaited = !file && place.generation === listing.current && place.offset === 0
    return isAwaited ? place : undefined
  }

  async #step (isEnded: boolean): Promise<Step> {
    if (!this.#file) {
      const expected = this.#generation
      this.#enter(await openLogFile(this.#options.dir, expected))
      if (!this.#file) return this.#stopAt || isEnded ? 'done' : 'idle'
      if (this.#generation !== expected) this.#gap(removedMessage)
    }
    if (await this.#readBlock(this.#file) > 0) return 'more'
    if (this.#stopAt && this.#generation >= this.#stopAt.generation) return this.#end(isEnded)
    if (this.#next) return await this.#turn(this.#file, this.#next)
    this.#next = await openLogFile(this.#options.dir, this.#generation + 1)
    if (this.#next) return 'more'
    if ((await this.#file.handle.stat()).size < this.#parser.offset) {
      this.#parser.moveTo({ generation: this.#generation, offset: 0 }, { isGap: true })
      this.#gap(truncatedMessage)
      return 'more'
    }
    return isEnded ? this.#end(isEnded) : 'idle'
  }

  async #readBlock (file: OpenLogFile): Promise<number> {
    const { offset } = this.#parser
    let length = blockBytes
    if (this.#stopAt && this.#generation >= this.#stopAt.generation) {
      length = this.#generation > this.#stopAt.generation ? 0 : Math.max(0, Math.min(length, this.#stopAt.offset - offset))
    }
    if (length === 0) return 0
    const { bytesRead } = await file.handle.read(this.#block, 0, length, offset)
    if (bytesRead > 0) this.#ready.push(...this.#parser.push(this.#block.subarray(0, bytesRead)))
    return bytesRead
  }

  /** Leaves a file that was read to its end for the next one. */
  async #turn (file: OpenLogFile, next: OpenLogFile): Promise<Step> {
    this.#ready.push(...this.#parser.end())
    const isGap = next.generation !== this.#generation + 1
    this.#enter(next, isGap)
    this.#next = undefined
    await file.handle.close()
    if (isGap) this.#gap(removedMessage)
    return 'more'
  }

  #enter (file: OpenLogFile | undefined, isGap = false): void {
    this.#file = file
    if (!file) return
    this.#generation = file.generation
    this.#parser.moveTo({ generation: file.generation, offset: 0 }, { isGap })
  }

  #end (isEnded: boolean): Step {
    // A last line without line end is a record only once nothing can complete it.
    if (isEnded) this.#ready.push(...this.#parser.end())
    return 'done'
  }

  #gap (message: string): void {
    this.#ready.push({ type: 'gap', cursor: formatCursor(this.#generation, 0), message })
  }
}

/** Where the log ends at this moment. */
async function findEnd (dir: string, listing: LogListing): Promise<LogPosition> {
  const file = await openLogFile(dir, Math.max(0, listing.hasCurrent ? listing.current : listing.current - 1))
  if (!file) return { generation: listing.current, offset: 0 }
  try {
    return { generation: file.generation, offset: (await file.handle.stat()).size }
  } finally {
    await file.handle.close()
  }
}
