import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { syncPath } from '../../../lib/durable-file.ts'

interface Entry {
  bytes: number
  usedAtMs: number
}

const entryPattern = /^(?:profile-)?[0-9a-f]{64}$/
const makingPrefix = '.making-'
const removingPrefix = '.removing-'

/**
 * Small directories of files by name, within a budget: those that were not used for the longest time go first.
 *
 *     <dir>/<name>/…            an entry; its mtime says when it was last used
 *     <dir>/.making-<name>-…    being made;    nobody's after a crash
 *     <dir>/.removing-<name>-…  being deleted; nobody's after a crash
 */
export class IndexDirectory {
  readonly #dir: string
  readonly #maxBytes: number
  readonly #entries = new Map<string, Entry>()

  constructor (options: { dir: string, maxBytes: number }) {
    this.#dir = options.dir
    this.#maxBytes = options.maxBytes
  }

  /** Makes the directory, clears what a crash has left, and keeps to the budget. Once, before anything else. */
  async open (): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
    for (const name of await readdir(this.#dir)) {
      if (!entryPattern.test(name)) {
        // Only what bears a name of ours: a file that somebody else put here is not ours to delete.
        if (name.startsWith(makingPrefix) || name.startsWith(removingPrefix)) await rm(join(this.#dir, name), { recursive: true, force: true })
        continue
      }
      const stats = await stat(join(this.#dir, name))
      this.#entries.set(name, { bytes: await bytesOf(join(this.#dir, name)), usedAtMs: stats.mtimeMs })
    }
    await this.#evict()
  }

  /** The directory of an entry, which counts as used from here on; undefined when there is none. It may be evicted while it is read. */
  async find (name: string): Promise<string | undefined> {
    const entry = this.#entries.get(name)
    if (!entry) return undefined
    const dir = this.#path(name)
    entry.usedAtMs = Date.now()
    try {
      await utimes(dir, new Date(), new Date())
      return dir
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      this.#entries.delete(name)
      return undefined
    }
  }

  /** Makes an entry, or another in its place: `make` fills a directory that gets its name when all in it is on disk. Nothing is left of a failure. */
  async create (name: string, make: (dir: string) => Promise<void>): Promise<void> {
    const dir = this.#hidden(makingPrefix, name)
    await mkdir(dir, { mode: 0o700 })
    try {
      await make(dir)
      for (const file of await readdir(dir)) await syncPath(join(dir, file))
      await syncPath(dir)
      const bytes = await bytesOf(dir)
      await this.remove(name)
      await rename(dir, this.#path(name))
      this.#entries.set(name, { bytes, usedAtMs: Date.now() })
      await syncPath(this.#dir)
    } catch (error) {
      await rm(dir, { recursive: true, force: true })
      throw error
    }
    await this.#evict()
  }

  /** One that is not here is fine. */
  async remove (name: string): Promise<void> {
    this.#entries.delete(name)
    const doomed = this.#hidden(removingPrefix, name)
    try {
      await rename(this.#path(name), doomed)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw error
    }
    await rm(doomed, { recursive: true, force: true })
  }

  async #evict (): Promise<void> {
    let total = [...this.#entries.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    const oldestFirst = [...this.#entries].sort(([, a], [, b]) => a.usedAtMs - b.usedAtMs)
    for (const [name, { bytes }] of oldestFirst) {
      if (total <= this.#maxBytes) return
      await this.remove(name)
      total -= bytes
    }
  }

  #path (name: string): string {
    if (!entryPattern.test(name)) throw new Error('an entry is named by a digest')
    return join(this.#dir, name)
  }

  #hidden (prefix: string, name: string): string {
    return join(this.#dir, `${prefix}${name}-${randomBytes(4).toString('hex')}`)
  }
}

async function bytesOf (dir: string): Promise<number> {
  let bytes = 0
  for (const file of await readdir(dir)) bytes += (await stat(join(dir, file))).size
  return bytes
}
