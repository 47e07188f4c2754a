import { closeSync, constants, openSync, rmSync, writeSync } from 'node:fs'
import { screenPath, segmentPath } from './output-segments.ts'

export interface OutputWriterOptions {
  /** There already, and holding no output. */
  dir: string
  /** How much is kept at least, in bytes. */
  windowBytes: number
  /** Output could not be written, and is not to be had from the files; told once until writing succeeds again. */
  onFailed: (error: unknown) => void
}

interface Segment {
  start: number
  bytes: number
}

const segmentsPerWindow = 4
// Trying costs a file that is made and removed.
const retryMs = 100

/**
 * Appends the output of a terminal to its files, see pty-protocol.ts: each byte is there when `append` returns, or is a gap for readers,
 * as with a full disk. Never throws for that, and holds nothing back.
 */
export class OutputWriter {
  readonly #options: OutputWriterOptions
  readonly #segmentBytes: number
  readonly #segments: Segment[] = []
  #offset = 0
  #fd: number | undefined
  #failedAt: number | undefined

  constructor (options: OutputWriterOptions) {
    this.#options = options
    this.#segmentBytes = Math.max(1, Math.ceil(options.windowBytes / segmentsPerWindow))
  }

  /** Of the next byte. */
  get offset (): number {
    return this.#offset
  }

  append (bytes: Buffer): void {
    const end = this.#offset + bytes.length
    if (this.#failedAt === undefined || performance.now() - this.#failedAt >= retryMs) {
      try {
        for (let position = 0; position < bytes.length;) position += this.#write(bytes.subarray(position))
        this.#failedAt = undefined
      } catch (error) {
        if (this.#failedAt === undefined) this.#options.onFailed(error)
        this.#failedAt = performance.now()
        this.#closeSegment()
      }
    }
    this.#offset = end
  }

  close (): void {
    this.#closeSegment()
  }

  /** Writes what the segment has room for, or less. */
  #write (bytes: Buffer): number {
    let segment = this.#segments.at(-1)
    if (this.#fd === undefined || !segment || segment.bytes >= this.#segmentBytes) segment = this.#openSegment()
    const written = writeSync(this.#fd ?? -1, bytes, 0, Math.min(bytes.length, this.#segmentBytes - segment.bytes))
    segment.bytes += written
    this.#offset += written
    return written
  }

  #openSegment (): Segment {
    this.#closeSegment()
    const segment = { start: this.#offset, bytes: 0 }
    this.#fd = openSync(segmentPath(this.#options.dir, segment.start), constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND, 0o600)
    this.#segments.push(segment)
    this.#removeOldest()
    return segment
  }

  #closeSegment (): void {
    if (this.#fd === undefined) return
    closeSync(this.#fd)
    this.#fd = undefined
    const segment = this.#segments.at(-1)
    if (segment?.bytes !== 0) return
    this.#segments.pop()
    rmSync(segmentPath(this.#options.dir, segment.start), { force: true })
  }

  #removeOldest (): void {
    let kept = this.#segments.reduce((sum, { bytes }) => sum + bytes, 0)
    for (let [oldest] = this.#segments; oldest && kept - oldest.bytes >= this.#options.windowBytes; [oldest] = this.#segments) {
      kept -= oldest.bytes
      this.#segments.shift()
      for (const path of [segmentPath, screenPath]) rmSync(path(this.#options.dir, oldest.start), { force: true })
    }
  }
}
