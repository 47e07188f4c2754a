/**
 * From records of a log to the entries that sinks get.
 *
 * What becomes of what a task writes:
 * - A line is an entry, given out once it is complete, in the order in which lines end. What stands before its line feed is
 *   kept byte for byte: a CR, alone or before the line feed, NUL, bytes that are not UTF-8. A blank line is an entry of no bytes.
 * - A line longer than `entryBytes` is cut at that size, and in UTF-8 before the character that would be cut in two.
 *   `isLineEnd` is true for its last piece alone.
 * - A line that is unfinished where a file of the log ends (at a rotation, at the end of an attempt or of the log) is given
 *   out as it is, with `isLineEnd` false; so is one before a gap. If it goes on, it does so in the next entry of its stream.
 * - A gap is an entry that says what is missing.
 *
 * All of this depends on the bytes of the log alone. So the same log gives the same entries with the same numbers, in whatever
 * portions it is read, while it grows or years later, at once or with interruptions at any entry.
 */
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { recordBytes } from '../logs/log-bytes.ts'
import { parseCursor, type LogCursor } from '../logs/log-cursor.ts'
import { comparePositions, readFrom, settledCursor, type OutputPlace } from './output-place.ts'
import type { OutputEntry } from './output-sink.ts'
import { TaskOutput, type Piece } from './task-output.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

/** An entry, and the place to go on from once it is delivered. */
export interface PlacedEntry {
  entry: OutputEntry
  place: OutputPlace
}

/** Both streams of a task with one sequence. */
export interface OutputPair {
  readonly stdout: TaskOutput
  readonly stderr: TaskOutput
  /** From where the log must be read. */
  readonly readFrom: string
  /** Takes the records in the order in which the log has them. */
  push: (record: LogRecord) => Generator<PlacedEntry>
  /** What is left once the log has ended. It may go on in its next file, with a pair made at the last place. */
  end: () => Generator<PlacedEntry>
}

/** Makes both outputs of a task at a place: that of the last entry that was delivered, or the start. */
export function newOutputPair (options: { entryBytes: number, place: OutputPlace }): OutputPair {
  return new StreamPair(options.entryBytes, options.place)
}

class StreamPair implements OutputPair {
  readonly stdout: TaskOutput
  readonly stderr: TaskOutput
  readonly readFrom: string
  #seq: number
  #at: string
  /** Cursor of the last record. */
  #position: LogCursor
  #isFirst = true

  constructor (entryBytes: number, place: OutputPlace) {
    this.stdout = new TaskOutput(entryBytes, place.streams.stdout)
    this.stderr = new TaskOutput(entryBytes, place.streams.stderr)
    this.readFrom = readFrom(place)
    this.#position = parseCursor(this.readFrom)
    this.#seq = place.seq
    this.#at = place.at
  }

  * push (record: LogRecord): Generator<PlacedEntry> {
    const isFirst = this.#isFirst
    this.#isFirst = false
    const cursor = parseCursor(record.cursor)
    if (record.type === 'gap') {
      yield * this.#gap(record, cursor, isFirst)
      return
    }
    if (cursor.generation !== this.#position.generation) yield * this.end()
    const start = this.#position
    this.#position = cursor
    // What the reader held back at the end of the log was taken with its own record.
    if (comparePositions(start, cursor) === 0) return
    this.#at = record.at
    const piece = { bytes: bytesInLog(record, start, cursor), at: record.at, start, end: cursor, isLineEnd: !record.partial }
    for (const part of this[record.stream].push(piece)) yield this.#entry(record.stream, part)
  }

  * end (): Generator<PlacedEntry> {
    for (const stream of ['stdout', 'stderr'] as const) {
      const piece = this[stream].flush()
      if (piece) yield this.#entry(stream, piece)
    }
  }

  * #gap (gap: Extract<LogRecord, { type: 'gap' }>, cursor: LogCursor, isFirst: boolean): Generator<PlacedEntry> {
    const isBack = comparePositions(cursor, this.#position) <= 0
    // The log is shorter than what was delivered of it, as after a loss of power? Then what comes up to there was delivered.
    const isKnown = isBack && isFirst
    if (!isKnown) yield * this.end()
    this.#position = cursor
    if (isKnown) return
    this.stdout.moveTo(cursor, { isBack })
    this.stderr.moveTo(cursor, { isBack })
    const size = gap.bytes === undefined ? '' : ` (${gap.bytes} bytes)`
    yield this.#entry('stdout', { data: Buffer.from(`${gap.message}${size}`), at: this.#at, isLineEnd: true }, { isGap: true })
  }

  #entry (stream: LogStream, piece: Piece, more: { isGap?: boolean } = {}): PlacedEntry {
    const position = this.#position
    const seq = this.#seq++
    return {
      entry: { seq, cursor: settledCursor(position), at: piece.at, stream, data: piece.data, isLineEnd: piece.isLineEnd, ...more },
      place: { seq: this.#seq, streams: { stdout: this.stdout.placeAt(position), stderr: this.stderr.placeAt(position) }, at: this.#at },
    }
  }
}

/**
 * The bytes of a record as the log has them. The reader holds back a character that a partial record breaks off in; how it does
 * depends on where it began to read, and what it holds back is in its cursors.
 */
function bytesInLog (record: LineRecord, start: LogCursor, end: LogCursor): Buffer {
  const bytes = recordBytes(record).subarray(0, record.partial ? undefined : -1)
  const before = start.split?.[record.stream].length ?? 0
  const behind = end.split?.[record.stream]
  return (behind?.length ? Buffer.concat([bytes, behind]) : bytes).subarray(before)
}
