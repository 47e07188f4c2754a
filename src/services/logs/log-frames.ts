/** Log records as the frames of a WebSocket: several lines in one, so that a fast log is few messages. */
import { isUtf8 } from 'node:buffer'
import type { LogFrame, LogRecord } from '../../schemas/log.ts'
import { recordBytes } from './log-bytes.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

/** Records that were read within this time of each other may share a frame, in milliseconds. */
const frameMs = 100
const maxFrameBytes = 64 * 1024

/** Of `2026-11-22T13:30:19`. */
const secondLength = 19

const framed = new WeakMap<readonly LogRecord[], LogFrame[]>()

/**
 * The records in their order, runs of one stream as one frame each: within 100 ms and 64 KiB, but never less than a
 * record. A frame's cursor is that of its last record. The
 * same array gives the same frames: followers that are equally far share both.
 */
export function toLogFrames (batch: readonly LogRecord[]): LogFrame[] {
  const frames = framed.get(batch) ?? makeFrames(batch)
  framed.set(batch, frames)
  return frames
}

function makeFrames (batch: readonly LogRecord[]): LogFrame[] {
  const frames: LogFrame[] = []
  for (let index = 0; index < batch.length;) {
    const first = batch[index]!
    if (first.type === 'gap') {
      frames.push({ ...first })
      index++
      continue
    }
    // Counting characters is several times faster than bytes, and mostly the same.
    let run = runFrom(batch, index, first, characters)
    let frame = toFrame(run)
    if (run.length > 1 && frame.type === 'output' && Buffer.byteLength(frame.data) > maxFrameBytes) {
      run = runFrom(batch, index, first, bytes)
      frame = toFrame(run)
    }
    frames.push(frame)
    index += run.length
  }
  return frames
}

function runFrom (batch: readonly LogRecord[], start: number, first: LineRecord, measure: (record: LineRecord) => number): LineRecord[] {
  const isNear = nearTo(first.at)
  const run = [first]
  let size = measure(first)
  let at = first.at
  for (let index = start + 1; index < batch.length; index++) {
    const record = batch[index]!
    if (record.type === 'gap' || record.stream !== first.stream) break
    size += measure(record)
    if (size > maxFrameBytes) break
    // Most lines of a burst have the very time of the line before.
    if (record.at !== at) {
      if (!isNear(record.at)) break
      at = record.at
    }
    run.push(record)
  }
  return run
}

function characters ({ text, encoding, partial }: LineRecord): number {
  return (encoding === undefined ? text.length : Math.floor(text.length * 3 / 4)) + (partial ? 0 : 1)
}

function bytes (record: LineRecord): number {
  return record.encoding === undefined ? Buffer.byteLength(record.text) + (record.partial ? 0 : 1) : characters(record)
}

function joined (run: readonly LineRecord[]): string {
  const pieces: string[] = []
  for (const { text, partial } of run) pieces.push(text, partial ? '' : '\n')
  return pieces.join('')
}

function toFrame (run: readonly LineRecord[]): LogFrame {
  const { at: time, stream } = run[0]!
  const { cursor } = run.at(-1)!
  if (run.every(({ encoding }) => encoding === undefined)) return { type: 'output', cursor, time, stream, data: joined(run) }
  const whole = Buffer.concat(run.map(recordBytes))
  // Joined it may be UTF-8.
  if (isUtf8(whole)) return { type: 'output', cursor, time, stream, data: whole.toString() }
  return { type: 'output', cursor, time, stream, data: whole.toString('base64'), encoding: 'base64' }
}

/** Tells of times whether they are within the span of a frame from this one, either way: clocks are set. */
function nearTo (first: string): (at: string) => boolean {
  const second = first.slice(0, secondLength + 1)
  const zone = first.slice(-6)
  const isPlain = second.endsWith('.') && first.length >= secondLength + 4 + zone.length
  const millis = millisOf(first)
  return at => {
    const between = isPlain && at.length === first.length && at.startsWith(second) && at.endsWith(zone) ? millisOf(at) - millis : Date.parse(at) - Date.parse(first)
    return Math.abs(between) <= frameMs
  }
}

/** The thousandths of a second in `2026-11-22T13:30:19.628…`. */
function millisOf (at: string): number {
  const digit = (index: number) => at.charCodeAt(secondLength + index) - 48
  return digit(1) * 100 + digit(2) * 10 + digit(3)
}
