import type { LogRecord } from '../../schemas/log.ts'
import { findTail, splitBefore } from './log-backwards.ts'
import { cursorSuffix, formatCursor, isAtOrBehind, parseCursor, type LogCursor, type LogPosition } from './log-cursor.ts'
import type { LogDirectory } from './log-directory.ts'
import { listLogFiles, oldestGeneration, openLogFile, type LogListing, type OpenLogFile } from './log-files.ts'
import { LogParser, noSplit, offsetOf, stateAt, type ParserState } from './log-parser.ts'
import type { LogReadOptions } from './log-reader.ts'
import { readRemovals } from './log-removals.ts'
import type { LogSubscription } from './log-watcher.ts'

const removedMessage = 'earlier output was removed by log rotation; reading goes on with the oldest there is'
const beyondMessage = 'the cursor lies behind the end of the log; reading goes on with the oldest output there is'
const truncatedMessage = 'the log was truncated; reading goes on at its beginning'

/** Where a reading begins: at the place asked for, and not before the other. */
export interface ReadingPlaces {
  asked: LogCursor | undefined
  from: LogPosition
}

type Step = 'more' | 'idle' | 'done'

/** A look at the log: `version` is that of the followed directory when it began. */
interface Round {
  version: number
  isEnded: boolean
}

/**
 * One reading of a log: a place, and while it reads, the file it lies in. A follower that waits holds the place alone.
 */
export class LogReading {
  readonly #options: LogReadOptions
  readonly #asked: LogCursor | undefined
  readonly #from: LogPosition
  readonly #directory: LogDirectory
  readonly #subscription: LogSubscription | undefined
  /** How far it is; its generation is the one that is read, or waited for while there is no file of it. */
  #state: ParserState
  #file: OpenLogFile | undefined
  /** There is a file behind the one that is read, so that this one grows no more. */
  #hasNext = false
  /** Where reading ends, when that is known. */
  #stopAt: LogPosition | undefined
  /** All before `stopAt` is written. */
  #isBounded = false
  #ready: LogRecord[] = []

  constructor (options: LogReadOptions, places: ReadingPlaces, directory: LogDirectory, subscription?: LogSubscription) {
    this.#options = options
    this.#asked = places.asked
    this.#from = places.from
    this.#state = stateAt(places.from)
    this.#directory = directory
    this.#subscription = subscription
  }

  async * batches (): AsyncGenerator<LogRecord[]> {
    const { signal, isEnded } = this.#options
    const subscription = this.#subscription
    try {
      const wasEnded = isEnded()
      await this.#directory.begin(() => this.#begin(wasEnded))
      for (;;) {
        // Looked at before the file is: what is written or said in between shows in the next round.
        const version = subscription?.version ?? 0
        this.#findBound()
        const step = await this.#step({ version, isEnded: this.#isBounded || (subscription ? isEnded() : wasEnded) })
        if (signal.aborted) return
        const batch = this.#ready
        this.#ready = []
        if (batch.length > 0) yield batch
        if (step === 'done' || signal.aborted) return
        if (step === 'idle') {
          await this.#leaveFile()
          await subscription?.changed(version, signal, this.#isOver)
        }
      }
    } finally {
      await this.#leaveFile()
    }
  }

  readonly #isOver = (): boolean => this.#options.isEnded() || this.#options.until?.() !== undefined

  async #begin (isEnded: boolean): Promise<void> {
    const { dir, stream, tail } = this.#options
    const listing = await listLogFiles(dir)
    let end = await findEnd(dir, listing)
    this.#findBound()
    if (this.#stopAt && isAtOrBehind(end, this.#stopAt)) end = this.#stopAt
    if (!this.#subscription) this.#stopAt = end
    let asked = this.#asked
    if (!asked && tail !== undefined) asked = await findTail({ dir, end, isEnded: isEnded || this.#isBounded, count: tail, stream, floor: this.#from })
    const place = asked && isAtOrBehind(asked, this.#from) ? asked : this.#from
    if (await this.#isThere(place, listing)) {
      this.#state = await this.#stateAt(place)
      // The last no lines of an ended log are nothing, not even the end of a character.
      if (!this.#asked && tail === 0 && isEnded) this.#state = stateAt(place, { isSettled: true })
      return
    }
    const oldest = Math.max(oldestGeneration(listing), this.#from.generation)
    const isBeyond = this.#asked !== undefined && place.generation >= oldest
    await this.#skipTo({ generation: oldest, offset: 0 }, isBeyond ? undefined : place, isBeyond ? beyondMessage : removedMessage)
  }

  /** Whether a place can be read from, or will be. */
  async #isThere (place: LogPosition, listing: LogListing): Promise<boolean> {
    const file = await this.#directory.acquire(place.generation)
    if (!file) return place.generation === listing.current && place.offset === 0
    const isThere = file.generation === place.generation && (await file.handle.stat()).size >= place.offset
    if (isThere) this.#file = file
    else await this.#directory.release(file)
    return isThere
  }

  async #stateAt (place: LogCursor): Promise<ParserState> {
    const before = await splitBefore(this.#options.dir, place, this.#from)
    return stateAt(place, { splitAt: before.splitAt, split: place.split ?? before.split, isSettled: place.isSettled ?? false })
  }

  /** Learns where the part that is meant ends, once that is known. */
  #findBound (): void {
    if (this.#isBounded) return
    const until = this.#options.until?.()
    if (until === undefined) return
    const bound = parseCursor(until)
    // A reading that does not follow may end earlier: where the log ended when it began.
    if (this.#stopAt && !isAtOrBehind(this.#stopAt, bound)) return
    this.#isBounded = true
    this.#stopAt = bound
  }

  async #step (round: Round): Promise<Step> {
    if (this.#isPast(this.#place())) return this.#end(round)
    const file = this.#file ?? await this.#enter()
    if (!file) return this.#stopAt || round.isEnded ? await this.#endWithoutFile(round) : 'idle'
    // Skipping what is gone may have gone beyond the end.
    if (this.#isPast(this.#place())) return this.#end(round)
    if (await this.#readBlock(file, round) > 0) return 'more'
    if (this.#stopAt && this.#state.generation >= this.#stopAt.generation) return this.#end(round)
    if (this.#hasNext) return await this.#turn(file, round)
    const newest = await this.#directory.newest(round.isEnded || this.#stopAt ? undefined : round.version)
    if (newest && newest.generation > this.#state.generation) {
      this.#hasNext = true
      return 'more'
    }
    if (newest?.generation === this.#state.generation && newest.bytes < offsetOf(this.#state) && (await file.handle.stat()).size < offsetOf(this.#state)) {
      this.#directory.forgetBlocks()
      await this.#skipTo({ generation: this.#state.generation, offset: 0 }, undefined, truncatedMessage)
      return 'more'
    }
    return round.isEnded ? this.#end(round) : 'idle'
  }

  /** Opens the file of the place, or the oldest behind it with a gap before. */
  async #enter (): Promise<OpenLogFile | undefined> {
    const file = await this.#directory.acquire(this.#state.generation)
    this.#file = file
    if (file && file.generation !== this.#state.generation) await this.#skipTo({ generation: file.generation, offset: 0 }, this.#lineStart(), removedMessage)
    return file
  }

  async #readBlock (file: OpenLogFile, { version, isEnded }: Round): Promise<number> {
    const maxBytes = this.#stopAt && this.#state.generation === this.#stopAt.generation ? this.#stopAt.offset - offsetOf(this.#state) : Infinity
    const isFinal = isEnded || this.#hasNext
    const sharedVersion = this.#subscription?.isShared && !this.#stopAt ? isFinal ? Infinity : version : undefined
    const { bytes, records, next } = await this.#directory.read({ file, state: this.#state, stream: this.#options.stream, maxBytes, sharedVersion })
    this.#state = next
    if (this.#ready.length === 0) this.#ready = records
    else this.#ready = [...this.#ready, ...records]
    return bytes
  }

  /** Leaves a file that was read to its end for the one behind it. */
  async #turn (file: OpenLogFile, round: Round): Promise<Step> {
    const next = await this.#directory.acquire(this.#state.generation + 1)
    if (!next) return round.isEnded ? this.#end(round) : 'idle'
    await this.#directory.release(file)
    this.#file = next
    this.#hasNext = false
    const parser = new LogParser(this.#state, this.#options.stream)
    this.#ready = [...this.#ready, ...parser.end()]
    parser.turn()
    this.#state = parser.state
    if (next.generation !== this.#state.generation) await this.#skipTo({ generation: next.generation, offset: 0 }, this.#lineStart(), removedMessage)
    return 'more'
  }

  /** Ends where nothing can complete what is unfinished, and otherwise leaves it to the cursor. */
  #end ({ isEnded }: Round): Step {
    if (isEnded) {
      const parser = new LogParser(this.#state, this.#options.stream)
      this.#ready = [...this.#ready, ...parser.end(), ...parser.flush()]
      this.#state = parser.state
    }
    return 'done'
  }

  /** The file is gone, and with it all behind the place, if there was something. */
  async #endWithoutFile (round: Round): Promise<Step> {
    const { current } = await listLogFiles(this.#options.dir)
    if (current > this.#state.generation) await this.#skipTo({ generation: current, offset: 0 }, this.#lineStart(), removedMessage)
    return this.#end(round)
  }

  /** Goes on elsewhere, with a gap; what was held back before is given out. `lostFrom` is where what is gone begins. */
  async #skipTo (place: LogPosition, lostFrom: LogPosition | undefined, message: string): Promise<void> {
    const target = this.#stopAt && isAtOrBehind(place, this.#stopAt) && this.#isBounded ? this.#stopAt : place
    const parser = new LogParser(this.#state, this.#options.stream)
    const unfinished = parser.flush()
    const bytes = lostFrom && await this.#lostBytes(lostFrom, target)
    const { isSettled } = parser.state
    const cursor = formatCursor(target.generation, target.offset) + cursorSuffix(noSplit, isSettled)
    this.#ready = [...this.#ready, ...unfinished, { type: 'gap', cursor, ...(bytes ? { bytes } : {}), message }]
    this.#state = stateAt(target, { isSettled })
    this.#hasNext = false
  }

  /** What lay between two places, where all that is gone is known. */
  async #lostBytes (from: LogPosition, to: LogPosition): Promise<number | undefined> {
    const removals = await readRemovals(this.#options.dir)
    let bytes = to.offset - from.offset
    for (let generation = from.generation; generation < to.generation; generation++) {
      const size = removals.get(generation)
      if (size === undefined) return undefined
      bytes += size
    }
    return bytes > 0 ? bytes : undefined
  }

  #place (): LogPosition {
    return { generation: this.#state.generation, offset: offsetOf(this.#state) }
  }

  #lineStart (): LogPosition {
    return { generation: this.#state.generation, offset: this.#state.lineStart }
  }

  #isPast (place: LogPosition): boolean {
    return this.#stopAt !== undefined && isAtOrBehind(place, this.#stopAt)
  }

  async #leaveFile (): Promise<void> {
    const file = this.#file
    this.#file = undefined
    if (file) await this.#directory.release(file)
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
