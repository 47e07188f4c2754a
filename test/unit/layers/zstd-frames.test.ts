import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import { splitZstdFrames } from '../../../src/services/images/layers/zstd-frames.ts'

const skippable = Buffer.concat([Buffer.from('5f2a4d1805000000', 'hex'), randomBytes(5)])
const frames = [
  zstdCompressSync(Buffer.from('small')),
  skippable,
  zstdCompressSync(randomBytes(400_000)),
  zstdCompressSync(Buffer.alloc(300_000, 'a')),
  zstdCompressSync(Buffer.from('with a checksum'.repeat(1000)), { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
  zstdCompressSync(Buffer.alloc(0)),
]

test('chunks end where frames end, however the stream is cut, and nothing is lost', async () => {
  const stream = Buffer.concat(frames)
  const ends = frames.map((_, i) => Buffer.concat(frames.slice(0, i + 1)).length)
  for (const size of [1, 2, 3, 7, 1000, 65_536, stream.length]) {
    const chunks = await collect(stream, size)
    assert.ok(Buffer.concat(chunks).equals(stream))
    const seen = new Set<number>()
    let at = 0
    for (const chunk of chunks) seen.add(at += chunk.length)
    for (const end of ends) assert.ok(seen.has(end), `a chunk ends at ${end} with chunks of ${size}`)
  }
})

test('a stream is refused that is cut off, is something else, or has something else behind it', async () => {
  const stream = Buffer.concat(frames.slice(0, 3))
  for (const bytes of [stream.subarray(0, -1), stream.subarray(0, 3), Buffer.concat([stream, Buffer.from('more')]), Buffer.from('this is no zstd')]) {
    await assert.rejects(collect(bytes, 1000), { code: 'image_invalid' })
  }
})

async function collect (bytes: Buffer, size: number): Promise<Buffer[]> {
  const chunks: Buffer[] = []
  async function * input () {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
  }
  for await (const chunk of splitZstdFrames(input())) chunks.push(chunk)
  return chunks
}
