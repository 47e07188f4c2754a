/** Bytes that pass through the kernel alone, from one connection of this process to another: a program of ours moves them by splice(2). */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import { cleanEnv } from './command.ts'
import { startProgram } from './spawn.ts'

/** How a splice came out; its program's exit codes, in their order. */
const outcomes = ['done', 'source_ended', 'source_stalled', 'sink_stalled', 'sink_closed'] as const
export type SpliceOutcome = typeof outcomes[number] | 'failed'

export interface SpliceOptions {
  /** Where bytes come from: one that `holdReading` has stopped. */
  source: Socket
  /** Where they go: one on which nothing of this process waits to be written. One of the two is a pipe. */
  sink: Socket
  bytes: number
  /** With its length before each MiB. */
  isFramed: boolean
  /** How long either side may stand still. */
  stallMs: number
}

export interface Splice {
  /** Never rejects. */
  ended: Promise<SpliceOutcome>
  /** Breaks it off. One that has ended is fine. */
  kill: () => void
}

/** What Node keeps of a connection below its stream; no public name leads to the descriptor. */
interface Handle {
  fd: number
  reading: boolean
  readStop: () => void
}

const splicePath = join(import.meta.dirname, '../../build/splice')

/** Whether a connection can be spliced: it is open, and there is nothing but the kernel below it, TLS neither. */
export function isSpliceable (socket: Socket | null | undefined): socket is Socket {
  return socket != null && !socket.destroyed && !(socket instanceof TLSSocket) && (handleOf(socket)?.fd ?? -1) >= 0
}

/**
 * Has Node read no more of a connection, for good, and answers what it has read and nobody has taken. The rest of it stays in the kernel.
 * Nothing may be waiting for it, and it is to be destroyed afterwards.
 */
export function holdReading (socket: Socket): Buffer[] {
  const held = readHeld(socket)
  stopReading(socket)
  return held
}

/** The same for the body of a request; the rest of the connection is the rest of the body. */
export function holdBody (request: IncomingMessage): Buffer[] {
  const { socket } = request
  // Node's HTTP server asks this before it reads on for a request that is read (lib/_http_server.js, onSocketResume).
  Object.assign(socket, { _paused: true })
  socket.pause()
  stopReading(socket)
  const held = readHeld(request)
  stopReading(socket)
  return held
}

/** What a stream has, and nobody has taken. Asking for it may have more read: that is stopped afterwards. */
function readHeld (stream: Readable): Buffer[] {
  const held: Buffer[] = []
  for (let chunk = stream.read() as Buffer | null; chunk !== null; chunk = stream.read() as Buffer | null) held.push(chunk)
  return held
}

function stopReading (socket: Socket): void {
  const handle = handleOf(socket)
  if (!handle) return
  handle.reading = false
  handle.readStop()
}

export function startSplice ({ source, sink, bytes, isFramed, stallMs }: SpliceOptions): Splice {
  const [from, to] = [handleOf(source)?.fd ?? -1, handleOf(sink)?.fd ?? -1]
  if (from < 0 || to < 0) return { ended: Promise.resolve('failed'), kill: () => {} }
  const argv = ['splice', isFramed ? 'framed' : 'plain', String(bytes), String(stallMs)]
  const { ended, kill } = startProgram(splicePath, { argv, env: cleanEnv, cwd: '/', stdio: [from, to, null], isSessionLeader: false })
  return { ended: ended.then(({ exitCode }) => outcomes[exitCode ?? -1] ?? 'failed'), kill: () => kill('SIGKILL') }
}

function handleOf (socket: Socket): Handle | undefined {
  return (socket as unknown as { _handle: Handle | null })._handle ?? undefined
}
