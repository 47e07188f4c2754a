import { ftruncateSync, readFileSync, readlinkSync, writeSync } from 'node:fs'
import type { RegistryCredentials } from '../layers/image-layer.ts'
import type { ServerSettings } from './control-protocol.ts'

/** What one image server leaves to the next. */
export interface Legacy {
  settings: ServerSettings
  /** Of requests, by the digest of the layer that they were given for. */
  credentials: Record<string, RegistryCredentials | undefined>
}

/** A file in memory that has no name and that the keeper holds open: it may hold secrets, which no disk sees. Absent where a host has no tmpfs. */
export class KeptMemory {
  readonly #fd: number

  constructor (options: { fd: number }) {
    this.#fd = options.fd
  }

  /** Whether the keeper gave one: where it has none, the descriptor is something else's. */
  get isThere (): boolean {
    try {
      return readlinkSync(`/proc/self/fd/${this.#fd}`).includes('.berth-keeper-')
    } catch {
      return false
    }
  }

  /** undefined when nothing was left, or half of something. */
  read (): Legacy | undefined {
    if (!this.isThere) return undefined
    try {
      // By path, which begins at its start wherever the descriptor stands.
      return JSON.parse(readFileSync(`/proc/self/fd/${this.#fd}`, 'utf8')) as Legacy
    } catch {
      return undefined
    }
  }

  write (legacy: Legacy): void {
    // Without it the next server asks with the credentials of the files alone.
    if (!this.isThere) return
    const content = Buffer.from(JSON.stringify(legacy))
    ftruncateSync(this.#fd, 0)
    writeSync(this.#fd, content, 0, content.length, 0)
  }
}
