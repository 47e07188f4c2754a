import type { IncomingMessage } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import { BerthError } from '../../errors.ts'
import { holdBody } from '../../host/splice.ts'
import { bodyStalled, clientGone, programSilent } from './file-problems.ts'
import { maxFrameBytes } from './file-protocol.ts'
import type { FileRun } from './file-run.ts'

/** So much waits for the program at most, beside one chunk; the rest waits where it comes from. */
const heldBytes = 512 * 1024
const lengthBytes = 4
const endFrame = Buffer.alloc(lengthBytes)

/**
 * Writes a source into the program's input, as frames, and says at its end that this was all. A source that breaks off is never
 * said to be complete. Resolves when the last frame is written, or the input is closed: the program says why.
 *
 * @param stallMs how long the source, or the program, may stand still.
 * @throws BerthError timed_out `request_too_slow` or `file_program_silent`; cancelled `client_gone`;
 * invalid_argument `invalid_archive` for a source that is to be decompressed and cannot.
 */
export async function feedFrames (source: Readable, input: Writable, stallMs: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  let isFull = false
  const timer = setTimeout(() => reject(isFull ? programSilent(stallMs) : bodyStalled()), stallMs)
  const onData = (chunk: Buffer) => {
    timer.refresh()
    writeFrames(input, chunk)
    if (input.writableLength < heldBytes) return
    isFull = true
    source.pause()
  }
  const onDrain = () => {
    if (!isFull) return
    isFull = false
    timer.refresh()
    source.resume()
  }
  const onEnd = () => {
    isFull = true
    timer.refresh()
    input.end(endFrame, () => resolve())
  }
  const onBroken = (error?: NodeJS.ErrnoException) => reject(error?.code?.startsWith('Z_') ? notCompressed(error) : clientGone(error))
  const onClose = () => { if (!source.readableEnded) onBroken() }
  const listeners: Array<[Readable | Writable, string, (...args: never[]) => void]> = [
    [source, 'data', onData], [source, 'end', onEnd], [source, 'error', onBroken], [source, 'close', onClose], [input, 'drain', onDrain], [input, 'close', resolve],
  ]
  for (const [emitter, event, listener] of listeners) emitter.on(event, listener as () => void)
  // An error that comes when nobody waits any more must not be nobody's.
  source.on('error', () => {})
  try {
    if (source.destroyed && !source.readableEnded) onBroken(source.errored ?? undefined)
    else if (input.destroyed) resolve()
    else source.resume()
    await promise
  } finally {
    clearTimeout(timer)
    for (const [emitter, event, listener] of listeners) emitter.off(event, listener as () => void)
    source.pause()
  }
}

/**
 * As feedFrames, for a request whose body has this length: what Node has not read of it yet passes through the kernel alone. Its connection
 * serves no other request afterwards.
 *
 * @param onHeld called when Node reads no more of it.
 * @throws BerthError as feedFrames.
 */
export async function spliceFrames (request: IncomingMessage, run: FileRun, options: { bytes: number, stallMs: number, onHeld: () => void }): Promise<void> {
  const { bytes, stallMs, onHeld } = options
  const held = Buffer.concat(holdBody(request)).subarray(0, bytes)
  onHeld()
  await new Promise<void>(resolve => {
    run.stdin.once('close', resolve)
    writeFrames(run.stdin, held)
    // Behind all that was written before.
    run.stdin.write(Buffer.alloc(0), () => resolve())
  })
  if (bytes > held.length) await run.takeFrom(request.socket, { bytes: bytes - held.length, stallMs })
  await new Promise<void>(resolve => {
    run.stdin.once('close', resolve)
    run.stdin.end(endFrame, resolve)
  })
}

function writeFrames (input: Writable, chunk: Buffer): void {
  for (let start = 0; start < chunk.length; start += maxFrameBytes) {
    const piece = chunk.subarray(start, start + maxFrameBytes)
    const head = Buffer.allocUnsafe(lengthBytes)
    head.writeUInt32BE(piece.length)
    input.cork()
    input.write(head)
    input.write(piece)
    input.uncork()
  }
}

function notCompressed (cause: Error): BerthError {
  return new BerthError('invalid_argument', 'invalid_archive', 'the body is not what its Content-Encoding says', { cause })
}
