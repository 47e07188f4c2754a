import { spanAt, type SpanTable } from './span-table.ts'

/** What a FUSE server looks up: fixed, and small against a span. */
export const granuleBytes = 64 * 1024

/**
 * Which spans of a layer are in its local file, and, for a thread that answers reads, which granules of that file may be read:
 * a granule counts when every span that touches it is here.
 */
export class SpanPresence {
  /** Bit i (of byte i / 8, least significant first) is set once granule i is here. Only ever set, with Atomics. */
  readonly granules: SharedArrayBuffer
  readonly #table: SpanTable
  readonly #bits: Buffer
  #localBytes = 0
  #missing: number

  /** `bits` as `toString` made them; anything else counts as nothing. */
  constructor (table: SpanTable, bits?: string) {
    this.#table = table
    this.granules = new SharedArrayBuffer(Math.ceil(Math.ceil(table.tarBytes / granuleBytes) / 8))
    this.#bits = Buffer.alloc(Math.ceil(table.spans.length / 8))
    this.#missing = table.spans.length
    const saved = Buffer.from(bits ?? '', 'base64')
    if (saved.length !== this.#bits.length) return
    for (let i = 0; i < table.spans.length; i++) if (((saved[i >> 3] ?? 0) >> (i & 7) & 1) === 1) this.mark(i)
  }

  get localBytes (): number {
    return this.#localBytes
  }

  get isComplete (): boolean {
    return this.#missing === 0
  }

  has (index: number): boolean {
    return ((this.#bits[index >> 3] ?? 0) >> (index & 7) & 1) === 1
  }

  /** The data of this span is in the file. */
  mark (index: number): void {
    const span = this.#table.spans[index]
    if (!span || this.has(index)) return
    this.#bits[index >> 3] = (this.#bits[index >> 3] ?? 0) | 1 << (index & 7)
    this.#missing--
    this.#localBytes += span.tarEnd - span.tarStart
    const granules = new Uint8Array(this.granules)
    for (let i = Math.floor(span.tarStart / granuleBytes); i * granuleBytes < span.tarEnd; i++) {
      if (this.#isGranuleHere(i)) Atomics.or(granules, i >> 3, 1 << (i & 7))
    }
  }

  /** The first span from this one on that is not here, or undefined. */
  firstMissing (from: number): number | undefined {
    for (let i = from; i < this.#table.spans.length; i++) if (!this.has(i)) return i
    return undefined
  }

  toString (): string {
    return this.#bits.toString('base64')
  }

  #isGranuleHere (granule: number): boolean {
    const end = Math.min((granule + 1) * granuleBytes, this.#table.tarBytes)
    for (let i = spanAt(this.#table, granule * granuleBytes); (this.#table.spans[i]?.tarStart ?? end) < end; i++) {
      if (!this.has(i)) return false
    }
    return true
  }
}
