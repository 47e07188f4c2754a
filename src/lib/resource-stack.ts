import { withDeadline } from './deadline.ts'

export interface ReleaseFailure {
  name: string
  error: unknown
}

interface Entry {
  name: string
  release: () => Promise<void> | void
}

const defaultReleaseDeadlineMs = 30_000

/**
 * Resources in the order they were acquired, given back newest first.
 *
 * Every release runs, each with a deadline; none throws: failures come back by name.
 * What is acquired after release began is given back at once.
 */
export class ResourceStack implements AsyncDisposable {
  #entries: Entry[] = []
  #releasing: Promise<ReleaseFailure[]> | undefined
  readonly #releaseDeadlineMs: number

  constructor (options: { releaseDeadlineMs?: number } = {}) {
    this.#releaseDeadlineMs = options.releaseDeadlineMs ?? defaultReleaseDeadlineMs
  }

  /** Acquires a resource and remembers how to release it. If acquiring throws, nothing is remembered. */
  async acquire<T> (name: string, acquire: () => Promise<T> | T, release: (resource: T) => Promise<void> | void): Promise<T> {
    if (this.#releasing) throw new Error(`cannot acquire ${name}: its stack was released`)
    const resource = await acquire()
    if (this.#releasing) {
      await release(resource)
      throw new Error(`cannot keep ${name}: its stack was released meanwhile`)
    }
    this.#entries.push({ name, release: () => release(resource) })
    return resource
  }

  /** Remembers something to do at release. */
  defer (name: string, release: () => Promise<void> | void): void {
    if (this.#releasing) throw new Error(`cannot defer ${name}: its stack was released`)
    this.#entries.push({ name, release })
  }

  /** Hands every entry to a new stack; this one has nothing left to release. */
  move (): ResourceStack {
    const moved = new ResourceStack({ releaseDeadlineMs: this.#releaseDeadlineMs })
    moved.#entries = this.#entries
    this.#entries = []
    return moved
  }

  /** Gives everything back, newest first. Idempotent; never throws. */
  release (): Promise<ReleaseFailure[]> {
    this.#releasing ??= this.#releaseAll()
    return this.#releasing
  }

  async #releaseAll (): Promise<ReleaseFailure[]> {
    const failures: ReleaseFailure[] = []
    for (const entry of this.#entries.splice(0).reverse()) {
      try {
        await withDeadline(this.#releaseDeadlineMs, `release of ${entry.name}`, async () => entry.release())
      } catch (error) {
        failures.push({ name: entry.name, error })
      }
    }
    return failures
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.release()
  }
}
