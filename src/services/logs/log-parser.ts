import { isUtf8 } from 'node:buffer'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { cursorSuffix, type LogPosition, type SplitCharacters } from './log-cursor.ts'
import { maxLineBytes, parseLineHead, unfinishedBytes } from './log-line.ts'

const newline = 0x0a
const nothing = Buffer.alloc(0)

/** Nothing is held back. */
export const noSplit: Readonly<SplitCharacters> = Object.freeze({ stdout: nothing, stderr: nothing })

/** How far a log was parsed. Never changed: readings that are equally far may share one. */
export interface ParserState {
  readonly generation: number
  /** Where the line begins that is not complete yet. */
  readonly lineStart: number
  /** What was read of it, unless it is too long to be one. */
  readonly rest: Buffer
  /** How much was read of a line that is too long. */
  readonly skippedBytes: number
  /** Bytes of characters that partial lines broke off in. */
  readonly split: Readonly<SplitCharacters>
  /** When they were read from the process. */
  readonly splitAt: Readonly<Record<LogStream, string>>
  /** Cursors must say that nothing is held back where nothing is: looking back would find what was given out. */
  readonly isSettled: boolean
}

/** The state at a place where a line begins. */
export function stateAt (place: LogPosition, options: Partial<Pick<ParserState, 'split' | 'splitAt' | 'isSettled'>> = {}): ParserState {
  const { split = noSplit, splitAt = { stdout: '', stderr: '' }, isSettled = false } = options
  return { generation: place.generation, lineStart: place.offset, rest: nothing, skippedBytes: 0, split, splitAt, isSettled }
}

/** Offset of the first byte that was not parsed yet. */
export function offsetOf ({ lineStart, skippedBytes, rest }: ParserState): number {
  return lineStart + skippedBytes + rest.length
}

/**
 * Turns blocks of a log file into records, whatever the bytes are: it never throws, and holds at most one line.
 *
 * conmon splits lines at byte counts, so a partial line may end inside a character; those bytes go to the front of
 * the stream's next record, and the bytes of a stream's records together are what the process wrote.
 */
export class LogParser {
  readonly #stream: LogStream | undefined
  #split: SplitCharacters
  readonly #splitAt: Record<LogStream, string>
  #isSettled: boolean
  #suffix: string
  #generation: number
  #lineStart: number
  #rest: Buffer
  #skippedBytes: number
  /** The block is UTF-8, and so is each of its lines. */
  #isUtf8 = false
  #records: LogRecord[] = []

  constructor (state: ParserState, stream?: LogStream) {
    this.#stream = stream
    this.#generation = state.generation
    this.#lineStart = state.lineStart
    this.#rest = state.rest
    this.#skippedBytes = state.skippedBytes
    this.#split = { ...state.split }
    this.#splitAt = { ...state.splitAt }
    this.#isSettled = state.isSettled
    this.#suffix = cursorSuffix(this.#split, this.#isSettled)
  }

  get state (): ParserState {
    return {
      generation: this.#generation,
      lineStart: this.#lineStart,
      rest: this.#rest,
      skippedBytes: this.#skippedBytes,
      split: this.#split,
      splitAt: this.#splitAt,
      isSettled: this.#isSettled,
    }
  }

  /** The records that end in this block. The block may be reused afterwards. */
  push (block: Buffer): LogRecord[] {
    let start = 0
    let end = block.indexOf(newline)
    if (end !== -1 && this.#skippedBytes + this.#rest.length > 0) {
      this.#finishLine(block.subarray(0, end))
      start = end + 1
      end = block.indexOf(newline, start)
    }
    this.#isUtf8 = end !== -1 && isUtf8(block.subarray(start, block.lastIndexOf(newline)))
    for (; end !== -1; end = block.indexOf(newline, start)) {
      this.#emit(block, start, end, 1)
      start = end + 1
    }
    this.#isUtf8 = false
    this.#keep(block.subarray(start))
    return this.#take()
  }

  /** The record of a last line without line end, once nothing can follow in this file. */
  end (): LogRecord[] {
    if (this.#skippedBytes > 0) this.#emitUnreadable(this.#skippedBytes)
    else if (this.#rest.length > 0) this.#emit(this.#rest, 0, this.#rest.length, 0)
    this.#rest = nothing
    this.#skippedBytes = 0
    return this.#take()
  }

  /** Gives out what is held back, where nothing can complete it any more. */
  flush (): LogRecord[] {
    for (const stream of ['stdout', 'stderr'] as const) {
      const bytes = this.#split[stream]
      if (bytes.length === 0 || (this.#stream !== undefined && stream !== this.#stream)) continue
      this.#isSettled = true
      this.#hold(stream, nothing)
      this.#records.push({ type: 'line', cursor: this.#cursor(), at: this.#splitAt[stream], stream, text: bytes.toString('base64'), encoding: 'base64', partial: true })
    }
    return this.#take()
  }

  /** Goes on in the file behind this one. */
  turn (): void {
    this.#generation++
    this.#lineStart = 0
  }

  #take (): LogRecord[] {
    const records = this.#records
    this.#records = []
    return records
  }

  #finishLine (head: Buffer): void {
    if (this.#skippedBytes > 0) {
      const bytes = this.#skippedBytes + head.length + 1
      this.#skippedBytes = 0
      this.#emitUnreadable(bytes)
      return
    }
    const line = Buffer.concat([this.#rest, head])
    this.#rest = nothing
    this.#emit(line, 0, line.length, 1)
  }

  #keep (tail: Buffer): void {
    if (this.#skippedBytes > 0 || this.#rest.length + tail.length > maxLineBytes) {
      this.#skippedBytes += this.#rest.length + tail.length
      this.#rest = nothing
    } else if (tail.length > 0) {
      // In memory of its own: a slice of the common pool would keep all of that.
      const rest = Buffer.allocUnsafeSlow(this.#rest.length + tail.length)
      this.#rest.copy(rest)
      tail.copy(rest, this.#rest.length)
      this.#rest = rest
    }
  }

  #emit (bytes: Buffer, start: number, end: number, endBytes: number): void {
    const head = end - start > maxLineBytes ? undefined : parseLineHead(bytes, start, end)
    if (!head) {
      this.#emitUnreadable(end - start + endBytes)
      return
    }
    this.#lineStart += end - start + endBytes
    const { at, stream, partial, textStart } = head
    const isWanted = this.#stream === undefined || stream === this.#stream
    if (this.#isUtf8 && this.#split[stream].length === 0) {
      if (isWanted) this.#records.push({ type: 'line', cursor: this.#cursor(), at, stream, text: bytes.toString('utf8', textStart, end), partial })
      return
    }
    const whole = partial || this.#split[stream].length > 0 ? this.#join(bytes.subarray(textStart, end), head) : bytes.subarray(textStart, end)
    if (isWanted) this.#push(whole, at, stream, partial)
  }

  /** The bytes of a record: what was held back before, without what is to be held back behind. */
  #join (bytes: Buffer, { at, stream, partial }: { at: string, stream: LogStream, partial: boolean }): Buffer {
    const before = this.#split[stream]
    const whole = before.length === 0 ? bytes : Buffer.concat([before, bytes])
    const kept = whole.length - (partial ? unfinishedBytes(whole, 0, whole.length) : 0)
    this.#hold(stream, kept === whole.length ? nothing : ownCopy(whole.subarray(kept)))
    this.#splitAt[stream] = at
    return whole.subarray(0, kept)
  }

  #hold (stream: LogStream, bytes: Buffer): void {
    if (bytes.length === 0 && this.#split[stream].length === 0 && !this.#isSettled) return
    this.#split[stream] = bytes
    this.#suffix = cursorSuffix(this.#split, this.#isSettled)
  }

  #push (bytes: Buffer, at: string, stream: LogStream, partial: boolean): void {
    const cursor = this.#cursor()
    if (isUtf8(bytes)) this.#records.push({ type: 'line', cursor, at, stream, text: bytes.toString('utf8'), partial })
    else this.#records.push({ type: 'line', cursor, at, stream, text: bytes.toString('base64'), encoding: 'base64', partial })
  }

  #emitUnreadable (bytes: number): void {
    this.#lineStart += bytes
    this.#records.push({ type: 'gap', cursor: this.#cursor(), bytes, message: 'this part of the log is damaged and was skipped' })
  }

  #cursor (): string {
    return `${this.#generation}:${this.#lineStart}${this.#suffix}`
  }
}

function ownCopy (bytes: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(bytes.length)
  bytes.copy(copy)
  return copy
}
