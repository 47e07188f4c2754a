/**
 * The files of one log: conmon writes `log`; rotation renames it to `log.<generation>`, counting from 0.
 * The newest rotated file is never deleted, so the generation of `log` is always one more than the highest number there.
 */
import { constants } from 'node:fs'
import { open, readdir, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'

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
  return { rotated, current: (rotated.at(-1) ?? -1) + 1, hasCurrent: names.includes('log') }
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

function ignoreMissing (error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}
