import { readdirSync, renameSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { ignoreMissing } from '../../lib/ignore-missing.ts'
import { currentLogPath, listLogFiles, rotatedLogPath } from './log-files.ts'
import { removeGeneration } from './log-removals.ts'

/** A log of the host, as the budget sees it. */
export interface BudgetedLog {
  dir: string
  /** Whether nothing will be written to it; false from before a writer begins anew. */
  isEnded: () => boolean
  /** ISO 8601; ended logs go in its order. */
  endedAt?: string | undefined
  /** The generation from which on it is still needed: removed only when nothing else is left to remove. */
  protectedFrom?: number | undefined
}

export interface BudgetReport {
  /** Of all logs, before anything was removed. */
  totalBytes: number
  removedBytes: number
}

interface LogFile {
  log: BudgetedLog
  generation: number
  bytes: number
  isCurrent: boolean
  /** What is of a lower rank goes first; undefined: it stays. */
  rank: number | undefined
  /** Among files of one rank the lesser goes first; ISO 8601. */
  age: string
}

/** Output of what has ended goes first, then what only readers from the beginning would miss, then what is still to be delivered. */
const ranks = { ended: 0, running: 1, protected: 2 } as const

/** Bounds what all logs of the host take on its disk, by removing oldest files. */
export class LogBudget {
  readonly #diskBytes: number

  constructor (options: { diskBytes: number }) {
    this.#diskBytes = options.diskBytes
  }

  /** Removes until all logs are within the budget, or nothing is left that may go: what running logs write to, and their newest rotated file. */
  async enforce (logs: readonly BudgetedLog[]): Promise<BudgetReport> {
    const files: LogFile[] = []
    for (const log of logs) files.push(...await filesOf(log))
    const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0)
    let removedBytes = 0
    if (totalBytes <= this.#diskBytes) return { totalBytes, removedBytes }
    for (const file of inOrder(files)) {
      if (totalBytes - removedBytes <= this.#diskBytes) break
      removedBytes += await remove(file)
    }
    return { totalBytes, removedBytes }
  }
}

async function filesOf (log: BudgetedLog): Promise<LogFile[]> {
  const isEnded = log.isEnded()
  const { rotated, current, hasCurrent } = await listLogFiles(log.dir)
  const files: LogFile[] = []
  let newest = ''
  for (const generation of hasCurrent ? [...rotated, current] : rotated) {
    const isCurrent = generation === current
    const found = await stat(isCurrent ? currentLogPath(log.dir) : rotatedLogPath(log.dir, generation)).catch(ignoreMissing)
    if (!found) continue
    // A clock that was set back must not let a file go before those in front of it.
    const modifiedAt = found.mtime.toISOString()
    if (modifiedAt > newest) newest = modifiedAt
    const isKept = !isEnded && generation >= current - 1
    const rank = generation >= (log.protectedFrom ?? Infinity) ? ranks.protected : isEnded ? ranks.ended : ranks.running
    files.push({ log, generation, bytes: found.size, isCurrent, rank: isKept ? undefined : rank, age: rank === ranks.ended ? log.endedAt ?? '' : newest })
  }
  return files
}

function inOrder (files: readonly LogFile[]): LogFile[] {
  const removable = files.filter(({ rank }) => rank !== undefined)
  return removable.sort((a, b) => a.rank! - b.rank! || compare(a.age, b.age) || compare(a.log.dir, b.log.dir) || a.generation - b.generation)
}

async function remove ({ log, generation, isCurrent }: LogFile): Promise<number> {
  if (isCurrent && !retire(log, generation)) return 0
  return await removeGeneration(log.dir, generation)
}

/** Makes the last file of an ended log a rotated one. In one turn of the event loop, so that no writer can begin anew in between. */
function retire ({ dir, isEnded }: BudgetedLog, generation: number): boolean {
  if (!isEnded() || readdirSync(dir).includes(`log.${generation}`)) return false
  try {
    renameSync(currentLogPath(dir), rotatedLogPath(dir, generation))
    return true
  } catch (error) {
    ignoreMissing(error as NodeJS.ErrnoException)
    return false
  }
}

function compare (a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
