const firstBytes = 16 * 1024

/**
 * The latest output of a terminal in memory: what viewers who keep up take it from. Bytes are copied in and out, since memory that is made
 * for each piece and given up again would have to be collected many times a second while a terminal is flooded.
 */
export class OutputRing {
  readonly #maxBytes: number
  /** Grows up to `maxBytes` with what is appended at once; the byte of an offset is at the offset modulo its size. */
  #memory: Buffer
  #begin = 0
  #end = 0

  constructor ({ maxBytes }: { maxBytes: number }) {
    this.#maxBytes = maxBytes
    this.#memory = Buffer.alloc(0)
  }

  /** Offset behind the last byte that is known of. */
  get end (): number { return this.#end }

  /** Output from this offset on. What is known already is left out; where some is missing before it, nothing older is held any more. */
  append (offset: number, bytes: Buffer): void {
    const known = this.#end - offset
    if (known >= bytes.length) return
    if (known < 0) this.advance(offset)
    let fresh = known > 0 ? bytes.subarray(known) : bytes
    this.#makeRoom(fresh.length)
    const size = this.#memory.length
    if (fresh.length > size) {
      this.#end += fresh.length - size
      fresh = fresh.subarray(fresh.length - size)
    }
    const at = this.#end % size
    const fitting = fresh.copy(this.#memory, at)
    fresh.copy(this.#memory, 0, fitting)
    this.#end += fresh.length
    this.#begin = Math.max(this.#begin, this.#end - size)
  }

  /** There is output up to this offset, which is not held here. */
  advance (offset: number): void {
    if (offset <= this.#end) return
    this.#end = offset
    this.#begin = offset
  }

  /** Holds nothing any more; the end stays. */
  clear (): void {
    this.#begin = this.#end
    this.#memory = Buffer.alloc(0)
  }

  /** Output from an offset on: as much as there is room for in `into`, of which it answers the filled part; undefined where that is not held. */
  read (from: number, into: Buffer): Buffer | undefined {
    if (from < this.#begin || from >= this.#end) return undefined
    const length = Math.min(this.#end - from, into.length)
    const at = from % this.#memory.length
    const copied = this.#memory.copy(into, 0, at, Math.min(at + length, this.#memory.length))
    this.#memory.copy(into, copied, 0, length - copied)
    return into.subarray(0, length)
  }

  #makeRoom (bytes: number): void {
    const needed = this.#end - this.#begin + bytes
    if (needed <= this.#memory.length || this.#memory.length === this.#maxBytes) return
    let size = Math.max(firstBytes, this.#memory.length)
    while (size < needed) size *= 2
    const memory = Buffer.allocUnsafeSlow(Math.min(size, this.#maxBytes))
    // What is held keeps its offsets, which are at other places now.
    const held = Buffer.allocUnsafe(this.#end - this.#begin)
    this.read(this.#begin, held)
    this.#memory = memory
    const at = this.#begin % memory.length
    const fitting = held.copy(memory, at)
    held.copy(memory, 0, fitting)
  }
}
