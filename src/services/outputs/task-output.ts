/** One stream of a task: from the bytes of its log to lines. */
import { parseCursor, type LogPosition } from '../logs/log-cursor.ts'
import { unfinishedBytes } from '../logs/log-line.ts'
import { comparePositions, settledCursor, type StreamPlace } from './output-place.ts'

/** The bytes of one record of this stream, as they stand in the log. */
export interface OutputBytes {
  bytes: Buffer
  at: string
  /** Where the record begins, and the place behind it. */
  start: LogPosition
  end: LogPosition
  /** A line ends here. */
  isLineEnd: boolean
}

/** A line, or a piece of one. */
export interface Piece {
  data: Buffer
  /** When its first byte was read from the process. */
  at: string
  isLineEnd: boolean
}

/** A record that bytes of an unfinished line came from. */
interface Origin {
  start: LogPosition
  /** So many bytes of it were given out. */
  skip: number
  /** Where its bytes begin among those that are held. */
  offset: number
  at: string
}

/** A cut leaves no more than the bytes of one character of what was held before. */
const longestCharacter = 4
const nothing = Buffer.alloc(0)

/** Puts the lines of one stream together, as `newOutputPair` describes. Holds at most an entry and a record. */
export class TaskOutput {
  readonly #entryBytes: number
  /** Everything of this stream up to here was taken. */
  #taken: LogPosition
  /** So many bytes of the next record were given out before. */
  #skip: number
  #held = nothing
  #length = 0
  #origins: Origin[] = []

  /** @throws RangeError where an entry has no room for a character. */
  constructor (entryBytes: number, place: StreamPlace) {
    if (!Number.isSafeInteger(entryBytes) || entryBytes < longestCharacter) throw new RangeError(`an entry must have room for ${longestCharacter} bytes`)
    this.#entryBytes = entryBytes
    this.#taken = parseCursor(place.from)
    this.#skip = place.skip
  }

  /** Where what was not given out begins, when everything up to `position` was read. */
  placeAt (position: LogPosition): StreamPlace {
    const [first] = this.#origins
    if (first) return { from: settledCursor(first.start), skip: first.skip }
    if (comparePositions(this.#taken, position) >= 0) return { from: settledCursor(this.#taken), skip: this.#skip }
    return { from: settledCursor(position), skip: 0 }
  }

  /** Takes a record; gives out each piece before the next one is made, so that `placeAt` is right in between. */
  * push ({ bytes: whole, at, start, end, isLineEnd }: OutputBytes): Generator<Piece> {
    if (comparePositions(end, this.#taken) <= 0) return
    // Where reading began elsewhere, this is not the record that a part of was given out.
    const skip = comparePositions(start, this.#taken) === 0 ? this.#skip : 0
    this.#taken = end
    this.#skip = 0
    const bytes = whole.subarray(skip)
    if (this.#length === 0 && isLineEnd && bytes.length <= this.#entryBytes) {
      yield { data: bytes, at, isLineEnd }
      return
    }
    this.#hold(bytes, { start, skip, at })
    while (this.#length > this.#entryBytes) {
      yield this.#take(this.#entryBytes - unfinishedBytes(this.#held, 0, this.#entryBytes), false)
    }
    if (isLineEnd) yield this.#take(this.#length, true)
  }

  /** Gives out the line that is unfinished. */
  flush (): Piece | undefined {
    return this.#length > 0 ? this.#take(this.#length, false) : undefined
  }

  /** Goes on behind a gap, unless everything up to there was taken already. */
  moveTo (place: LogPosition, options: { isBack: boolean }): void {
    if (!options.isBack && comparePositions(place, this.#taken) <= 0) return
    this.#taken = place
    this.#skip = 0
  }

  #hold (bytes: Buffer, origin: Omit<Origin, 'offset'>): void {
    if (bytes.length === 0) return
    const needed = this.#length + bytes.length
    if (needed > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, Math.min(2 * this.#held.length, this.#entryBytes + longestCharacter)))
      this.#held.copy(grown, 0, 0, this.#length)
      this.#held = grown
    }
    // The first record and those that a cut can fall into are all it takes to say where the rest begins.
    const [first, ...more] = this.#origins
    if (first) this.#origins = [first, ...more.filter((_origin, at) => (more[at + 1]?.offset ?? this.#length) > this.#length - longestCharacter)]
    this.#origins.push({ ...origin, offset: this.#length })
    bytes.copy(this.#held, this.#length)
    this.#length = needed
  }

  #take (count: number, isLineEnd: boolean): Piece {
    const at = this.#origins[0]?.at ?? ''
    const data = Buffer.from(this.#held.subarray(0, count))
    this.#held.copyWithin(0, count, this.#length)
    this.#length -= count
    if (this.#length === 0) {
      this.#origins = []
      this.#held = nothing
    } else {
      const firstLeft = this.#origins.findLastIndex(origin => origin.offset <= count)
      this.#origins = this.#origins.slice(firstLeft).map(origin => origin.offset >= count
        ? { ...origin, offset: origin.offset - count }
        : { ...origin, offset: 0, skip: origin.skip + count - origin.offset })
    }
    return { data, at, isLineEnd }
  }
}
