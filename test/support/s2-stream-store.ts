/** The streams of a test's S2 server, in memory: they stay while the server is away. */
import type { StoredRecord, WireAck, WireAppend, WirePosition } from './s2-stream-proto.ts'

/** An answer that is not the one hoped for. */
export class S2Refusal extends Error {
  readonly status: number
  readonly answer: Record<string, unknown>
  constructor (status: number, answer: Record<string, unknown>) {
    super(JSON.stringify(answer))
    this.status = status
    this.answer = answer
  }
}

export interface StoredStream {
  name: string
  createdAt: string
  /** All that ever arrived and was not trimmed, in the order of arrival. */
  records: StoredRecord[]
  next: number
  lastTimestamp: number
}

const appendBytes = 1024 * 1024
const appendRecords = 1000
const readBytes = 1024 * 1024
const readRecords = 1000

export function meteredBytes ({ headers, body }: Pick<StoredRecord, 'headers' | 'body'>): number {
  return 8 + 2 * headers.length + headers.reduce((sum, { name, value }) => sum + name.length + value.length, 0) + body.length
}

export function newStream (name: string): StoredStream {
  return { name, createdAt: new Date().toISOString(), records: [], next: 0, lastTimestamp: 0 }
}

export function tailOf ({ next, lastTimestamp }: StoredStream): WirePosition {
  return { seqNum: next, timestamp: lastTimestamp }
}

/** Whole or not at all. Timestamps: the client's where it has one, never falling. */
export function appendTo (stream: StoredStream, { records, matchSeqNum, fencingToken }: WireAppend): WireAck {
  if (records.length === 0 || records.length > appendRecords) throw new S2Refusal(422, { code: 'invalid', message: `a batch of ${records.length} records` })
  const bytes = records.reduce((sum, record) => sum + meteredBytes(record), 0)
  if (bytes > appendBytes) throw new S2Refusal(422, { code: 'invalid', message: `a batch of ${bytes} metered bytes` })
  if (fencingToken !== undefined && fencingToken !== '') throw new S2Refusal(412, { fencing_token_mismatch: '' })
  if (matchSeqNum !== undefined && matchSeqNum !== stream.next) throw new S2Refusal(412, { seq_num_mismatch: stream.next })
  const start = stream.next
  let startTimestamp: number | undefined
  for (const { timestamp, headers, body } of records) {
    stream.lastTimestamp = Math.max(stream.lastTimestamp, timestamp ?? Date.now())
    startTimestamp ??= stream.lastTimestamp
    stream.records.push({ seqNum: stream.next++, timestamp: stream.lastTimestamp, headers, body })
  }
  return { start: { seqNum: start, timestamp: startTimestamp ?? 0 }, end: tailOf(stream), tail: tailOf(stream) }
}

/** As many records as one answer holds, from a place that is given in one of two ways. */
export function readFrom (stream: StoredStream, query: URLSearchParams): StoredRecord[] {
  const number = (name: string): number | undefined => query.has(name) ? Number(query.get(name)) : undefined
  const offset = number('tail_offset')
  const start = number('seq_num') ?? (offset === undefined ? 0 : Math.max(0, stream.next - offset))
  if (start > stream.next && query.get('clamp') !== 'true') {
    throw new S2Refusal(416, { tail: { seq_num: stream.next, timestamp: stream.lastTimestamp } })
  }
  const most = Math.min(number('count') ?? readRecords, readRecords)
  const found: StoredRecord[] = []
  let bytes = 0
  for (const record of stream.records) {
    if (record.seqNum < start) continue
    bytes += meteredBytes(record)
    if (found.length === most || bytes > Math.min(number('bytes') ?? readBytes, readBytes)) break
    found.push(record)
  }
  return found
}
