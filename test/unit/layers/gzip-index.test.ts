import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseGzipIndex, readIndexHeader, readIndexPoints } from '../../../src/services/images/layers/gzip-index.ts'

const points = [{ tarStart: 0, blobStart: 18, window: Buffer.alloc(0) }, { tarStart: 1_048_600, blobStart: 400_000, window: Buffer.from('window one') }, { tarStart: 5_000_000_000, blobStart: 2_000_000_000, window: Buffer.from('two') }]

test('an index of either version is read', () => {
  for (const hasLines of [false, true]) {
    const index = parseGzipIndex(indexOf({ hasLines }))
    assert.equal(index.tarBytes, 6_000_000_000)
    assert.deepEqual(index.points, points)
  }
})

test('an index that grows gives its whole points, once each', () => {
  const bytes = indexOf({ have: 0 })
  const seen: number[] = []
  let offset: number | undefined
  for (let end = 0; end <= bytes.length; end++) {
    offset ??= readIndexHeader(bytes.subarray(0, end))?.offset
    if (offset === undefined) continue
    const read = readIndexPoints(bytes.subarray(0, end), offset, false)
    seen.push(...read.points.map(point => point.tarStart))
    offset = read.offset
  }
  assert.deepEqual(seen, points.map(point => point.tarStart))
})

test('an index that is not complete, cut off, or something else is refused', () => {
  const bytes = indexOf({})
  assert.throws(() => parseGzipIndex(indexOf({ have: 0 })), /not complete/)
  for (let end = 0; end < bytes.length; end++) assert.throws(() => parseGzipIndex(bytes.subarray(0, end)))
  assert.throws(() => parseGzipIndex(Buffer.concat([bytes, Buffer.alloc(1)])), /not complete/)
  assert.throws(() => parseGzipIndex(Buffer.alloc(100)), /not an index/)
  assert.throws(() => parseGzipIndex(indexOf({ bits: 3 })), /byte boundary/)
})

function indexOf ({ hasLines = false, have = points.length, bits = 0 }): Buffer {
  const [u32, u64] = [4, 8].map(bytes => (value: number) => Buffer.from(BigInt(value).toString(16).padStart(bytes * 2, '0'), 'hex')) as [(value: number) => Buffer, (value: number) => Buffer]
  return Buffer.concat([
    u64(0), Buffer.from(hasLines ? 'gzipindX' : 'gzipindx'), ...hasLines ? [u32(0)] : [], u64(have), u64(points.length),
    ...points.flatMap(({ tarStart, blobStart, window }) => [u64(tarStart), u64(blobStart), u32(bits), u32(window.length), window, ...hasLines ? [u64(1)] : []]),
    u64(6_000_000_000), ...hasLines ? [u64(1)] : [],
  ])
}
