/** The latest output of a terminal in memory: what viewers who keep up take it from, without a copy for each. */
export class OutputRing {
  readonly #maxBytes: number
  readonly #maxChunks: number
  readonly #chunks: Array<{ offset: number, bytes: Buffer }> = []
  #bytes = 0
  #end = 0

  constructor ({ maxBytes, maxChunks }: { maxBytes: number, maxChunks: number }) {
    this.#maxBytes = maxBytes
    this.#maxChunks = maxChunks
  }

  /** Offset behind the last byte that is known of. */
  get end (): number { return this.#end }

  /** Output from this offset on. What is known already is left out; where some is missing before it, nothing older is held any more. */
  append (offset: number, bytes: Buffer): void {
    const known = this.#end - offset
    if (known >= bytes.length) return
    if (known < 0) this.advance(offset)
    const fresh = known > 0 ? bytes.subarray(known) : bytes
    this.#chunks.push({ offset: this.#end, bytes: own(fresh) })
    this.#bytes += fresh.length
    this.#end += fresh.length
    while (this.#bytes > this.#maxBytes || this.#chunks.length > this.#maxChunks) this.#bytes -= this.#chunks.shift()?.bytes.length ?? 0
  }

  /** There is output up to this offset, which is not held here. */
  advance (offset: number): void {
    if (offset <= this.#end) return
    this.#end = offset
    this.clear()
  }

  /** Holds nothing any more; the end stays. */
  clear (): void {
    this.#chunks.length = 0
    this.#bytes = 0
  }

  /** Output from an offset on, at most so many bytes; undefined where that is not held. */
  read (from: number, maxBytes: number): Buffer | undefined {
    let index = this.#chunks.length - 1
    while (index >= 0 && (this.#chunks[index]?.offset ?? 0) > from) index--
    const first = this.#chunks[index]
    if (!first || from >= this.#end) return undefined
    const parts = [first.bytes.subarray(from - first.offset)]
    let length = parts[0]?.length ?? 0
    for (const { bytes } of this.#chunks.slice(index + 1)) {
      if (length + bytes.length > maxBytes) break
      parts.push(bytes)
      length += bytes.length
    }
    return (parts.length === 1 ? parts[0] : Buffer.concat(parts, length))?.subarray(0, maxBytes)
  }
}

/** A few bytes out of a large read would keep all of it. */
function own (bytes: Buffer): Buffer {
  return bytes.buffer.byteLength > bytes.length * 2 ? Buffer.from(bytes) : bytes
}
