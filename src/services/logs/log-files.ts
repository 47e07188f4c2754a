/**
 * The files of one log: conmon writes `log`; rotation renames it to `log.<generation>`, counting from 0.
 * While it is written to, the newest rotated file is never deleted, so the generation of `log` is one more than the
 * highest number there; where all are gone, it follows from the note of what was removed.
 */
import { constants } from 'node:fs'
import { open, readdir, rename, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { ignoreMissing } from '../../lib/ignore-missing.ts'
import { formatCursor } from './log-cursor.ts'
import { readRemovals, removalsName } from './log-removals.ts'

export interface LogListing {
  /** Generations of the rotated files, ascending. */
  rotated: number[]
  /** The generation that `log` has, or will have once conmon makes it. */
  current: number
  /** Whether `log` is there. It is missing before conmon starts, and between a rename and conmon's reopening. */
  hasCurrent: boolean
}

export interface OpenLogFile {
  generation: number
  handle: FileHandle
}

const rotatedName = /^log\.(\d{1,15})$/
const maxAttempts = 20

export function currentLogPath (dir: string): string {
  return join(dir, 'log')
}

export function rotatedLogPath (dir: string, generation: number): string {
  return join(dir, `log.${generation}`)
}

/** What is there at this moment; a directory that is missing has no files. */
export async function listLogFiles (dir: string): Promise<LogListing> {
  const names = await readdir(dir).catch(ignoreMissing) ?? []
  const rotated: number[] = []
  for (const name of names) {
    const match = rotatedName.exec(name)
    if (match) rotated.push(Number(match[1]))
  }
  rotated.sort((a, b) => a - b)
  const newest = rotated.at(-1) ?? (names.includes(removalsName) ? await newestRemoved(dir) : -1)
  return { rotated, current: newest + 1, hasCurrent: names.includes('log') }
}

async function newestRemoved (dir: string): Promise<number> {
  return Math.max(-1, ...(await readRemovals(dir)).keys())
}

/** The oldest generation whose file is there, else the one that comes next. */
export function oldestGeneration (listing: LogListing): number {
  return listing.rotated[0] ?? listing.current
}

/** Opens the oldest file that is there whose generation is at least the given one. */
export async function openLogFile (dir: string, atLeast: number): Promise<OpenLogFile | undefined> {
  for (let attempt = 0; attempt < maxAttempts; attempt++) {
    const listing = await listLogFiles(dir)
    const rotated = listing.rotated.find(generation => generation >= atLeast)
    const generation = rotated ?? listing.current
    if (rotated === undefined && (!listing.hasCurrent || generation < atLeast)) return undefined
    const path = rotated === undefined ? currentLogPath(dir) : rotatedLogPath(dir, generation)
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch(ignoreMissing)
    if (!handle) continue
    if (rotated !== undefined) return { generation, handle }
    // `log` may have been rotated between the listing and the open: its generation is sure only if none came since.
    if ((await listLogFiles(dir)).current === generation) return { generation, handle }
    await handle.close()
  }
  return undefined
}

/**
 * Makes room for a writer that begins anew: a `log` that is there becomes the newest rotated file. Answers the cursor
 * at which the new writer's output will begin. Once more before it has begun: the same answer. Nobody may be writing.
 */
export async function startLogFile (dir: string): Promise<string> {
  for (;;) {
    const { hasCurrent, current } = await listLogFiles(dir)
    if (!hasCurrent) return formatCursor(current, 0)
    await rename(currentLogPath(dir), rotatedLogPath(dir, current)).catch(ignoreMissing)
  }
}
