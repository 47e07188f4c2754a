/**
 * Reads gztool's index of a gzip stream (its README, "Index file format"); all numbers are big-endian:
 *
 *     u64 0 · "gzipindx" or "gzipindX" (with line numbers, then u32 line format) · u64 have · u64 size
 *     per point: u64 offset in the data · u64 offset in the gzip stream · u32 bits · u32 length of the window · window (zlib)
 *                (· u64 line, with line numbers)
 *     u64 length of the data (· u64 lines)
 *
 * `have` is 0 until the index is complete.
 */

export interface IndexPoint {
  tarStart: number
  blobStart: number
  /** Up to 32 KiB of data before this point, as a zlib stream; empty where none is needed. */
  window: Buffer
}

export interface GzipIndex {
  points: IndexPoint[]
  tarBytes: number
}

const headerBytes = 32
const pointBytes = 24

/** The whole points in part of an index, from this offset on, and where the first one that is not whole begins. `hasLines` as in its header. */
export function readIndexPoints (bytes: Buffer, offset: number, hasLines: boolean): { points: IndexPoint[], offset: number } {
  const points: IndexPoint[] = []
  const extra = hasLines ? 8 : 0
  for (;;) {
    if (offset + pointBytes > bytes.length) return { points, offset }
    const windowStart = offset + pointBytes
    const next = windowStart + bytes.readUInt32BE(offset + 20) + extra
    if (next > bytes.length) return { points, offset }
    if (bytes.readUInt32BE(offset + 16) !== 0) throw new Error('a point of the gzip index is not on a byte boundary')
    points.push({ tarStart: readSafe(bytes, offset), blobStart: readSafe(bytes, offset + 8), window: bytes.subarray(windowStart, next - extra) })
    offset = next
  }
}

/** Where the points begin and whether they have line numbers, or undefined while the header is not whole. */
export function readIndexHeader (bytes: Buffer): { offset: number, hasLines: boolean } | undefined {
  if (bytes.length < headerBytes + 4) return undefined
  const magic = bytes.toString('latin1', 8, 16)
  if (bytes.readBigUInt64BE(0) !== 0n || (magic !== 'gzipindx' && magic !== 'gzipindX')) throw new Error('this is not an index of gztool')
  const hasLines = magic === 'gzipindX'
  return { offset: headerBytes + (hasLines ? 4 : 0), hasLines }
}

/** A complete index. Throws an Error for anything else: it is made on this host, a damaged one is a fault of ours. */
export function parseGzipIndex (bytes: Buffer): GzipIndex {
  const header = readIndexHeader(bytes)
  if (!header) throw new Error('the gzip index is cut off')
  const countAt = header.offset - 16
  const count = readSafe(bytes, countAt)
  const { points, offset } = readIndexPoints(bytes, header.offset, header.hasLines)
  if (count !== points.length || count !== readSafe(bytes, countAt + 8) || offset + (header.hasLines ? 16 : 8) !== bytes.length) throw new Error('the gzip index is not complete')
  return { points, tarBytes: readSafe(bytes, offset) }
}

function readSafe (bytes: Buffer, offset: number): number {
  const value = Number(bytes.readBigUInt64BE(offset))
  if (!Number.isSafeInteger(value)) throw new Error('a number of the gzip index is out of range')
  return value
}
