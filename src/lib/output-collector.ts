/** Keeps the first bytes of a stream up to a cap, and knows whether there was more. */
export class OutputCollector {
  readonly #maxBytes: number
  readonly #chunks: Buffer[] = []
  #bytes = 0
  isTruncated = false

  constructor (maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  add (chunk: Buffer): void {
    const room = this.#maxBytes - this.#bytes
    if (chunk.length > room) this.isTruncated = true
    if (room <= 0) return
    const kept = chunk.length > room ? chunk.subarray(0, room) : chunk
    this.#chunks.push(kept)
    this.#bytes += kept.length
  }

  text (encoding: 'utf8' | 'base64'): string {
    return Buffer.concat(this.#chunks).toString(encoding)
  }
}
