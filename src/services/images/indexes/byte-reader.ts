const newline = 0x0a

/** Reads chunks as they come by line and by length. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor (chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  /** The bytes up to the next line feed, without it; undefined when there is none within so many bytes. */
  async readLine (maxBytes: number): Promise<Buffer | undefined> {
    for (;;) {
      const end = this.#rest.subarray(0, maxBytes).indexOf(newline)
      if (end >= 0) {
        const line = this.#rest.subarray(0, end)
        this.#rest = this.#rest.subarray(end + 1)
        return line
      }
      if (this.#rest.length >= maxBytes) return undefined
      const next = await this.#next()
      if (!next) return undefined
      this.#rest = Buffer.concat([this.#rest, next])
    }
  }

  /** Yields so many bytes, or fewer where they end. */
  async * take (bytes: number): AsyncGenerator<Buffer, void, undefined> {
    let left = bytes
    while (left > 0) {
      const chunk = this.#rest.length > 0 ? this.#rest : await this.#next()
      if (!chunk) return
      this.#rest = chunk.subarray(left)
      left -= Math.min(left, chunk.length)
      yield chunk.subarray(0, chunk.length - this.#rest.length)
    }
  }

  async isAtEnd (): Promise<boolean> {
    if (this.#rest.length > 0) return false
    const next = await this.#next()
    if (next) this.#rest = next
    return next === undefined
  }

  /** Lets go of the source. */
  async close (): Promise<void> {
    await this.#chunks.return?.()
  }

  /** The next chunk that is not empty. */
  async #next (): Promise<Buffer | undefined> {
    for (;;) {
      const next = await this.#chunks.next()
      if (next.done === true) return undefined
      if (next.value.length > 0) return next.value
    }
  }
}
