/**
 * Values from producers to one consumer, in order, with back-pressure: `push` answers a promise while the channel is full.
 * Ends by `close` (after what is in it), or by `fail`. A consumer that leaves early frees waiting producers.
 */
export class Channel<T> implements AsyncIterable<T> {
  readonly #capacity: number
  readonly #values: T[] = []
  #end: { error?: unknown } | undefined
  #readable = Promise.withResolvers<void>()
  #writable = Promise.withResolvers<void>()

  constructor (capacity = 16) {
    this.#capacity = capacity
  }

  push (value: T): Promise<void> | undefined {
    if (this.#end) return undefined
    this.#values.push(value)
    this.#readable.resolve()
    return this.#values.length >= this.#capacity ? this.#writable.promise : undefined
  }

  close (): void {
    this.#end ??= {}
    this.#readable.resolve()
    this.#writable.resolve()
  }

  fail (error: unknown): void {
    this.#end ??= { error }
    this.#readable.resolve()
    this.#writable.resolve()
  }

  async * [Symbol.asyncIterator] (): AsyncGenerator<T, void, void> {
    try {
      for (;;) {
        const values = this.#values.splice(0)
        this.#writable.resolve()
        this.#writable = Promise.withResolvers()
        if (this.#end) this.#writable.resolve()
        yield * values
        if (this.#values.length > 0) continue
        if (this.#end) {
          if ('error' in this.#end) throw this.#end.error
          return
        }
        this.#readable = Promise.withResolvers()
        await this.#readable.promise
      }
    } finally {
      this.close()
    }
  }
}
