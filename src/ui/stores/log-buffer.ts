/** The lines of a log that are held for showing; the oldest go when there are too many. */
import type { LogRecord } from '../../schemas/log.ts'
import { plainLine } from '../text/hostile-text.ts'

export interface LogLine {
  /** Grows by one with each line, and never changes. */
  number: number
  at: string
  stream: 'stdout' | 'stderr' | 'gap'
  text: string
}

const longestLine = 16 * 1024

export interface LogLimits {
  lines: number
  characters: number
}

export class LogBuffer {
  /** How many lines were let go. */
  dropped = 0
  readonly #limits: LogLimits
  #lines: LogLine[] = []
  #characters = 0
  #next = 1
  /** By stream: the line that the next record goes on with. */
  readonly #open = new Map<string, LogLine>()

  constructor (limits: LogLimits = { lines: 20_000, characters: 8 * 1024 * 1024 }) {
    this.#limits = limits
  }

  get lines (): readonly LogLine[] {
    return this.#lines
  }

  add (records: readonly LogRecord[]): void {
    for (const record of records) {
      if (record.type === 'gap') this.#push({ at: '', stream: 'gap', text: record.message })
      else this.#addLine(record)
    }
    this.#trim()
  }

  #addLine (record: Extract<LogRecord, { type: 'line' }>): void {
    const text = record.encoding === 'base64' ? decodeBase64(record.text) : record.text
    const begun = this.#open.get(record.stream)
    if (begun) {
      const more = text.slice(0, Math.max(0, longestLine - begun.text.length))
      begun.text += more
      this.#characters += more.length
    }
    const line = begun ?? this.#push({ at: record.at, stream: record.stream, text: text.slice(0, longestLine) })
    if (record.partial) {
      this.#open.set(record.stream, line)
      return
    }
    this.#open.delete(record.stream)
    const plain = plainLine(line.text)
    this.#characters += plain.length - line.text.length
    line.text = plain
  }

  #push (line: Omit<LogLine, 'number'>): LogLine {
    const made = { ...line, number: this.#next++ }
    this.#lines.push(made)
    this.#characters += made.text.length
    return made
  }

  #trim (): void {
    let gone = Math.max(0, this.#lines.length - this.#limits.lines)
    for (let index = 0; index < gone; index++) this.#characters -= this.#lines[index]!.text.length
    while (this.#characters > this.#limits.characters && gone < this.#lines.length - 1) this.#characters -= this.#lines[gone++]!.text.length
    if (gone === 0) return
    this.#lines = this.#lines.slice(gone)
    this.dropped += gone
  }
}

function decodeBase64 (text: string): string {
  return new TextDecoder().decode(Uint8Array.from(atob(text), char => char.charCodeAt(0)))
}
