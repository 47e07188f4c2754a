import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { formatCursor, type LogPosition, type SplitCharacters } from './log-cursor.ts'
import { maxLineBytes, parseLineHead, unfinishedBytes } from './log-line.ts'

const newline = 0x0a
const nothing = Buffer.alloc(0)

/**
 * Turns blocks of a log file into records, whatever the bytes are: it never throws, and holds at most one line.
 *
 * conmon splits lines at byte counts, so a partial line may end inside a character; those bytes go to the front of
 * the stream's next record, and the texts of a line's records together are the text of the line.
 */
export class LogParser {
  readonly #stream: LogStream | undefined
  #split: SplitCharacters
  #generation: number
  #lineStart: number
  #rest = nothing
  #skippedBytes = 0

  constructor (options: { position: LogPosition, split?: SplitCharacters | undefined, stream?: LogStream | undefined }) {
    this.#stream = options.stream
    this.#generation = options.position.generation
    this.#lineStart = options.position.offset
    this.#split = options.split ?? { stdout: nothing, stderr: nothing }
  }

  /** Offset of the first byte that was not pushed yet. */
  get offset (): number {
    return this.#lineStart + this.#skippedBytes + this.#rest.length
  }

  /** Goes on at another place. A gap means that what was unfinished stays so. */
  moveTo (position: LogPosition, options: { isGap: boolean }): void {
    this.#generation = position.generation
    this.#lineStart = position.offset
    this.#rest = nothing
    this.#skippedBytes = 0
    if (options.isGap) this.#split = { stdout: nothing, stderr: nothing }
  }

  /** The records that end in this block. The block may be reused afterwards. */
  push (block: Buffer): LogRecord[] {
    const records: LogRecord[] = []
    let start = 0
    let end = block.indexOf(newline)
    if (end !== -1 && this.offset > this.#lineStart) {
      this.#finishLine(block.subarray(0, end), records)
      start = end + 1
      end = block.indexOf(newline, start)
    }
    for (; end !== -1; end = block.indexOf(newline, start)) {
      this.#emit(block, start, end, 1, records)
      start = end + 1
    }
    this.#keep(block.subarray(start))
    return records
  }

  /** The record of a last line without line end, once nothing can follow any more. */
  end (): LogRecord[] {
    const records: LogRecord[] = []
    if (this.#skippedBytes > 0) this.#emitUnreadable(this.#skippedBytes, records)
    else if (this.#rest.length > 0) this.#emit(this.#rest, 0, this.#rest.length, 0, records)
    this.#rest = nothing
    this.#skippedBytes = 0
    return records
  }

  #finishLine (head: Buffer, records: LogRecord[]): void {
    if (this.#skippedBytes > 0) {
      const bytes = this.#skippedBytes + head.length + 1
      this.#skippedBytes = 0
      this.#emitUnreadable(bytes, records)
      return
    }
    const line = Buffer.concat([this.#rest, head])
    this.#rest = nothing
    this.#emit(line, 0, line.length, 1, records)
  }

  #keep (tail: Buffer): void {
    if (this.#skippedBytes > 0 || this.#rest.length + tail.length > maxLineBytes) {
      this.#skippedBytes += this.#rest.length + tail.length
      this.#rest = nothing
    } else if (tail.length > 0) {
      this.#rest = Buffer.concat([this.#rest, tail])
    }
  }

  #emit (bytes: Buffer, start: number, end: number, endBytes: number, records: LogRecord[]): void {
    const head = end - start > maxLineBytes ? undefined : parseLineHead(bytes, start, end)
    if (!head) {
      this.#emitUnreadable(end - start + endBytes, records)
      return
    }
    this.#lineStart += end - start + endBytes
    const { at, stream, partial } = head
    if (this.#stream !== undefined && stream !== this.#stream) return
    const text = this.#decode(bytes, head.textStart, end, stream, partial)
    records.push({ type: 'line', cursor: formatCursor(this.#generation, this.#lineStart), at, stream, text, partial })
  }

  #decode (bytes: Buffer, start: number, end: number, stream: LogStream, partial: boolean): string {
    const before = this.#split[stream]
    if (before.length === 0 && !partial) return bytes.toString('utf8', start, end)
    const whole = before.length === 0 ? bytes.subarray(start, end) : Buffer.concat([before, bytes.subarray(start, end)])
    const kept = whole.length - (partial ? unfinishedBytes(whole, 0, whole.length) : 0)
    this.#split[stream] = Buffer.from(whole.subarray(kept))
    return whole.toString('utf8', 0, kept)
  }

  #emitUnreadable (bytes: number, records: LogRecord[]): void {
    this.#lineStart += bytes
    const cursor = formatCursor(this.#generation, this.#lineStart)
    records.push({ type: 'gap', cursor, bytes, message: 'this part of the log is damaged and was skipped' })
  }
}
