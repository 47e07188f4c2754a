/** The latest events, numbered from 1 without a gap, for any number of readers; an old one makes room for the next. A slow reader costs no memory, but events. */
export class EventRing<T extends { seq: number }> {
  readonly #capacity: number
  readonly #kept: T[] = []
  #lastSeq = 0
  #isClosed = false
  #appended = Promise.withResolvers<void>()

  constructor (options: { capacity: number }) {
    this.#capacity = options.capacity
  }

  append (make: (seq: number) => T): void {
    const seq = ++this.#lastSeq
    this.#kept[seq % this.#capacity] = make(seq)
    this.#wake()
  }

  /** What is kept since `after`, then what comes, until the ring is closed or the signal aborted. */
  async * read (after: number, signal: AbortSignal): AsyncGenerator<T> {
    const onAbort = () => this.#wake()
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      let next = after + 1
      while (!signal.aborted) {
        next = Math.max(next, this.#lastSeq - this.#capacity + 1)
        if (next <= this.#lastSeq) yield this.#kept[next++ % this.#capacity]!
        else if (this.#isClosed) return
        else await this.#appended.promise
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /** Readers end when they have read what is there. */
  close (): void {
    this.#isClosed = true
    this.#wake()
  }

  #wake (): void {
    this.#appended.resolve()
    this.#appended = Promise.withResolvers()
  }
}
