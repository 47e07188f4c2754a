/**
 * The thread of a FuseFileServer: waits for requests of the kernel and answers them, in this one loop, for as long as the mount lives.
 * It never waits for what is missing: that read is set aside until the main thread says that its range has come.
 */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { FuseDirectory, isPresent, type FuseFile } from './fuse-directory.ts'
import {
  decodeInterrupt, decodeName, decodeRead, decodeRequest, encodeEmpty, encodeError, maxReadBytes, opcodes, outHeaderBytes, requestBufferBytes, rootNodeId, writeReplyHeader,
  type FuseRequest,
} from './fuse-protocol.ts'
import { controlWords, type FromWorker, type ToWorker, type WorkerSettings } from './fuse-worker-messages.ts'
import { waitReadable } from './libc.ts'

interface ServedFile extends FuseFile {
  dataFd: number | undefined
}

/** A READ that waits for its range. */
interface WaitingRead {
  nodeId: bigint
  offset: number
  sizeBytes: number
  pid: number
}

const { EIO, EINTR, EISDIR } = constants.errno
// How soon a reader that was killed goes away.
const interruptedCheckMs = 200

const { fd, wakeFd, control, files } = workerData as WorkerSettings
const directory = new FuseDirectory<ServedFile>()
const waiting = new Map<bigint, WaitingRead>()
/** Those of them whose reader got a signal: if it ends the reader, that cannot end before it has an answer. */
const interrupted = new Set<bigint>()
let lastCheckAtMs = 0
const requestBuffer = Buffer.alloc(requestBufferBytes)
const wakeBuffer = Buffer.alloc(16)
let replyBuffer = Buffer.alloc(outHeaderBytes + maxReadBytes)

for (const file of files) add(file)
tell({ kind: 'ended', reason: serve() })

function serve (): 'closed' | 'unmounted' {
  for (;;) {
    const [isWoken, hasRequest] = waitReadable([wakeFd, fd], interrupted.size > 0 ? interruptedCheckMs : -1)
    if (isWoken) {
      readSync(wakeFd, wakeBuffer)
      Atomics.store(control, controlWords.isWoken, 0)
    }
    if (Atomics.load(control, controlWords.isClosing) === 1) return 'closed'
    takeMessages()
    if (hasRequest && !takeRequest()) return 'unmounted'
    if (interrupted.size > 0) releaseKilledReaders()
  }
}

function takeMessages (): void {
  for (;;) {
    const message = parentPort && receiveMessageOnPort(parentPort)?.message as ToWorker | undefined
    if (!message) return
    switch (message.kind) {
      case 'add':
        add(message.file)
        break
      case 'remove':
        remove(message.name)
        break
      case 'settled':
        settle(message.unique, message.isThere)
    }
  }
}

function add (file: FuseFile): void {
  const former = directory.remove(file.name)
  if (former) closeData(former)
  directory.add({ ...file, dataFd: undefined })
}

function remove (name: string): void {
  const file = directory.remove(name)
  if (!file) return
  closeData(file)
  for (const [unique, read] of waiting) if (read.nodeId === file.nodeId) refuse(unique, EIO)
}

function closeData (file: ServedFile): void {
  if (file.dataFd !== undefined) closeSync(file.dataFd)
  file.dataFd = undefined
}

/** Takes one request and answers it. False when the mount is gone. */
function takeRequest (): boolean {
  let length
  try {
    length = readSync(fd, requestBuffer)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // Interrupted before it was given out: nothing to do.
    if (code === 'EAGAIN' || code === 'ENOENT' || code === 'EINTR') return true
    if (code === 'ENODEV' || code === 'ECONNABORTED') return false
    throw error
  }
  const request = decodeRequest(requestBuffer, length)
  if (request.opcode === opcodes.interrupt) markInterrupted(decodeInterrupt(request.body))
  else if (request.opcode === opcodes.read) takeRead(request)
  else answer(request)
  return true
}

function answer (request: FuseRequest): void {
  // A file may have been added since this loop looked.
  if (request.opcode === opcodes.lookup && !directory.findByName(decodeName(request.body))) takeMessages()
  const reply = directory.answer(request)
  if (reply) write(reply, reply.length)
}

function takeRead ({ unique, nodeId, pid, body }: FuseRequest): void {
  if (nodeId === rootNodeId) return refuse(unique, EISDIR)
  const { offset, sizeBytes } = decodeRead(body)
  const file = directory.find(nodeId)
  if (!file) return refuse(unique, EIO)
  if (offset >= file.sizeBytes) return write(encodeEmpty(unique), outHeaderBytes)
  const read = { nodeId, offset, sizeBytes: Math.min(sizeBytes, file.sizeBytes - offset), pid }
  if (isPresent(file, offset, offset + read.sizeBytes)) return answerRead(unique, file, read)
  waiting.set(unique, read)
  tell({ kind: 'missing', unique, name: file.name, startByte: offset, endByte: offset + read.sizeBytes })
}

function settle (unique: bigint, isThere: boolean): void {
  const read = waiting.get(unique)
  if (!read) return
  const file = directory.find(read.nodeId)
  if (!isThere || !file) return refuse(unique, EIO)
  if (!isPresent(file, read.offset, read.offset + read.sizeBytes)) {
    tell({ kind: 'log', message: 'a range was reported as present and is not', fields: { name: file.name, startByte: read.offset } })
    return refuse(unique, EIO)
  }
  forget(unique)
  answerRead(unique, file, read)
}

function answerRead (unique: bigint, file: ServedFile, { offset, sizeBytes }: WaitingRead): void {
  if (replyBuffer.length < outHeaderBytes + sizeBytes) replyBuffer = Buffer.alloc(outHeaderBytes + sizeBytes)
  try {
    file.dataFd ??= openSync(file.dataPath, 'r')
    for (let done = 0; done < sizeBytes;) {
      const got = readSync(file.dataFd, replyBuffer, outHeaderBytes + done, sizeBytes - done, offset + done)
      if (got === 0) throw new Error('the local file is shorter than its size')
      done += got
    }
  } catch (error) {
    tell({ kind: 'log', message: 'a local file could not be read', fields: { name: file.name, startByte: offset, cause: (error as Error).message } })
    return refuse(unique, EIO)
  }
  writeReplyHeader(replyBuffer, unique, sizeBytes)
  write(replyBuffer, outHeaderBytes + sizeBytes)
}

function refuse (unique: bigint, errno: number): void {
  forget(unique)
  write(encodeError(unique, errno), outHeaderBytes)
}

function forget (unique: bigint): void {
  waiting.delete(unique)
  interrupted.delete(unique)
}

/** One write(2) for one answer: the kernel takes nothing else. */
function write (reply: Buffer, length: number): void {
  try {
    writeSync(fd, reply, 0, length)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    // Nobody waits for it any more, or the mount is gone, which the next read tells.
    if (code === 'ENOENT' || code === 'ENODEV' || code === 'ECONNABORTED') return
    tell({ kind: 'log', message: 'the kernel refused an answer', fields: { code, length } })
  }
}

/**
 * Any signal interrupts, also one that the reader takes and goes on, as Go's runtime sends itself all the time: an error would reach
 * a program that did nothing wrong. So only a reader that is being killed is let go, and it is looked for until its read is answered.
 */
function markInterrupted (unique: bigint): void {
  if (waiting.has(unique)) interrupted.add(unique)
}

function releaseKilledReaders (): void {
  if (performance.now() - lastCheckAtMs < interruptedCheckMs) return
  lastCheckAtMs = performance.now()
  for (const unique of interrupted) if (isBeingKilled(waiting.get(unique)?.pid ?? 0)) refuse(unique, EINTR)
}

/** Whether SIGKILL is pending for a thread: bit 8 of its own or its process's set (proc(5), /proc/<pid>/status). */
function isBeingKilled (pid: number): boolean {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    return [...status.matchAll(/^S(?:ig|hd)Pnd:\s*([0-9a-f]+)$/gm)].some(([, set]) => (BigInt(`0x${set}`) & 0x100n) !== 0n)
  } catch {
    return false
  }
}

function tell (message: FromWorker): void {
  parentPort?.postMessage(message)
}
