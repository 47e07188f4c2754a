/** Output of tasks as the fleet's buffer has it: whole lines, in the order in which they ended, bounded. */
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { parseCursor } from '../../services/logs/log-cursor.ts'
import type { TaskRecord } from '../../services/tasks/task-record.ts'
import { compareCursors, startOfLog } from './fleet-cursor.ts'
import type { DeliveryPlace } from './delivery-place.ts'

/** A line, or a piece of a long one, as its host shipped it. */
export interface KeptEntry {
  /** Of which delivery. */
  fence: number
  /** From 0, without a hole, within a delivery. */
  seq: number
  /** On the host: behind the record with which it was complete. */
  cursor: string
  /** ISO 8601. */
  at: string
  stream: LogStream
  data: Buffer
  isLineEnd: boolean
  /** Output was gone already when it was to be shipped; `data` says why. */
  isGap?: boolean
}

/** Output of the deliveries of a task. */
export interface KeptOutput {
  /** In the order of each delivery. */
  entries: readonly KeptEntry[]
  /** Deliveries all of whose output has been there: behind their last entry there is no more. */
  complete: ReadonlySet<number>
}

export interface OutputBuffer {
  /** What there is. @throws BerthError unavailable. */
  read: (task: TaskRecord) => Promise<KeptOutput>
  /** What there is, and then what comes, each once; ends with the signal alone, and waits while nothing can be read. */
  follow: (task: TaskRecord, signal: AbortSignal) => AsyncIterable<KeptOutput>
}

const streamNames = ['stdout', 'stderr'] as const
const nothing = Buffer.alloc(0)
const lostBefore = 'earlier output is no longer in the buffer of the fleet, and its host does not answer; reading goes on with the oldest there is'
const lostBetween = 'output is missing in the buffer of the fleet, and its host does not answer'

/** One reading of a delivery's output in the buffer, on from a place. Give it what the buffer has from its beginning, and then what comes. */
export class BufferedOutput {
  readonly #place: DeliveryPlace
  readonly #only: LogStream | undefined
  /** Number of the next entry, once one was seen. */
  #next: number | undefined
  /** Bytes of the line that each stream is in which were given out before. */
  readonly #skip: Record<LogStream, number>
  /** Bytes of a character that the host had not given out with the line that it is in. */
  readonly #heldBack: Record<LogStream, Buffer> = { stdout: nothing, stderr: nothing }

  /** `next`: number of the entry to begin with, where it is known that nothing before it is wanted. */
  constructor (place: DeliveryPlace, { only, next }: { only?: LogStream | undefined, next?: number | undefined } = {}) {
    this.#place = place
    this.#only = only
    this.#next = next
    this.#skip = { stdout: this.#given('stdout'), stderr: this.#given('stderr') }
  }

  /** What is yet to be given out of what the buffer has. */
  take ({ entries: kept }: KeptOutput): LogRecord[] {
    const entries = kept.filter(({ fence, seq }) => fence === this.#place.fence && (this.#next === undefined || seq >= this.#next))
    const records: LogRecord[] = []
    for (const entry of entries) {
      if (this.#isMissingBefore(entry)) {
        this.#skip.stdout = this.#skip.stderr = 0
        records.push(this.#place.gap(this.#next === undefined ? lostBefore : lostBetween))
      }
      this.#next = entry.seq + 1
      const record = this.#takeOne(entry)
      if (record) records.push(record)
    }
    return records
  }

  /** What was held back of characters that broke off, once nothing more is to come that could complete them. */
  rest (): LogRecord[] {
    return streamNames.flatMap(stream => {
      const { from } = this.#place.givenOut(stream)
      const data = this.#freed(stream)
      const record = data.length > 0 && this.#place.takeEntry({ fence: this.#place.fence, seq: 0, cursor: from, at: new Date().toISOString(), stream, data, isLineEnd: false }, 0)
      return record ? [record] : []
    })
  }

  #freed (stream: LogStream): Buffer {
    const bytes = this.#heldBack[stream]
    this.#heldBack[stream] = nothing
    return bytes
  }

  #takeOne (entry: KeptEntry): LogRecord | undefined {
    const { stream, cursor, data, isLineEnd } = entry
    const { from, before, behind } = this.#place.givenOut(stream)
    if (this.#only && stream !== this.#only && !entry.isGap) return undefined
    if (compareCursors(cursor, from) <= 0) {
      const beyond = isLineEnd ? 0 : data.length - this.#skip[stream]
      this.#skip[stream] = isLineEnd ? before + behind : Math.max(0, -beyond)
      // The host holds a character back that broke off there; the buffer has as much of it as there is.
      const heldBack = parseCursor(from).split?.[stream].length ?? 0
      this.#heldBack[stream] = data.subarray(data.length - Math.max(0, Math.min(beyond, heldBack)))
      return undefined
    }
    if (this.#heldBack[stream].length > 0) return this.#place.takeEntry({ ...entry, data: Buffer.concat([this.#freed(stream), data]) }, 0)
    const skip = Math.min(this.#skip[stream], data.length)
    this.#skip[stream] = isLineEnd ? 0 : this.#skip[stream] - skip
    return this.#place.takeEntry(entry, skip)
  }

  /** Between two entries one is missing; before the first, something is unless it continues what was given out. */
  #isMissingBefore ({ seq, cursor }: KeptEntry): boolean {
    if (this.#next !== undefined) return seq > this.#next
    if (seq === 0) return false
    return compareCursors(cursor, this.#place.hostCursor) > 0
  }

  #given (stream: LogStream): number {
    const { before, behind } = this.#place.givenOut(stream)
    return before + behind
  }
}

export interface BufferTail {
  /** Behind which cursor they begin. */
  cursor: string
  /** How many there are: fewer where the buffer, or the output, has no more. */
  lines: number
  /** Number of their first entry. */
  next: number
}

/** The last so many lines of what the buffer has of a delivery. */
export function tailOfBuffer ({ entries: kept }: KeptOutput, { fence, only, lines }: { fence: number, only?: LogStream | undefined, lines: number }): BufferTail {
  const entries = kept.filter(entry => entry.fence === fence)
  let found = 0
  let index = entries.length
  while (index > 0) {
    const { stream, isLineEnd, isGap } = entries[index - 1]!
    const isCounted = !isGap && (only === undefined || stream === only) && (isLineEnd || index === entries.length)
    if (isCounted && found === lines) break
    if (isCounted) found++
    index--
  }
  const before = entries[index - 1]
  return { cursor: before?.cursor ?? startOfLog, lines: found, next: before ? before.seq + 1 : entries[0]?.seq ?? 0 }
}
