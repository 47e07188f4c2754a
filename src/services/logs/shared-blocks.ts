import type { LogRecord } from '../../schemas/log.ts'
import type { ParserState } from './log-parser.ts'

/** What was read and parsed in one go. Readings share it: nobody changes it. */
export interface ParsedBlock {
  /** How much of the file was read; 0: there was nothing more. */
  bytes: number
  records: LogRecord[]
  /** Where parsing goes on. */
  next: ParserState
}

interface Entry {
  block: Promise<ParsedBlock>
  version: number
  cost: number
}

/** All together, in bytes as estimated. */
const budgetBytes = 8 * 1024 ** 2

/** A block's records, and what they are encoded to, take about this many times its bytes, and this much beside. */
const costFactor = 6
const costBase = 1024

/** Blocks of logs that are followed by several: read and parsed once. A bounded number; the oldest go. */
export class SharedBlocks {
  readonly #entries = new Map<string, Entry>()
  #cost = 0

  /** What is taken at the moment, in bytes as estimated. */
  get cost (): number {
    return this.#cost
  }

  /**
   * The block of this name, loaded at most once. That there is nothing more is only believed where the look began at
   * the given version or later; Infinity: where it began now.
   */
  async get (key: string, version: number, load: () => Promise<ParsedBlock>): Promise<ParsedBlock> {
    const known = this.#entries.get(key)
    if (known) {
      const block = await known.block
      if (block.bytes > 0 || known.version >= version) return block
      // Somebody else may have looked meanwhile.
      const newer = this.#entries.get(key)
      if (newer && newer !== known) return await this.get(key, version, load)
      this.#remove(key)
    }
    const entry: Entry = { block: load(), version, cost: costBase }
    this.#entries.set(key, entry)
    this.#cost += entry.cost
    try {
      const block = await entry.block
      if (this.#entries.get(key) === entry) {
        entry.cost += block.bytes * costFactor
        this.#cost += block.bytes * costFactor
        if (block.bytes === 0 && version === Infinity) this.#remove(key)
        this.#shrink()
      }
      return block
    } catch (error) {
      if (this.#entries.get(key) === entry) this.#remove(key)
      throw error
    }
  }

  /** Forgets every block whose name begins like this. */
  forget (prefix: string): void {
    for (const key of [...this.#entries.keys()]) if (key.startsWith(prefix)) this.#remove(key)
  }

  #shrink (): void {
    for (const key of this.#entries.keys()) {
      if (this.#cost <= budgetBytes) return
      this.#remove(key)
    }
  }

  #remove (key: string): void {
    this.#cost -= this.#entries.get(key)?.cost ?? 0
    this.#entries.delete(key)
  }
}
