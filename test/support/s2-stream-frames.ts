/**
 * Frames of an s2s session (https://s2.dev/docs/api/protocol): three bytes of length, one of flags
 * (0x80 terminal, 0x60 compression, 0x10 reconnect advised), then the body; a terminal body begins with two bytes of status.
 */
import { gunzipSync, zstdDecompressSync } from 'node:zlib'

const maximumFrameBytes = 2 * 1024 * 1024

export function frame (body: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(4)
  head.writeUIntBE(body.length + 1, 0, 3)
  head[3] = flags
  return Buffer.concat([head, body])
}

export function terminalFrame (status: number, answer: unknown): Buffer {
  const code = Buffer.alloc(2)
  code.writeUInt16BE(status)
  return frame(Buffer.concat([code, Buffer.from(JSON.stringify(answer))]), 0x80)
}

/** Cuts what arrives into the bodies of frames. */
export class FrameReader {
  #chunks: Buffer[] = []
  #length = 0

  /** The bodies of the frames that are whole. @throws on a frame that no client may send. */
  push (chunk: Buffer): Buffer[] {
    this.#chunks.push(chunk)
    this.#length += chunk.length
    const bodies: Buffer[] = []
    for (let length = this.#frameBytes(); length !== undefined && this.#length >= length; length = this.#frameBytes()) {
      const all = Buffer.concat(this.#chunks)
      bodies.push(decompress(all.subarray(4, length), ((all[3] ?? 0) & 0x60) >> 5))
      this.#chunks = [all.subarray(length)]
      this.#length -= length
    }
    return bodies
  }

  /** Of the frame that comes next, with its length; undefined before that is there. */
  #frameBytes (): number | undefined {
    if (this.#length < 4) return undefined
    if ((this.#chunks[0]?.length ?? 0) < 4) this.#chunks = [Buffer.concat(this.#chunks)]
    const length = this.#chunks[0]?.readUIntBE(0, 3) ?? 0
    if (length < 1 || length > maximumFrameBytes) throw new Error(`a frame of ${length} bytes`)
    return length + 3
  }
}

function decompress (body: Buffer, method: number): Buffer {
  if (method === 0) return body
  if (method === 1) return zstdDecompressSync(body)
  if (method === 2) return gunzipSync(body)
  throw new Error(`compression ${method}`)
}
