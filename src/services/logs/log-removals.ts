/**
 * What is known of the files of a log that are gone: `log.removed`, a line `<generation> <bytes>` for each, written
 * before the file is removed. Gaps say from it how much is missing, and the count of generations outlives the last file.
 */
import { appendFile, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ignoreMissing } from '../../lib/ignore-missing.ts'

export const removalsName = 'log.removed'

/** Where the note is cut to its newest lines; what is older is gone with its size unknown. */
const maxNoteBytes = 64 * 1024
const keptLines = 1000

const noteLine = /^(\d{1,15}) (\d{1,15})$/

/** Bytes by generation of what was removed. A line that a crash broke off is none. */
export async function readRemovals (dir: string): Promise<Map<number, number>> {
  const note = await readFile(join(dir, removalsName), 'latin1').catch(ignoreMissing) ?? ''
  const removals = new Map<number, number>()
  for (const line of note.split('\n')) {
    const match = noteLine.exec(line)
    if (match) removals.set(Number(match[1]), Number(match[2]))
  }
  return removals
}

/** Removes a rotated file for good; fine when it is gone. Answers its size in bytes. */
export async function removeGeneration (dir: string, generation: number): Promise<number> {
  const path = join(dir, `log.${generation}`)
  const found = await stat(path).catch(ignoreMissing)
  if (!found) return 0
  const note = join(dir, removalsName)
  // The line end goes first: a line that a crash broke off must not spoil this one.
  await appendFile(note, `\n${generation} ${found.size}\n`)
  if ((await stat(note)).size > maxNoteBytes) await shorten(dir, note)
  await rm(path, { force: true })
  return found.size
}

async function shorten (dir: string, note: string): Promise<void> {
  const newest = [...await readRemovals(dir)].sort(([a], [b]) => a - b).slice(-keptLines)
  await writeFile(`${note}.new`, newest.map(([generation, bytes]) => `${generation} ${bytes}\n`).join(''))
  await rename(`${note}.new`, note)
}
