/** Log records as the frames of a WebSocket: several lines in one, so that a fast log is few messages. */
import { isUtf8 } from 'node:buffer'
import type { LogFrame, LogRecord } from '../../schemas/log.ts'
import { recordBytes } from './log-bytes.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

/** Records that were read within this time of each other may share a frame, in milliseconds. */
const frameMs = 100
const maxFrameBytes = 64 * 1024

/** In `2026-11-22T13:30:19.628…`: where the second ends, and where its thousandths do. */
const secondLength = 19
const millisLength = 23

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
      const { cursor, bytes, message } = first
      frames.push({ type: 'gap', cursor, ...(bytes === undefined ? {} : { bytes }), message })
      index++
      continue
    }
    const end = endOfRun(batch, index, first)
    frames.push(toFrame(batch.slice(index, end) as LineRecord[]))
    index = end
  }
  return frames
}

function endOfRun (batch: readonly LogRecord[], start: number, first: LineRecord): number {
  let size = dataBytes(first)
  let at = first.at
  let index = start + 1
  for (; index < batch.length; index++) {
    const record = batch[index]!
    if (record.type === 'gap' || record.stream !== first.stream) break
    size += dataBytes(record)
    if (size > maxFrameBytes) break
    // Most lines of a burst have the very time of the line before.
    if (record.at !== at) {
      if (!isWithin(first.at, record.at)) break
      at = record.at
    }
  }
  return index
}

function toFrame (run: readonly LineRecord[]): LogFrame {
  const { at: time, stream } = run[0]!
  const { cursor } = run.at(-1)!
  let data = ''
  for (const record of run) {
    if (record.encoding !== undefined) return toExactFrame(run)
    data += record.partial ? record.text : `${record.text}\n`
  }
  return { type: 'output', cursor, time, stream, data }
}

/** Of records that are not all UTF-8; joined they may be. */
function toExactFrame (run: readonly LineRecord[]): LogFrame {
  const { at: time, stream } = run[0]!
  const { cursor } = run.at(-1)!
  const bytes = Buffer.concat(run.map(recordBytes))
  if (isUtf8(bytes)) return { type: 'output', cursor, time, stream, data: bytes.toString() }
  return { type: 'output', cursor, time, stream, data: bytes.toString('base64'), encoding: 'base64' }
}

function dataBytes (record: LineRecord): number {
  const bytes = record.encoding === undefined ? Buffer.byteLength(record.text) : Math.floor(record.text.length * 3 / 4)
  return record.partial ? bytes : bytes + 1
}

/** Whether the second time is within the span of a frame from the first, either way: clocks are set. */
function isWithin (first: string, second: string): boolean {
  const sameSecond = first.length === second.length && first.startsWith(second.slice(0, secondLength)) && first.endsWith(second.slice(-6))
  const millis = sameSecond
    ? Number(second.slice(secondLength + 1, millisLength)) - Number(first.slice(secondLength + 1, millisLength))
    : Date.parse(second) - Date.parse(first)
  return Math.abs(millis) <= frameMs
}
