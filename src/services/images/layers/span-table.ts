/**
 * The table of a layer's spans: which bytes of the blob make which bytes of the tar, and what these must hash to. It makes a layer readable
 * at any place without the whole of it. As a file, all numbers big-endian:
 *
 *     "BERTHSPN" · u32 version 1 · u32 kind (1 gzip, 2 plain) · digest (32 bytes) · diff id (32) · u64 blobBytes · u64 tarBytes · u32 count
 *     per span: u64 blobStart · u64 tarStart · u32 length of the window · sha256 of the span's part of the tar (32)
 *     the windows, one after the other: zlib streams of up to 32 KiB, the data before the span · sha256 of all that comes before it (32)
 *
 * Spans follow each other without a gap: each ends where the next begins, the last one at the end of blob and tar.
 */
import { createHash } from 'node:crypto'
import { BerthError } from '../../../errors.ts'
import { hexOf } from '../digest.ts'

export interface Span {
  blobStart: number
  blobEnd: number
  tarStart: number
  tarEnd: number
  /** Data before the span that it refers back to, as a zlib stream; empty where it needs none. */
  window: Buffer
  sha256: Buffer
}

export interface SpanTable {
  /** `sha256:<hex>` of the blob. */
  digest: string
  /** `sha256:<hex>` of the tar. */
  diffId: string
  blobBytes: number
  tarBytes: number
  /** `plain`: the blob is the tar. */
  kind: 'gzip' | 'plain'
  spans: readonly Span[]
}

const magic = 'BERTHSPN'
const version = 1
const kinds = ['gzip', 'plain'] as const
const headerBytes = 8 + 4 + 4 + 32 + 32 + 8 + 8 + 4
const recordBytes = 8 + 8 + 4 + 32
const hashBytes = 32
// What zlib makes of 32 KiB that it cannot compress, rounded up.
const maxWindowBytes = 33 * 1024
/** The most that one span may hold; gztool takes its points at the first block after the wanted distance. */
export const maxSpanBytes = 64 * 1024 ** 2
/** The largest file that is read as a table: 64 GiB of tar in spans of 1 MiB with full windows. */
export const maxTableBytes = 2 * 1024 ** 3

export function encodeSpanTable (table: SpanTable): Buffer {
  const header = Buffer.alloc(headerBytes + table.spans.length * recordBytes)
  let at = header.write(magic, 0, 'latin1')
  at = header.writeUInt32BE(version, at)
  at = header.writeUInt32BE(kinds.indexOf(table.kind) + 1, at)
  at += Buffer.from(hexOf(table.digest), 'hex').copy(header, at)
  at += Buffer.from(hexOf(table.diffId), 'hex').copy(header, at)
  at = header.writeBigUInt64BE(BigInt(table.blobBytes), at)
  at = header.writeBigUInt64BE(BigInt(table.tarBytes), at)
  at = header.writeUInt32BE(table.spans.length, at)
  for (const span of table.spans) {
    at = header.writeBigUInt64BE(BigInt(span.blobStart), at)
    at = header.writeBigUInt64BE(BigInt(span.tarStart), at)
    at = header.writeUInt32BE(span.window.length, at)
    at += span.sha256.copy(header, at)
  }
  const content = [header, ...table.spans.map(span => span.window)]
  const hash = createHash('sha256')
  for (const part of content) hash.update(part)
  return Buffer.concat([...content, hash.digest()])
}

/**
 * Reads a table, which may come from elsewhere.
 *
 * @throws BerthError invalid_argument `image_invalid` unless it is exactly what its format says.
 */
export function decodeSpanTable (bytes: Buffer): SpanTable {
  if (bytes.length < headerBytes + hashBytes || bytes.length > maxTableBytes) throw invalid('its size is impossible')
  if (bytes.toString('latin1', 0, 8) !== magic || bytes.readUInt32BE(8) !== version) throw invalid('it has another format or version')
  const end = bytes.length - hashBytes
  if (!createHash('sha256').update(bytes.subarray(0, end)).digest().equals(bytes.subarray(end))) throw invalid('it is damaged')
  const kind = kinds[bytes.readUInt32BE(12) - 1]
  if (!kind) throw invalid('its kind is unknown')
  const table = {
    digest: `sha256:${bytes.toString('hex', 16, 48)}`,
    diffId: `sha256:${bytes.toString('hex', 48, 80)}`,
    blobBytes: readSafe(bytes, 80),
    tarBytes: readSafe(bytes, 88),
    kind,
  }
  const count = bytes.readUInt32BE(96)
  const windowsAt = headerBytes + count * recordBytes
  if (windowsAt > end) throw invalid('it is cut off')
  const spans = readSpans(bytes.subarray(headerBytes, windowsAt), bytes.subarray(windowsAt, end), table)
  return { ...table, spans }
}

function readSpans (records: Buffer, windows: Buffer, table: Omit<SpanTable, 'spans'>): Span[] {
  const spans: Span[] = []
  let windowAt = 0
  for (let at = 0; at < records.length; at += recordBytes) {
    const next = at + recordBytes
    const isLast = next === records.length
    const windowBytes = records.readUInt32BE(at + 16)
    spans.push({
      blobStart: readSafe(records, at),
      blobEnd: isLast ? table.blobBytes : readSafe(records, next),
      tarStart: readSafe(records, at + 8),
      tarEnd: isLast ? table.tarBytes : readSafe(records, next + 8),
      window: windows.subarray(windowAt, windowAt + windowBytes),
      sha256: records.subarray(at + 20, next),
    })
    windowAt += windowBytes
  }
  if (windowAt !== windows.length) throw invalid('its windows do not add up')
  checkSpans({ ...table, spans })
  return spans
}

/** @throws BerthError `image_invalid` unless the spans follow each other and cover the whole tar. */
export function checkSpans ({ spans, tarBytes, kind, blobBytes }: SpanTable): void {
  if ((spans[0]?.tarStart ?? 0) !== 0 || (spans.length === 0) !== (tarBytes === 0)) throw invalid('its spans do not cover the layer')
  for (const span of spans) {
    const length = span.tarEnd - span.tarStart
    if (length <= 0 || length > maxSpanBytes || span.blobEnd <= span.blobStart || span.blobEnd > blobBytes) throw invalid('its spans are out of order')
    if (span.window.length > (kind === 'gzip' ? maxWindowBytes : 0)) throw invalid('a window is too large')
    if (kind === 'plain' && (span.blobStart !== span.tarStart || span.blobEnd !== span.tarEnd)) throw invalid('its spans are not those of a plain layer')
    // Stored blocks add 5 bytes to at most 65,535, and members may be small: a span that is far larger than its data is no one's honest work.
    if (span.blobEnd - span.blobStart > 2 * length + 1024 ** 2) throw invalid('a span is larger than its data')
  }
}

/** The index of the span that holds this byte of the tar. */
export function spanAt (table: SpanTable, tarOffset: number): number {
  let [low, high] = [0, table.spans.length - 1]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((table.spans[middle]?.tarStart ?? Infinity) <= tarOffset) low = middle
    else high = middle - 1
  }
  return low
}

function readSafe (bytes: Buffer, offset: number): number {
  const value = Number(bytes.readBigUInt64BE(offset))
  if (!Number.isSafeInteger(value)) throw invalid('a number is out of range')
  return value
}

function invalid (why: string): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', `the index of a layer cannot be used: ${why}; remove it where it is stored, so that it is made again`)
}
