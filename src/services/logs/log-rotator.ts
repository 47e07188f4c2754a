import { rename, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { currentLogPath, listLogFiles, rotatedLogPath, type LogListing } from './log-files.ts'
import { removeGeneration } from './log-removals.ts'

export interface LogRotatorOptions {
  /** Rotate a file that is larger than this. */
  maxLogBytes: number
  /** Rotated files go, oldest first, while all files of a log are larger than this; four files' worth without it. The newest stays: it carries the count. */
  keepBytes?: number
  /** The generation from which on the log in a directory is still needed; undefined: none is. */
  protectedFrom?: (dir: string) => number | undefined
  /** How long conmon may take to reopen before a request from before a daemon restart counts as lost. */
  settleMs?: number
}

/** idle: nothing to do. rotated: renamed and asked for. reopened: a rename without its reopening was completed. waiting: conmon was asked already. */
export type LogRotation = 'idle' | 'rotated' | 'reopened' | 'waiting'

const pollIntervalMs = 20

/**
 * Bounds the size of logs: rename, ask conmon to reopen, delete the oldest.
 *
 *   log ──rename──▶ log.<n>   conmon still writes to it, so it may grow until …
 *   reopen ───────▶ conmon makes a new `log`
 *
 * Asking twice is not harmless: conmon replaces `log` by an empty file each time. So it is asked once per rename,
 * and again only where the asker may have died before it asked.
 */
export class LogRotator {
  readonly #maxLogBytes: number
  readonly #keepBytes: number
  readonly #protectedFrom: (dir: string) => number | undefined
  readonly #settleMs: number
  /** By directory, the generation that conmon was asked to begin. */
  readonly #asked = new Map<string, number>()
  readonly #running = new Map<string, Promise<LogRotation>>()

  constructor (options: LogRotatorOptions) {
    this.#maxLogBytes = options.maxLogBytes
    this.#keepBytes = options.keepBytes ?? 4 * options.maxLogBytes
    this.#protectedFrom = options.protectedFrom ?? (() => undefined)
    this.#settleMs = options.settleMs ?? 1000
  }

  /** Rotates a log that is too large and completes what an earlier daemon left half done. Only for logs whose conmon lives. */
  check (dir: string, reopen: () => Promise<void>): Promise<LogRotation> {
    const running = this.#running.get(dir) ?? this.#check(dir, reopen).finally(() => { this.#running.delete(dir) })
    this.#running.set(dir, running)
    return running
  }

  /** Forgets what is known of a log that is gone, or whose conmon is another. */
  forget (dir: string): void {
    this.#asked.delete(dir)
  }

  async #check (dir: string, reopen: () => Promise<void>): Promise<LogRotation> {
    const listing = await listLogFiles(dir)
    if (!listing.hasCurrent) return await this.#recover(dir, listing, reopen)
    const { size } = await stat(currentLogPath(dir))
    if (size <= this.#maxLogBytes) {
      await this.#removeOld(dir, listing, size)
      return 'idle'
    }
    await rename(currentLogPath(dir), rotatedLogPath(dir, listing.current))
    await this.#ask(dir, listing.current + 1, reopen)
    await this.#removeOld(dir, await listLogFiles(dir), 0)
    return 'rotated'
  }

  async #recover (dir: string, listing: LogListing, reopen: () => Promise<void>): Promise<LogRotation> {
    // Without any file conmon has not begun yet.
    if (listing.rotated.length === 0) return 'idle'
    if (this.#asked.get(dir) === listing.current) return 'waiting'
    const givesUpAt = performance.now() + this.#settleMs
    while (performance.now() < givesUpAt) {
      await sleep(pollIntervalMs)
      if ((await listLogFiles(dir)).hasCurrent) return 'idle'
    }
    await this.#ask(dir, listing.current, reopen)
    return 'reopened'
  }

  async #ask (dir: string, generation: number, reopen: () => Promise<void>): Promise<void> {
    await reopen()
    this.#asked.set(dir, generation)
  }

  async #removeOld (dir: string, { rotated }: LogListing, currentBytes: number): Promise<void> {
    const removable = rotated.slice(0, -1)
    if (removable.length === 0) return
    const sizes = await Promise.all(rotated.map(async generation => (await stat(rotatedLogPath(dir, generation))).size))
    const protectedFrom = this.#protectedFrom(dir) ?? Infinity
    let total = sizes.reduce((sum, size) => sum + size, currentBytes)
    for (const [index, generation] of removable.entries()) {
      if (total <= this.#keepBytes || generation >= protectedFrom) return
      await removeGeneration(dir, generation)
      total -= sizes[index]!
    }
  }
}
