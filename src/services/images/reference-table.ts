import { Mutex } from 'async-mutex'
import { readJson, writeDurably } from '../../lib/durable-file.ts'
import { isObject } from './image-config.ts'

/**
 * What references stand for on this host: the digest that each had when it was last asked for. One JSON file, `{"<reference>": "<digest>"}`.
 * Losing it costs a question to a registry.
 */
export class ReferenceTable {
  readonly #path: string
  readonly #digests = new Map<string, string>()
  readonly #writing = new Mutex()

  constructor (options: { path: string }) {
    this.#path = options.path
  }

  async load (): Promise<void> {
    const value = await readJson(this.#path)
    this.#digests.clear()
    for (const [reference, digest] of Object.entries(isObject(value) ? value : {})) {
      if (typeof digest === 'string') this.#digests.set(reference, digest)
    }
  }

  find (reference: string): string | undefined {
    return this.#digests.get(reference)
  }

  /** All references of an image, sorted. */
  of (digest: string): string[] {
    return [...this.#digests].filter(([, found]) => found === digest).map(([reference]) => reference).sort()
  }

  async set (reference: string, digest: string): Promise<void> {
    if (this.#digests.get(reference) === digest) return
    this.#digests.set(reference, digest)
    await this.#write()
  }

  /** Forgets every reference to an image. */
  async drop (digest: string): Promise<void> {
    const references = this.of(digest)
    for (const reference of references) this.#digests.delete(reference)
    if (references.length > 0) await this.#write()
  }

  async #write (): Promise<void> {
    await this.#writing.runExclusive(() => writeDurably(this.#path, JSON.stringify(Object.fromEntries(this.#digests))))
  }
}
