const blockBytes = 64 * 1024

/** How many are read at once: twice what Node's thread pool does, which is where more would only wait. */
const maxBlocks = 8

/** Buffers that are borrowed while a block is read and parsed: readings that wait need none. */
export class BlockPool {
  readonly #free: Buffer[] = []
  readonly #waiting: Array<(block: Buffer) => void> = []
  #made = 0

  /** The block is the caller's until what it returns has settled. */
  async use<T> (work: (block: Buffer) => Promise<T>): Promise<T> {
    const block = await this.#borrow()
    try {
      return await work(block)
    } finally {
      const next = this.#waiting.shift()
      if (next) next(block)
      else this.#free.push(block)
    }
  }

  #borrow (): Promise<Buffer> | Buffer {
    const block = this.#free.pop()
    if (block) return block
    if (this.#made < maxBlocks) {
      this.#made++
      return Buffer.allocUnsafeSlow(blockBytes)
    }
    return new Promise(resolve => { this.#waiting.push(resolve) })
  }
}
