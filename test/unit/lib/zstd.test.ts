import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { constants, zstdCompressSync } from 'node:zlib'
import { decompressZstd, ZstdError } from '../../../src/lib/zstd.ts'

const skippable = Buffer.concat([Buffer.from([0x5e, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('hello')])
const checksummed = (content: Buffer): Buffer => zstdCompressSync(content, { params: { [constants.ZSTD_c_checksumFlag]: 1 } })

async function decompress (bytes: Buffer, pieceBytes: number): Promise<Buffer> {
  async function * pieces (): AsyncGenerator<Buffer> {
    for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes)
  }
  const chunks: Buffer[] = []
  for await (const chunk of decompressZstd(pieces())) chunks.push(chunk)
  return Buffer.concat(chunks)
}

test('frames of every kind, one after the other, are decompressed however they are cut', async () => {
  const contents = [randomBytes(300_000), Buffer.alloc(1_000_000, 'a'), Buffer.alloc(0), Buffer.from('x'), Buffer.concat([randomBytes(200_000), Buffer.alloc(200_000)])]
  const stream = Buffer.concat([skippable, ...contents.flatMap((content, i) => i % 2 === 0 ? [zstdCompressSync(content), skippable] : [checksummed(content)])])
  for (const pieceBytes of [997, 65_536, stream.length]) {
    assert.ok((await decompress(stream, pieceBytes)).equals(Buffer.concat(contents)), String(pieceBytes))
  }
  assert.equal((await decompress(Buffer.concat([skippable, zstdCompressSync(Buffer.from('y'))]), 1)).toString(), 'y')
})

test('a stream that is cut short at any byte, or followed by something else, is an error', async () => {
  const stream = Buffer.concat([zstdCompressSync(Buffer.from('first')), checksummed(Buffer.from('second '.repeat(20)))])
  const firstFrame = zstdCompressSync(Buffer.from('first')).length
  for (let length = 0; length < stream.length; length++) {
    if (length === firstFrame) continue
    await assert.rejects(decompress(stream.subarray(0, length), 7), ZstdError, String(length))
  }
  await assert.rejects(decompress(Buffer.concat([stream, Buffer.from('garbage')]), 4096), ZstdError)
  await assert.rejects(decompress(Buffer.concat([stream, Buffer.from('g')]), 4096), ZstdError)
  const damaged = Buffer.from(stream)
  damaged.writeUInt8(damaged.readUInt8(damaged.length - 1) ^ 1, damaged.length - 1)
  await assert.rejects(decompress(damaged, 4096), ZstdError, 'the checksum does not hold')
})

test('what the source throws reaches the reader, and a reader that leaves ends the source', async () => {
  const stream = zstdCompressSync(randomBytes(4_000_000))
  async function * failing (): AsyncGenerator<Buffer> {
    yield stream.subarray(0, 1_000_000)
    throw new RangeError('the disk is gone')
  }
  await assert.rejects(async () => { for await (const chunk of decompressZstd(failing())) void chunk }, RangeError)
  const ended = Promise.withResolvers<void>()
  async function * endless (): AsyncGenerator<Buffer> {
    try {
      for (;;) yield stream
    } finally {
      ended.resolve()
    }
  }
  for await (const chunk of decompressZstd(endless())) {
    assert.ok(chunk.length > 0)
    break
  }
  await ended.promise
})
