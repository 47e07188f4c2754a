import { closeSync, existsSync, openSync, readdirSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import type { Screen } from './pty-protocol.ts'
import type { ScreenPlace } from './screen-messages.ts'
import { screenPath, segmentOffsets, segmentPath } from './output-segments.ts'
import { HeadlessScreen } from './headless-screen.ts'

/** Follows further behind than this, and it skips forward. */
export const maxBehindBytes = 1024 ** 2
// Enough for a full-screen program to have painted all of its screen again.
const keptOnSkipBytes = 256 * 1024
const minChunkBytes = 1024
const maxChunkBytes = 256 * 1024
// Screens of others wait for so long.
const turnMs = 10
/** Does a piece of work when it is this terminal's turn. */
export type TakeTurn = <T>(act: () => Promise<T>) => Promise<T>

const missing = { start: 0, bytes: Buffer.alloc(0) }

/**
 * Reads the output of one terminal from its files up to where it is told to, and keeps its screen; writes screen files on its way, at the
 * beginning of each output file that it passes. Holds one chunk of output and no more.
 */
export class ScreenFollower {
  readonly #dir: string
  readonly #screen: HeadlessScreen
  readonly #takeTurn: TakeTurn
  #offset: number
  #target: number
  #chunkBytes = 16 * 1024
  /** Works on one thing after the other. */
  #work: Promise<void> = Promise.resolve()
  #isFollowing = false
  #isClosed = false

  constructor ({ dir, cols, rows, offset }: ScreenPlace, takeTurn: TakeTurn) {
    this.#dir = dir
    this.#screen = new HeadlessScreen(cols, rows)
    this.#takeTurn = takeTurn
    this.#offset = offset
    this.#target = offset
  }

  /** The files hold output up to there. */
  advance (offset: number): void {
    this.#target = Math.max(this.#target, offset)
    if (this.#isFollowing) return
    this.#isFollowing = true
    void this.#enqueue(async () => {
      this.#isFollowing = false
      await this.#follow(this.#target)
    })
  }

  async resize (offset: number, cols: number, rows: number): Promise<void> {
    await this.#reach(offset, () => this.#screen.resize(cols, rows))
  }

  /** What is shown at this offset, which is not before any that it was told of. */
  async at (offset: number): Promise<Screen> {
    return await this.#reach(offset, () => this.#screen.at(offset))
  }

  /** Keeps what is shown at this offset. */
  async keep (offset: number): Promise<void> {
    await this.#reach(offset, () => this.#keep(offset))
  }

  /** Once what was asked of it before is done: a screen that is kept of the end must not be one of before. */
  close (): void {
    void this.#enqueue(async () => {
      this.#isClosed = true
      this.#screen.dispose()
    })
  }

  async #reach<T> (offset: number, act: () => T): Promise<T> {
    return await this.#enqueue(async () => {
      await this.#follow(offset)
      return await this.#takeTurn(async () => act())
    })
  }

  async #enqueue<T> (act: () => Promise<T>): Promise<T> {
    const result = this.#work.then(act)
    this.#work = result.then(() => {}, () => {})
    return await result
  }

  async #follow (target: number): Promise<void> {
    while (this.#offset < target && !this.#isClosed) await this.#takeTurn(() => this.#step(target))
  }

  async #step (target: number): Promise<void> {
    if (target - this.#offset > maxBehindBytes) await this.#skipTo(target - keptOnSkipBytes)
    const { start, bytes } = this.#read(Math.min(this.#chunkBytes, target - this.#offset))
    if (bytes.length === 0 || start >= target) return await this.#skipTo(target)
    if (start > this.#offset) await this.#skipTo(start)
    await this.#write(bytes.subarray(0, target - start))
  }

  async #write (bytes: Buffer): Promise<void> {
    const begun = performance.now()
    await this.#screen.write(bytes)
    this.#offset += bytes.length
    const factor = turnMs / Math.max(0.1, performance.now() - begun)
    this.#chunkBytes = Math.round(Math.min(maxChunkBytes, Math.max(minChunkBytes, this.#chunkBytes * Math.min(2, factor))))
  }

  async #skipTo (offset: number): Promise<void> {
    await this.#screen.skip()
    this.#offset = offset
  }

  /** The next output that there is, from this file or a later one. At the beginning of a file, the screen is kept. */
  #read (maxBytes: number): { start: number, bytes: Buffer } {
    const offsets = segmentOffsets(readNames(this.#dir))
    const own = offsets.findLast(offset => offset <= this.#offset)
    if (own !== undefined) {
      if (own === this.#offset && own > 0) this.#keep(own)
      const bytes = readFrom(segmentPath(this.#dir, own), this.#offset - own, maxBytes)
      if (bytes.length > 0) return { start: this.#offset, bytes }
    }
    const next = offsets.find(offset => offset > this.#offset)
    if (next === undefined) return missing
    return { start: next, bytes: readFrom(segmentPath(this.#dir, next), 0, maxBytes) }
  }

  /** Whole or not at all; a reader can do without. */
  #keep (offset: number): void {
    const path = screenPath(this.#dir, offset)
    const temporary = `${path}.tmp`
    try {
      writeFileSync(temporary, JSON.stringify(this.#screen.atExactly(offset)), { mode: 0o600 })
      renameSync(temporary, path)
      const segments = segmentOffsets(readNames(this.#dir))
      // Whoever removes the oldest output has not seen this one.
      if (offset < (segments[0] ?? 0) && !existsSync(segmentPath(this.#dir, offset))) rmSync(path, { force: true })
    } catch {
      try { rmSync(temporary, { force: true }) } catch { /* its directory is removed with it */ }
    }
  }
}

function readNames (dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

/** Empty where there is no such file, or nothing there. */
function readFrom (path: string, position: number, maxBytes: number): Buffer {
  let fd: number | undefined
  try {
    fd = openSync(path, 'r')
    const buffer = Buffer.allocUnsafe(maxBytes)
    return buffer.subarray(0, readSync(fd, buffer, 0, maxBytes, position))
  } catch {
    return missing.bytes
  } finally {
    if (fd !== undefined) closeSync(fd)
  }
}
