import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isObject } from './image-config.ts'

const leaseIdPattern = /^[A-Za-z0-9_-]{1,128}$/
const suffix = '.json'

/** What a lease holds: the digest of an image in the store; null for content used in place, unknown when its file cannot be read. */
type Held = string | null | 'unknown'

/**
 * Who uses which image, on disk as `<dir>/<lease id>.json` and in memory.
 *
 * The files outlive the daemon, not the host: after a power cut no sandbox is left to hold a lease, so they are
 * written by rename but not synced.
 */
export class LeaseStore {
  readonly #dir: string
  readonly #held = new Map<string, Held>()

  constructor (options: { dir: string }) {
    this.#dir = options.dir
  }

  /** Reads the leases on disk; those whose holder is not among `holders` are dropped. Returns the dropped. */
  async load (holders: ReadonlySet<string>): Promise<string[]> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
    this.#held.clear()
    const dropped: string[] = []
    for (const name of await readdir(this.#dir)) {
      const leaseId = name.endsWith(suffix) ? name.slice(0, -suffix.length) : ''
      if (holders.has(leaseId)) {
        this.#held.set(leaseId, await readHeld(join(this.#dir, name)))
        continue
      }
      await rm(join(this.#dir, name), { force: true })
      if (leaseId !== '') dropped.push(leaseId)
    }
    return dropped
  }

  /** Writes the lease; one of the same id is replaced. */
  async acquire (leaseId: string, held: string | null): Promise<void> {
    const path = this.#path(leaseId)
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
    const temp = path.slice(0, -suffix.length) + '.tmp'
    await writeFile(temp, JSON.stringify({ digest: held }), { mode: 0o600 })
    await rename(temp, path)
    this.#held.set(leaseId, held)
  }

  /** Gives the lease back; fine when there is none. */
  async release (leaseId: string): Promise<void> {
    await rm(this.#path(leaseId), { force: true })
    this.#held.delete(leaseId)
  }

  /** Whether any lease holds, or may hold, the image. */
  holds (digest: string): boolean {
    return this.holdersOf(digest).length > 0
  }

  /** Ids of the leases that hold, or may hold, the image. */
  holdersOf (digest: string): string[] {
    return [...this.#held].filter(([, held]) => held === digest || held === 'unknown').map(([leaseId]) => leaseId)
  }

  #path (leaseId: string): string {
    if (!leaseIdPattern.test(leaseId)) throw new TypeError(`not usable as a lease id: ${JSON.stringify(leaseId)}`)
    return join(this.#dir, leaseId + suffix)
  }
}

async function readHeld (path: string): Promise<Held> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'))
    if (isObject(value) && (value.digest === null || typeof value.digest === 'string')) return value.digest
  } catch {
    // Its holder lives, so whatever it holds must stay.
  }
  return 'unknown'
}
