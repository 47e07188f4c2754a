/** Content that is the same on every machine and that gzip makes about half as large, as it does with programs and libraries. */
import { createCipheriv, createHash, type Cipheriv } from 'node:crypto'
import { open } from 'node:fs/promises'

const pieceBytes = 64 * 1024
const chunkBytes = 1024 ** 2

export class HalfCompressible {
  readonly #cipher: Cipheriv

  constructor (seed: string) {
    const key = createHash('sha256').update(seed).digest()
    this.#cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  }

  /** Writes a file of so many bytes; what it holds depends on all that was written before. */
  async writeFile (path: string, bytes: number): Promise<void> {
    await using file = await open(path, 'wx', 0o644)
    for (let left = bytes; left > 0; left -= chunkBytes) await file.write(this.#chunk(Math.min(left, chunkBytes)))
  }

  /** Bytes at random with only four bits each, so that half of them is left. */
  #chunk (bytes: number): Buffer {
    const chunk = this.#cipher.update(Buffer.alloc(Math.min(bytes, pieceBytes)))
    for (let i = 0; i < chunk.length; i++) chunk[i] = 0x40 | (chunk[i] ?? 0) & 0x0f
    const parts: Buffer[] = []
    for (let left = bytes; left > 0; left -= chunk.length) parts.push(this.#stir(chunk).subarray(0, left))
    return Buffer.concat(parts)
  }

  /** Repeats within gzip's window of 32 KiB there are none: pieces are larger. */
  #stir (chunk: Buffer): Buffer {
    const turn = this.#cipher.update(Buffer.alloc(1))[0] ?? 0
    return Buffer.concat([chunk.subarray(turn), chunk.subarray(0, turn)])
  }
}
