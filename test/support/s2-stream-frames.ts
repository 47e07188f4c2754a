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
  #rest = Buffer.alloc(0)

  /** The bodies of the frames that are whole. @throws on a frame that no client may send. */
  push (chunk: Buffer): Buffer[] {
    this.#rest = Buffer.concat([this.#rest, chunk])
    const bodies: Buffer[] = []
    while (this.#rest.length >= 4) {
      const length = this.#rest.readUIntBE(0, 3)
      if (length < 1 || length > maximumFrameBytes) throw new Error(`a frame of ${length} bytes`)
      if (this.#rest.length < length + 3) break
      const flags = this.#rest[3] ?? 0
      const body = this.#rest.subarray(4, length + 3)
      this.#rest = this.#rest.subarray(length + 3)
      bodies.push(decompress(body, (flags & 0x60) >> 5))
    }
    return bodies
  }
}

function decompress (body: Buffer, method: number): Buffer {
  if (method === 0) return body
  if (method === 1) return zstdDecompressSync(body)
  if (method === 2) return gunzipSync(body)
  throw new Error(`compression ${method}`)
}
