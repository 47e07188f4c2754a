/**
 * The kernel's FUSE messages as bytes: what a flat, read-only directory needs of them. Layouts and numbers are those of
 * linux/fuse.h, version 7.40; little-endian, as every architecture is that Node runs Linux on.
 */
import { constants } from 'node:os'

/** Requests that are answered with more than an error. */
export const opcodes = Object.freeze({
  lookup: 1,
  forget: 2,
  getAttributes: 3,
  open: 14,
  read: 15,
  statfs: 17,
  release: 18,
  getXattr: 22,
  init: 26,
  openDirectory: 27,
  readDirectory: 28,
  releaseDirectory: 29,
  access: 34,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
})

// SETATTR SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK WRITE SETXATTR REMOVEXATTR CREATE FALLOCATE RENAME2 COPY_FILE_RANGE TMPFILE
const writingOpcodes: ReadonlySet<number> = new Set([4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51])

export const rootNodeId = 1n
/** The largest READ: 256 pages of 4 KiB, the most that the kernel agrees to; the mount's max_read says the same where pages are larger. */
export const maxReadBytes = 1024 * 1024
/** A buffer of this size takes every request: the kernel asks for 8 KiB and for `maxWriteBytes` with headers. */
export const requestBufferBytes = 64 * 1024
export const outHeaderBytes = 16

const protocolMajor = 7
const protocolMinor = 40
const inHeaderBytes = 40
const maxWriteBytes = 4096
// Reads ahead count against this limit for the whole mount: waiting for one stalled layer must not hold up the others.
const maxBackground = 4096
const congestionThreshold = 3072
const attributesValidSeconds = 86_400n

// Bits 0, 18, 22, 30; bit 39 lies in the second word.
const initFlags = { asyncRead: 1, parallelDirectoryOperations: 1 << 18, maxPages: 1 << 22, extendedInit: 1 << 30, hasResend: 1 << 7 }
const openKeepCache = 1 << 1
const notifyResend = 7
const directoryMode = 0o040500
const fileMode = 0o100400

export interface FuseRequest {
  opcode: number
  /** Goes back in the answer as it came, with the bits that mark a resent request. */
  unique: bigint
  nodeId: bigint
  /** The thread that waits, as the mounting process sees it; 0 when there is none. */
  pid: number
  /** A view of the buffer: valid until the next request is read into it. */
  body: Buffer
}

/** A file or, where `isDirectory`, the directory itself. */
export interface FuseNode {
  nodeId: bigint
  sizeBytes: number
  isDirectory: boolean
}

export interface FuseDirectoryEntry {
  name: string
  nodeId: bigint
  isDirectory: boolean
}

/** One request as read(2) on /dev/fuse gave it. Throws when it is shorter than it says. */
export function decodeRequest (buffer: Buffer, length: number): FuseRequest {
  if (length < inHeaderBytes || buffer.readUInt32LE(0) !== length) throw new Error(`a FUSE request of ${length} bytes is cut short`)
  return {
    opcode: buffer.readUInt32LE(4),
    unique: buffer.readBigUInt64LE(8),
    nodeId: buffer.readBigUInt64LE(16),
    pid: buffer.readUInt32LE(32),
    body: buffer.subarray(inHeaderBytes, length),
  }
}

/** fuse_read_in, of READ and READDIR. */
export function decodeRead (body: Buffer): { offset: number, sizeBytes: number } {
  return { offset: Number(body.readBigUInt64LE(8)), sizeBytes: body.readUInt32LE(16) }
}

/** The name in a LOOKUP; not UTF-8 is no name of ours. */
export function decodeName (body: Buffer): string {
  const end = body.indexOf(0)
  return body.toString('utf8', 0, end === -1 ? body.length : end)
}

/** `unique` of the request that an INTERRUPT is about. */
export function decodeInterrupt (body: Buffer): bigint {
  return body.readBigUInt64LE(0)
}

/** Writes fuse_out_header; `payloadBytes` follow it. */
export function writeReplyHeader (reply: Buffer, unique: bigint, payloadBytes: number): void {
  reply.writeUInt32LE(outHeaderBytes + payloadBytes, 0)
  reply.writeInt32LE(0, 4)
  reply.writeBigUInt64LE(unique, 8)
}

/** @param errno positive, as in errno(3). */
export function encodeError (unique: bigint, errno: number): Buffer {
  const reply = Buffer.alloc(outHeaderBytes)
  writeReplyHeader(reply, unique, 0)
  reply.writeInt32LE(-errno, 4)
  return reply
}

/** The errno for a request that is not among `opcodes`. */
export function refusalOf (opcode: number): number {
  return writingOpcodes.has(opcode) ? constants.errno.EROFS : constants.errno.ENOSYS
}

export function encodeEmpty (unique: bigint): Buffer {
  return encodeError(unique, 0)
}

/** Answers INIT: of what the kernel offers, that which this server wants. */
export function encodeInit (unique: bigint, body: Buffer): Buffer {
  const offered = body.readUInt32LE(12)
  const offeredMore = (offered & initFlags.extendedInit) !== 0 && body.length >= 20 ? body.readUInt32LE(16) : 0
  const wanted = initFlags.asyncRead | initFlags.parallelDirectoryOperations | initFlags.maxPages | initFlags.extendedInit
  const reply = allocateReply(unique, 64)
  reply.writeUInt32LE(protocolMajor, 16)
  reply.writeUInt32LE(protocolMinor, 20)
  // Only a ceiling: what is read ahead is set for the mount.
  reply.writeUInt32LE(16 * maxReadBytes, 24)
  reply.writeUInt32LE(offered & wanted, 28)
  reply.writeUInt16LE(maxBackground, 32)
  reply.writeUInt16LE(congestionThreshold, 34)
  reply.writeUInt32LE(maxWriteBytes, 36)
  reply.writeUInt32LE(1, 40)
  reply.writeUInt16LE(maxReadBytes / 4096, 44)
  reply.writeUInt32LE(offeredMore & initFlags.hasResend, 48)
  return reply
}

/** Answers LOOKUP. The name is asked for again each time, so that a removed file is gone at once; what it is stays. */
export function encodeEntry (unique: bigint, node: FuseNode): Buffer {
  const reply = allocateReply(unique, 128)
  reply.writeBigUInt64LE(node.nodeId, 16)
  reply.writeBigUInt64LE(attributesValidSeconds, 40)
  writeAttributes(reply, 56, node)
  return reply
}

/** Answers GETATTR. */
export function encodeAttributes (unique: bigint, node: FuseNode): Buffer {
  const reply = allocateReply(unique, 104)
  reply.writeBigUInt64LE(attributesValidSeconds, 16)
  writeAttributes(reply, 32, node)
  return reply
}

/** Answers OPEN and OPENDIR. Nothing hangs on an open file, so that it outlives its server; cached pages stay, as content never changes. */
export function encodeOpen (unique: bigint): Buffer {
  const reply = allocateReply(unique, 16)
  reply.writeUInt32LE(openKeepCache, 24)
  return reply
}

/** Answers STATFS: a full file system. */
export function encodeStatfs (unique: bigint, fileCount: number): Buffer {
  const reply = allocateReply(unique, 80)
  reply.writeBigUInt64LE(BigInt(fileCount), 40)
  reply.writeUInt32LE(4096, 56)
  reply.writeUInt32LE(255, 60)
  reply.writeUInt32LE(4096, 64)
  return reply
}

/** Answers READDIR with the entries from number `offset` on, as many as fit into `sizeBytes`. */
export function encodeDirectory (unique: bigint, entries: readonly FuseDirectoryEntry[], offset: number, sizeBytes: number): Buffer {
  const parts: Buffer[] = []
  let total = 0
  for (const [index, entry] of entries.entries()) {
    if (index < offset) continue
    const name = Buffer.from(entry.name)
    const record = Buffer.alloc(Math.ceil((24 + name.length) / 8) * 8)
    if (total + record.length > sizeBytes) break
    record.writeBigUInt64LE(entry.nodeId, 0)
    // Where to go on, not where it stands.
    record.writeBigUInt64LE(BigInt(index + 1), 8)
    record.writeUInt32LE(name.length, 16)
    record.writeUInt32LE((entry.isDirectory ? directoryMode : fileMode) >> 12, 20)
    name.copy(record, 24)
    parts.push(record)
    total += record.length
  }
  const reply = allocateReply(unique, total)
  Buffer.concat(parts).copy(reply, outHeaderBytes)
  return reply
}

/** FUSE_NOTIFY_RESEND: asks for every request again that has been given out and not been answered. Linux 6.9 and later. */
export function encodeResend (): Buffer {
  const notice = allocateReply(0n, 0)
  notice.writeInt32LE(notifyResend, 4)
  return notice
}

function allocateReply (unique: bigint, payloadBytes: number): Buffer {
  const reply = Buffer.alloc(outHeaderBytes + payloadBytes)
  writeReplyHeader(reply, unique, payloadBytes)
  return reply
}

/** fuse_attr, 88 bytes; times, owner and device stay 0. */
function writeAttributes (reply: Buffer, at: number, { nodeId, sizeBytes, isDirectory }: FuseNode): void {
  reply.writeBigUInt64LE(nodeId, at)
  reply.writeBigUInt64LE(BigInt(sizeBytes), at + 8)
  reply.writeBigUInt64LE(BigInt(Math.ceil(sizeBytes / 512)), at + 16)
  reply.writeUInt32LE(isDirectory ? directoryMode : fileMode, at + 60)
  reply.writeUInt32LE(isDirectory ? 2 : 1, at + 64)
  reply.writeUInt32LE(4096, at + 80)
}
