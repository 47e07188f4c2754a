/**
 * What a line of output and a change of status look like as records of S2.
 *
 * Bodies are JSON. A record of `task.<taskId>.logs`:
 *   { task_id, timestamp, stream, data, seq, cursor, line_end, encoding?: 'base64' }   output
 *   { task_id, timestamp, stream, data: '', seq, cursor, line_end, gap: true, message } output that is gone
 * A record of `task.<taskId>.status`:
 *   { task_id, timestamp, status, attempt, reason?, exit_code?, message?, seq }
 */
import { isUtf8 } from 'node:buffer'
import { parseCursor } from '../logs/log-cursor.ts'
import type { OutputEntry, StatusEntry } from './output-sink.ts'
import { SinkRefusal } from './output-sink.ts'

/** Which entry a record is of. */
export interface S2Mark {
  seq: number
  /** Of output alone. */
  cursor?: string
}

/** A record that is to be appended. */
export interface S2Record extends S2Mark {
  body: Buffer
  /** Milliseconds since the epoch; S2 takes its own time without. */
  timestamp: number | undefined
}

/** Bytes and records that S2 takes in one append: https://s2.dev/docs/api/records/append. */
const appendBytes = 1024 * 1024
const appendRecords = 1000
/** What S2 counts for a record beside its body, where it has no headers: `meteredBytes` of its library. */
const recordOverheadBytes = 8
/** Text grows up to sixfold as JSON (control characters), base64 by a third: a longer record than this goes as base64. */
const textRecordBytes = 512 * 1024

export function logRecord (taskId: string, entry: OutputEntry): S2Record {
  const isText = isUtf8(entry.data)
  const text = isText ? toLogBody(taskId, entry, false) : undefined
  const { seq, cursor, at } = entry
  return { seq, cursor, body: text !== undefined && text.length <= textRecordBytes ? text : toLogBody(taskId, entry, true), timestamp: toMillis(at) }
}

function toLogBody (taskId: string, entry: OutputEntry, isBase64: boolean): Buffer {
  const { seq, cursor, at, stream, data, isLineEnd, isGap } = entry
  const facts = { task_id: taskId, timestamp: at, stream }
  const place = { seq, cursor, line_end: isLineEnd }
  if (isGap === true) return Buffer.from(JSON.stringify({ ...facts, data: '', ...place, gap: true, message: data.toString('utf8') }))
  if (isBase64) return Buffer.from(JSON.stringify({ ...facts, data: data.toString('base64'), ...place, encoding: 'base64' }))
  return Buffer.from(JSON.stringify({ ...facts, data: data.toString('utf8'), ...place }))
}

export function statusRecord (taskId: string, { seq, at, status, attempt, reason, exitCode, message }: StatusEntry): S2Record {
  const body = { task_id: taskId, timestamp: at, status, attempt, reason, exit_code: exitCode, message, seq }
  return { seq, body: Buffer.from(JSON.stringify(body)), timestamp: toMillis(at) }
}

function toMillis (at: string): number | undefined {
  const millis = Date.parse(at)
  return Number.isNaN(millis) ? undefined : millis
}

/** Which entry a record is of; undefined for what somebody else wrote. */
export function markOf (taskId: string, body: Uint8Array): S2Mark | undefined {
  let found: unknown
  try {
    found = JSON.parse(Buffer.from(body).toString('utf8'))
  } catch {
    return undefined
  }
  if (typeof found !== 'object' || found === null || !('task_id' in found) || found.task_id !== taskId || !('seq' in found)) return undefined
  const { seq, cursor } = found as { seq: unknown, cursor?: unknown }
  return Number.isSafeInteger(seq) ? { seq: seq as number, ...(isCursor(cursor) ? { cursor } : {}) } : undefined
}

function isCursor (value: unknown): value is string {
  try {
    return typeof value === 'string' && parseCursor(value) !== undefined
  } catch {
    return false
  }
}

/**
 * Whether a stream that ends with one entry holds the other. The number alone does not tell: a host that loses power may lose the
 * end of a log that was delivered already, and what the task writes after that gets these numbers anew, at later places of the log.
 */
export function isHeld (record: S2Mark, last: S2Mark): boolean {
  if (record.seq > last.seq) return false
  if (record.cursor === undefined || last.cursor === undefined) return true
  const [here, end] = [parseCursor(record.cursor), parseCursor(last.cursor)]
  return here.generation < end.generation || (here.generation === end.generation && here.offset <= end.offset)
}

/** Cuts records into runs of which each fits one append. @throws SinkRefusal where one record alone does not. */
export function packRecords (records: readonly S2Record[]): S2Record[][] {
  const runs: S2Record[][] = []
  let run: S2Record[] = []
  let bytes = 0
  for (const record of records) {
    const size = record.body.length + recordOverheadBytes
    if (size > appendBytes) throw new SinkRefusal(`entry ${record.seq} is a record of ${size} bytes, and S2 takes at most ${appendBytes}`)
    if (bytes + size > appendBytes || run.length === appendRecords) {
      runs.push(run)
      run = []
      bytes = 0
    }
    run.push(record)
    bytes += size
  }
  if (run.length > 0) runs.push(run)
  return runs
}
