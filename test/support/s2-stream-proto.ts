/**
 * The messages of S2's data plane as protobuf, by hand and apart from the library under test.
 * Field numbers: s2.v1 in https://github.com/s2-streamstore/s2-protos.
 */
export interface WireHeader { name: Buffer, value: Buffer }
export interface WireRecord { timestamp?: number, headers: WireHeader[], body: Buffer }
export interface WireAppend { records: WireRecord[], matchSeqNum?: number, fencingToken?: string }
export interface WirePosition { seqNum: number, timestamp: number }
export interface StoredRecord extends WirePosition { headers: WireHeader[], body: Buffer }

type Field = readonly [number: number, value: number | Buffer]

function * fieldsOf (bytes: Buffer): Generator<Field> {
  let at = 0
  const varint = (): number => {
    let value = 0n
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++]
      if (byte === undefined) throw new Error('a number is cut off')
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return Number(value)
    }
  }
  while (at < bytes.length) {
    const tag = varint()
    const wireType = tag & 7
    if (wireType === 0) yield [tag >> 3, varint()]
    else if (wireType === 2) {
      const length = varint()
      if (at + length > bytes.length) throw new Error('a field is cut off')
      yield [tag >> 3, bytes.subarray(at, at += length)]
    } else throw new Error(`wire type ${wireType}`)
  }
}

function toVarint (value: number): number[] {
  const bytes: number[] = []
  let rest = BigInt(value)
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80)
  return [...bytes, Number(rest)]
}

function toField (number: number, value: number | Buffer): Buffer {
  if (typeof value === 'number') return Buffer.from([number << 3, ...toVarint(value)])
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...toVarint(value.length)]), value])
}

const asBuffer = (value: number | Buffer): Buffer => { if (typeof value === 'number') throw new Error('bytes are expected'); return value }
const asNumber = (value: number | Buffer): number => { if (typeof value !== 'number') throw new Error('a number is expected'); return value }

export function decodeAppend (bytes: Buffer): WireAppend {
  const input: WireAppend = { records: [] }
  for (const [number, value] of fieldsOf(bytes)) {
    if (number === 1) input.records.push(decodeRecord(asBuffer(value)))
    else if (number === 2) input.matchSeqNum = asNumber(value)
    else if (number === 3) input.fencingToken = asBuffer(value).toString()
  }
  return input
}

function decodeRecord (bytes: Buffer): WireRecord {
  const record: WireRecord = { headers: [], body: Buffer.alloc(0) }
  for (const [number, value] of fieldsOf(bytes)) {
    if (number === 1) record.timestamp = asNumber(value)
    else if (number === 2) record.headers.push(decodeHeader(asBuffer(value)))
    else if (number === 3) record.body = Buffer.from(asBuffer(value))
  }
  return record
}

function decodeHeader (bytes: Buffer): WireHeader {
  const header: WireHeader = { name: Buffer.alloc(0), value: Buffer.alloc(0) }
  for (const [number, value] of fieldsOf(bytes)) header[number === 1 ? 'name' : 'value'] = Buffer.from(asBuffer(value))
  return header
}

const encodePosition = ({ seqNum, timestamp }: WirePosition): Buffer => Buffer.concat([toField(1, seqNum), toField(2, timestamp)])

export interface WireAck { start: WirePosition, end: WirePosition, tail: WirePosition }

export function encodeAck ({ start, end, tail }: WireAck): Buffer {
  return Buffer.concat([start, end, tail].map((position, index) => toField(index + 1, encodePosition(position))))
}

export function encodeReadBatch (records: readonly StoredRecord[], tail: WirePosition): Buffer {
  const encoded = records.map(record => toField(1, Buffer.concat([
    toField(1, record.seqNum),
    toField(2, record.timestamp),
    ...record.headers.map(({ name, value }) => toField(3, Buffer.concat([toField(1, name), toField(2, value)]))),
    toField(4, record.body),
  ])))
  return Buffer.concat([...encoded, toField(2, encodePosition(tail))])
}
