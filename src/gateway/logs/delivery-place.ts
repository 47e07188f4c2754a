import { isUtf8 } from 'node:buffer'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { recordBytes } from '../../services/logs/log-bytes.ts'
import type { KeptEntry } from './buffered-output.ts'
import { compareCursors, formatPlace, furthestOf, plainCursor, startPlaces, type GivenOut, type GivenOutStreams } from './fleet-cursor.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

const streamNames = ['stdout', 'stderr'] as const

/**
 * How far the output of one delivery was given out, to the byte of each stream, whether it came from its host or from the buffer; and
 * what of a record or an entry is yet to be given out.
 */
export class DeliveryPlace {
  readonly fence: number
  readonly #streams: GivenOutStreams
  /** Only this stream is wanted; the other is where this one is. */
  readonly #only: LogStream | undefined

  constructor (fence: number, { streams = startPlaces(), only }: { streams?: GivenOutStreams, only?: LogStream | undefined } = {}) {
    this.fence = fence
    this.#streams = streams
    this.#only = only
    if (only) this.#alignWith(only)
  }

  get cursor (): string {
    return formatPlace(this.fence, this.#streams)
  }

  /** Where the host is to be read on from, once the stream that lags behind has caught up. */
  get hostCursor (): string {
    return furthestOf(this.#streams)
  }

  /** The stream that the buffer gave out less far than the other, if one is. */
  get lagging (): { stream: LogStream, from: string } | undefined {
    const furthest = this.hostCursor
    const stream = streamNames.find(name => compareCursors(this.#streams[name].from, furthest) < 0)
    return stream && { stream, from: this.#streams[stream].from }
  }

  givenOut (stream: LogStream): Readonly<GivenOut> {
    return this.#streams[stream]
  }

  /** Goes on behind a record of the host; answers what of it is yet to be given out. `catchingUp`: it was read for one stream alone. */
  takeRecord (record: LogRecord, catchingUp?: LogStream): LogRecord | undefined {
    if (record.type === 'gap') {
      for (const name of catchingUp ? [catchingUp] : streamNames) this.#streams[name] = { from: record.cursor, before: 0, behind: 0 }
      return { ...record, cursor: this.cursor }
    }
    const given = this.#streams[record.stream]
    const shown = given.behind === 0 ? record : withoutStart(record, given.behind)
    const size = textSize(record)
    for (const name of catchingUp ? [catchingUp] : streamNames) this.#streams[name].from = record.cursor
    given.behind = Math.max(0, given.behind - size)
    given.before = record.partial ? given.before + size : 0
    return shown && { ...shown, cursor: this.cursor }
  }

  /** The same for an entry of the buffer, of whose line `skip` bytes were given out before. */
  takeEntry (entry: KeptEntry, skip: number): LogRecord | undefined {
    const { stream, data, at, isLineEnd } = entry
    const from = plainCursor(entry.cursor)
    if (entry.isGap) {
      for (const name of streamNames) this.#streams[name] = { from, before: 0, behind: 0 }
      return { type: 'gap', cursor: this.cursor, message: data.toString() }
    }
    const rest = data.subarray(skip)
    const given = this.#streams[stream]
    // The host's records may hold more than this piece: behind it, nothing is said of them.
    if (isLineEnd) this.#streams[stream] = { from, before: 0, behind: 0 }
    else given.behind += rest.length
    if (this.#only) this.#alignWith(this.#only)
    if (rest.length === 0 && !isLineEnd) return undefined
    return { type: 'line', cursor: this.cursor, at, stream, ...textOf(rest), partial: !isLineEnd }
  }

  /** The host has given out all of a stream up to where the other one is. */
  caughtUp (stream: LogStream): void {
    const furthest = this.hostCursor
    if (compareCursors(this.#streams[stream].from, furthest) < 0) this.#streams[stream].from = plainCursor(furthest)
  }

  /** Goes on elsewhere: what lies between is not to be had. */
  skipTo (hostCursor: string): void {
    for (const name of streamNames) this.#streams[name] = { from: plainCursor(hostCursor), before: 0, behind: 0 }
  }

  /** Output is missing here, as far as is known. */
  gap (message: string): LogRecord {
    return { type: 'gap', cursor: this.cursor, message }
  }

  #alignWith (stream: LogStream): void {
    const other = stream === 'stdout' ? 'stderr' : 'stdout'
    this.#streams[other] = { from: this.#streams[stream].from, before: 0, behind: 0 }
  }
}

/** What a record says behind its first bytes; undefined where that is nothing. */
function withoutStart (record: LineRecord, bytes: number): LineRecord | undefined {
  const size = textSize(record)
  if (bytes >= size && record.partial) return undefined
  const { encoding: _, ...rest } = record
  return { ...rest, ...textOf(recordBytes(record).subarray(Math.min(bytes, size), size)) }
}

function textOf (bytes: Buffer): { text: string, encoding?: 'base64' } {
  return isUtf8(bytes) ? { text: bytes.toString() } : { text: bytes.toString('base64'), encoding: 'base64' }
}

/** Bytes of a record's text, without a line end. */
function textSize ({ text, encoding }: LineRecord): number {
  return Buffer.byteLength(text, encoding ?? 'utf8')
}
