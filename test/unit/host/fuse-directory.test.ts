import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { test } from 'node:test'
import { FuseDirectory, isPresent, type FuseFile } from '../../../src/host/fuse-directory.ts'
import { decodeRequest, encodeResend, opcodes, requestBufferBytes } from '../../../src/host/fuse-protocol.ts'

const { EROFS, ENOENT, ENOSYS, ENODATA, ESTALE, ENOTDIR } = constants.errno
// The bit that marks a resent request.
const unique = (1n << 63n) | 42n

test('a range is present when all of its granules are, and only then', () => {
  const file = makeFile('file', 2n, 100 * 10 - 3, 10)
  const bits = new Uint8Array(file.present)
  const set = new Set<number>()
  for (let round = 0; round < 40; round++) {
    const added = (round * 37) % 100
    set.add(added)
    bits[added >> 3] = (bits[added >> 3] ?? 0) | 1 << (added & 7)
    for (let start = 0; start < file.sizeBytes; start += 7) {
      for (const length of [1, 5, 10, 11, 79, 80, 81, 300]) {
        const end = Math.min(start + length, file.sizeBytes)
        let isThere = true
        for (let byte = start; byte < end; byte++) isThere &&= set.has(Math.floor(byte / 10))
        assert.equal(isPresent(file, start, end), isThere, `${start} to ${end} of ${[...set].join(' ')}`)
      }
    }
  }
  bits.fill(0xff)
  assert.equal(isPresent(file, 0, file.sizeBytes), true)
  assert.equal(isPresent(file, 0, 0), true)
  assert.equal(isPresent(file, 0, 10_000), false, 'beyond the bitmap nothing is')
})

test('a request that says another length than it has is refused', () => {
  assert.throws(() => decodeRequest(Buffer.alloc(39), 39))
  const request = makeRequest(opcodes.statfs)
  request.writeUInt32LE(41, 0)
  assert.throws(() => decodeRequest(request, request.length))
})

test('an answer carries its request\'s number, all 64 bits', () => {
  const directory = new FuseDirectory()
  for (const opcode of [opcodes.statfs, opcodes.access, 21, 4000]) {
    const reply = answer(directory, opcode)
    assert.ok(reply)
    assert.equal(reply.readBigUInt64LE(8), unique)
    assert.equal(reply.readUInt32LE(0), reply.length)
  }
})

test('of what the kernel offers, only what is wanted is taken', () => {
  const offer = Buffer.alloc(64)
  offer.writeUInt32LE(7, 0)
  offer.writeUInt32LE(45, 4)
  offer.writeUInt32LE(0xffff_ffff, 12)
  offer.writeUInt32LE(0xffff_ffff, 16)
  const reply = answer(new FuseDirectory(), opcodes.init, 0n, offer)
  assert.ok(reply)
  assert.equal(reply.length, 16 + 64)
  assert.deepEqual([reply.readUInt32LE(16), reply.readUInt32LE(20)], [7, 40])
  assert.equal(reply.readUInt32LE(28), 1 | 1 << 18 | 1 << 22 | 1 << 30)
  assert.equal(reply.readUInt32LE(48), 1 << 7, 'FUSE_HAS_RESEND')
  assert.equal(reply.readUInt16LE(44), 256)
  // The kernel reads into no buffer that is smaller than a write with its headers.
  assert.ok(reply.readUInt32LE(36) + 80 <= requestBufferBytes)
  offer.fill(0, 12)
  const plain = answer(new FuseDirectory(), opcodes.init, 0n, offer)
  assert.deepEqual([plain?.readUInt32LE(28), plain?.readUInt32LE(48)], [0, 0])
})

test('files are found by name and described', () => {
  const directory = new FuseDirectory()
  directory.add(makeFile('sha', 7n, 5_000_000_000, 1 << 16))
  const entry = answer(directory, opcodes.lookup, 1n, Buffer.from('sha\0'))
  assert.ok(entry)
  assert.equal(entry.length, 16 + 128)
  assert.equal(entry.readBigUInt64LE(16), 7n)
  assert.equal(entry.readBigUInt64LE(32), 0n, 'the name is asked for again')
  assert.equal(entry.readBigUInt64LE(56), 7n)
  assert.equal(entry.readBigUInt64LE(64), 5_000_000_000n)
  assert.equal(entry.readUInt32LE(56 + 60), 0o100400)
  const attributes = answer(directory, opcodes.getAttributes, 7n)
  assert.equal(attributes?.length, 16 + 104)
  assert.equal(attributes?.readBigUInt64LE(40), 5_000_000_000n)
  assert.equal(answer(directory, opcodes.getAttributes, 1n)?.readUInt32LE(32 + 60), 0o040500)
  assert.equal(answer(directory, opcodes.open, 7n)?.readUInt32LE(24), 2, 'FOPEN_KEEP_CACHE')
})

test('what is not there, not possible or not known has its error', () => {
  const directory = new FuseDirectory()
  directory.add(makeFile('sha', 7n, 10, 1))
  directory.remove('sha')
  assert.equal(errorOf(directory, opcodes.lookup, 1n, Buffer.from('sha\0')), ENOENT)
  assert.equal(errorOf(directory, opcodes.lookup, 7n, Buffer.from('sha\0')), ENOTDIR)
  assert.equal(errorOf(directory, opcodes.open, 7n), ENOENT)
  assert.equal(errorOf(directory, opcodes.getAttributes, 7n), ESTALE)
  assert.equal(errorOf(directory, opcodes.readDirectory, 7n, Buffer.alloc(40)), ENOTDIR)
  assert.equal(errorOf(directory, opcodes.getXattr), ENODATA)
  for (const writing of [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51]) assert.equal(errorOf(directory, writing), EROFS)
  for (const unknown of [23, 25, 39, 46, 50, 9999]) assert.equal(errorOf(directory, unknown), ENOSYS)
  for (const silent of [opcodes.forget, opcodes.batchForget, opcodes.interrupt]) assert.equal(answer(directory, silent), undefined)
})

test('a listing goes on where it stopped, in whole entries', () => {
  const directory = new FuseDirectory()
  const names = Array.from({ length: 30 }, (_, n) => `name-${String(n).padStart(n + 2, '0')}`)
  for (const [n, name] of names.entries()) directory.add(makeFile(name, BigInt(n + 2), 1, 1))
  const seen: string[] = []
  for (let offset = 0; ;) {
    const body = Buffer.alloc(40)
    body.writeBigUInt64LE(BigInt(offset), 8)
    body.writeUInt32LE(200, 16)
    const reply = answer(directory, opcodes.readDirectory, 1n, body)
    assert.ok(reply && reply.length <= 216 && reply.length % 8 === 0)
    if (reply.length === 16) break
    for (let at = 16; at < reply.length;) {
      offset = Number(reply.readBigUInt64LE(at + 8))
      const length = reply.readUInt32LE(at + 16)
      seen.push(reply.toString('utf8', at + 24, at + 24 + length))
      at += Math.ceil((24 + length) / 8) * 8
    }
  }
  assert.deepEqual(seen.sort(), ['.', '..', ...names].sort())
})

test('the notice that asks for everything again is a header alone', () => {
  assert.deepEqual([...encodeResend()], [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
})

function makeFile (name: string, nodeId: bigint, sizeBytes: number, granuleBytes: number): FuseFile {
  return { name, nodeId, sizeBytes, dataPath: '/nowhere', granuleBytes, present: new SharedArrayBuffer(Math.ceil(sizeBytes / granuleBytes / 8)) }
}

function makeRequest (opcode: number, nodeId = 1n, body: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(40)
  header.writeUInt32LE(40 + body.length, 0)
  header.writeUInt32LE(opcode, 4)
  header.writeBigUInt64LE(unique, 8)
  header.writeBigUInt64LE(nodeId, 16)
  return Buffer.concat([header, body])
}

function answer (directory: FuseDirectory<FuseFile>, opcode: number, nodeId?: bigint, body?: Buffer): Buffer | undefined {
  const request = makeRequest(opcode, nodeId, body)
  return directory.answer(decodeRequest(request, request.length))
}

function errorOf (directory: FuseDirectory<FuseFile>, opcode: number, nodeId?: bigint, body?: Buffer): number {
  return -(answer(directory, opcode, nodeId, body)?.readInt32LE(4) ?? 0)
}
