import { open, readdir, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { readJson } from '../../lib/durable-file.ts'
import { ignoreMissing } from '../../lib/ignore-missing.ts'
import { screenOffsets, screenPath, segmentOffsets, segmentPath } from './server/output-segments.ts'
import type { PtyEnd, Screen } from './server/pty-protocol.ts'

/** What there is from an offset on. */
export type OutputPart =
  /** In the buffer that was given. */
  | { kind: 'bytes', offset: number, bytes: Buffer }
  /** `bytes` bytes, up to `offset`, are not to be had: they were removed, or could not be written. */
  | { kind: 'gap', offset: number, bytes: number }

/** Reads the output of a terminal from its files, while the pty-host appends to them and removes the oldest, and after it has gone. */
export class OutputReader {
  readonly #dir: string

  constructor (dir: string) {
    this.#dir = dir
  }

  /** Offset of the first byte that is kept; 0 where there is none. */
  async oldest (): Promise<number> {
    return segmentOffsets(await this.#names())[0] ?? 0
  }

  /** Offset behind the last byte that is in the files. */
  async endOffset (): Promise<number> {
    for (;;) {
      const last = segmentOffsets(await this.#names()).at(-1)
      if (last === undefined) return 0
      const size = await this.#withSegment(last, async file => (await file.stat()).size)
      if (size !== undefined) return last + size
    }
  }

  /**
   * Output from an offset on: as much as `into` has room for, and less at the end of a file; or a gap, behind which to read on.
   * undefined: nothing is there from that offset on, and if the pty-host has told of more, it could not be written, as with a full disk.
   */
  async read (from: number, into: Buffer): Promise<OutputPart | undefined> {
    for (;;) {
      const offsets = segmentOffsets(await this.#names())
      const start = offsets.findLast(offset => offset <= from)
      if (start !== undefined) {
        const bytes = await this.#withSegment(start, file => readAt(file, from - start, into))
        // It was removed between the two.
        if (!bytes) continue
        if (bytes.length > 0) return { kind: 'bytes', offset: from, bytes }
      }
      const next = offsets.find(offset => offset > from) ?? (await this.end())?.offset ?? 0
      if (next <= from) return undefined
      // What was appended between the two reads is no gap; and a file is complete once there is a later one.
      if (start !== undefined && await this.#segmentEnd(start) > from) continue
      return { kind: 'gap', offset: next, bytes: next - from }
    }
  }

  /** What the terminal showed at exactly this offset, if that was kept: at the beginning of an output file it may have been. */
  async screenAt (offset: number): Promise<Screen | undefined> {
    return asScreen(await readJson(screenPath(this.#dir, offset)))
  }

  /** The first screen that was kept at or behind an offset. */
  async screenFrom (offset: number): Promise<Screen | undefined> {
    for (const candidate of screenOffsets(await this.#names())) {
      const screen = candidate >= offset ? await this.screenAt(candidate) : undefined
      if (screen) return screen
    }
    return undefined
  }

  /** How it has ended; undefined: it has not, or the pty-host died before it wrote that down. */
  async end (): Promise<PtyEnd | undefined> {
    return await readJson(join(this.#dir, 'end.json')) as PtyEnd | undefined
  }

  async #segmentEnd (start: number): Promise<number> {
    return start + (await this.#withSegment(start, async file => (await file.stat()).size) ?? 0)
  }

  async #withSegment<T> (offset: number, use: (file: FileHandle) => Promise<T>): Promise<T | undefined> {
    const file = await open(segmentPath(this.#dir, offset), 'r').catch(ignoreMissing)
    if (!file) return undefined
    try {
      return await use(file)
    } finally {
      await file.close()
    }
  }

  async #names (): Promise<string[]> {
    return await readdir(this.#dir).catch(ignoreMissing) ?? []
  }
}

async function readAt (file: FileHandle, position: number, into: Buffer): Promise<Buffer> {
  const { bytesRead } = await file.read(into, 0, into.length, position)
  return into.subarray(0, bytesRead)
}

function asScreen (value: unknown): Screen | undefined {
  const screen = value as Partial<Screen> | undefined
  const isScreen = typeof screen?.data === 'string' && [screen.offset, screen.cols, screen.rows].every(Number.isInteger)
  return isScreen ? screen as Screen : undefined
}
