/** The frames of pty-protocol.ts as bytes, for both ends. */
import { BerthError } from '../../../errors.ts'
import { frameKinds } from './pty-protocol.ts'

export interface PtyFrame {
  /** One of `frameKinds`. */
  kind: number
  /** Empty where no terminal is meant. */
  terminalId: string
  /** May be a view of the chunk that it came in. */
  payload: Buffer
}

/** u32le length, u8 kind, 24 bytes terminal id. */
export const frameHeaderBytes = 29
/** The largest frame that either end may send, all in all. Screens and requests are smaller by far. */
export const maxPtyFrameBytes = 16 * 1024 ** 2

const idBytes = 24
const lengthBytes = 4
const offsetBytes = 8
const takenBytes = 4
const lastKind = Math.max(...Object.values(frameKinds))

/** What stands before a payload of this many bytes. */
export function encodeFrameHeader (kind: number, terminalId: string, payloadBytes: number): Buffer {
  const header = Buffer.alloc(frameHeaderBytes)
  writeHeader(header, kind, terminalId, payloadBytes)
  return header
}

export function encodeFrame (kind: number, terminalId: string, payload: Uint8Array): Buffer {
  const frame = Buffer.alloc(frameHeaderBytes + payload.length)
  writeHeader(frame, kind, terminalId, payload.length)
  frame.set(payload, frameHeaderBytes)
  return frame
}

export function encodeJsonFrame (kind: number, terminalId: string, value: unknown): Buffer {
  return encodeFrame(kind, terminalId, Buffer.from(JSON.stringify(value)))
}

/** What stands before so many bytes of output. */
export function encodeOutputHeader (terminalId: string, offset: number, outputBytes: number): Buffer {
  const header = Buffer.alloc(frameHeaderBytes + offsetBytes)
  writeHeader(header, frameKinds.output, terminalId, offsetBytes + outputBytes)
  header.writeDoubleLE(offset, frameHeaderBytes)
  return header
}

export function encodeAdvancedFrame (terminalId: string, offset: number): Buffer {
  const frame = Buffer.alloc(frameHeaderBytes + offsetBytes)
  writeHeader(frame, frameKinds.advanced, terminalId, offsetBytes)
  frame.writeDoubleLE(offset, frameHeaderBytes)
  return frame
}

export function encodeTakenFrame (terminalId: string, bytes: number): Buffer {
  const frame = Buffer.alloc(frameHeaderBytes + takenBytes)
  writeHeader(frame, frameKinds.taken, terminalId, takenBytes)
  frame.writeUInt32LE(bytes, frameHeaderBytes)
  return frame
}

/** Of an `output` frame. @throws BerthError `invalid_frame` */
export function decodeOutput ({ payload }: PtyFrame): { offset: number, bytes: Buffer } {
  return { offset: readOffset(payload), bytes: payload.subarray(offsetBytes) }
}

/** Of an `advanced` frame. @throws BerthError `invalid_frame` */
export function decodeAdvanced ({ payload }: PtyFrame): number {
  return readOffset(payload)
}

/** Of a `taken` frame. @throws BerthError `invalid_frame` */
export function decodeTaken ({ payload }: PtyFrame): number {
  if (payload.length !== takenBytes) throw invalidFrame('its payload is no count of bytes')
  return payload.readUInt32LE(0)
}

/** Of a frame whose payload is JSON. @throws BerthError `invalid_frame` */
export function decodeJson (frame: PtyFrame): unknown {
  try {
    return JSON.parse(frame.payload.toString('utf8'))
  } catch (cause) {
    throw new BerthError('invalid_argument', 'invalid_frame', 'a frame between daemon and pty-host holds no JSON', { cause })
  }
}

/** Takes frames out of a stream, however its reads are cut. Holds at most one frame that is not complete. */
export class FrameReader {
  readonly #maxBytes: number
  readonly #header = Buffer.alloc(frameHeaderBytes)
  #headerFill = 0
  /** Of the frame that is not complete: in `#memory`, which holds one after the other. */
  #payload: Buffer | undefined
  #payloadFill = 0
  #memory = Buffer.alloc(0)

  constructor (maxBytes = maxPtyFrameBytes) {
    this.#maxBytes = maxBytes
  }

  /**
   * Calls back for each frame that this chunk completes. Chunk and payload are lent: they are written over afterwards.
   *
   * @throws BerthError `invalid_frame` when it is not of this protocol; the connection is of no use any more.
   */
  push (chunk: Buffer, onFrame: (frame: PtyFrame) => void): void {
    let position = 0
    while (position < chunk.length) {
      if (this.#headerFill < frameHeaderBytes) {
        const copied = chunk.copy(this.#header, this.#headerFill, position, position + frameHeaderBytes - this.#headerFill)
        this.#headerFill += copied
        position += copied
        if (this.#headerFill < frameHeaderBytes) return
        this.#checkHeader()
      }
      const size = this.#payloadBytes()
      if (!this.#payload && chunk.length - position >= size) {
        position += size
        onFrame(this.#finish(chunk.subarray(position - size, position)))
        continue
      }
      if (!this.#payload) {
        if (this.#memory.length < size) this.#memory = Buffer.allocUnsafeSlow(size)
        this.#payload = this.#memory.subarray(0, size)
      }
      const copied = chunk.copy(this.#payload, this.#payloadFill, position)
      this.#payloadFill += copied
      position += copied
      if (this.#payloadFill === size) onFrame(this.#finish(this.#payload))
    }
  }

  #payloadBytes (): number {
    return this.#header.readUInt32LE(0) + lengthBytes - frameHeaderBytes
  }

  #finish (payload: Buffer): PtyFrame {
    const terminalId = this.#header[lengthBytes + 1] === 0 ? '' : this.#header.toString('latin1', lengthBytes + 1)
    const frame = { kind: this.#header[lengthBytes] ?? 0, terminalId, payload }
    this.#headerFill = 0
    this.#payload = undefined
    this.#payloadFill = 0
    return frame
  }

  #checkHeader (): void {
    const size = this.#payloadBytes()
    if (size < 0 || size > this.#maxBytes - frameHeaderBytes) throw invalidFrame(`its length of ${size + frameHeaderBytes} bytes is out of bounds`)
    const kind = this.#header[lengthBytes] ?? 0
    if (kind < 1 || kind > lastKind) throw invalidFrame(`kind ${kind} is unknown`)
  }
}

function writeHeader (frame: Buffer, kind: number, terminalId: string, payloadBytes: number): void {
  if (terminalId !== '' && terminalId.length !== idBytes) throw new Error(`a terminal id has ${idBytes} characters: ${terminalId}`)
  const size = frameHeaderBytes + payloadBytes
  if (size > maxPtyFrameBytes) throw new Error(`a frame of ${size} bytes is too large`)
  frame.writeUInt32LE(size - lengthBytes, 0)
  frame[lengthBytes] = kind
  frame.write(terminalId, lengthBytes + 1, 'latin1')
}

function readOffset (payload: Buffer): number {
  const offset = payload.length < offsetBytes ? -1 : payload.readDoubleLE(0)
  if (!Number.isSafeInteger(offset) || offset < 0) throw invalidFrame('its offset is none')
  return offset
}

function invalidFrame (problem: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_frame', `a frame between daemon and pty-host is invalid: ${problem}; they may be of different versions: restart Berth`)
}
