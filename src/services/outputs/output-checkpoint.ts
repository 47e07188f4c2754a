/** What is kept on disk of one output of a task. Without fsync: an older place, or none, gives the same entries again. */
import { mkdir, readdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readJson } from '../../lib/durable-file.ts'
import type { OutputType } from '../../schemas/output.ts'
import { parseCursor } from '../logs/log-cursor.ts'
import { startPlace, type OutputPlace, type StreamPlace } from './output-place.ts'
import type { SinkState } from './output-sink.ts'

export interface OutputCheckpoint {
  type: OutputType
  /** Where to go on. `seq` is also the number of entries that were confirmed. */
  place: OutputPlace
  /** Cursor of the last entry that was confirmed. */
  doneThrough?: string
  sinkState?: SinkState
  /** Number of the next status. */
  statusSeq: number
  isComplete: boolean
  /** Why it was given up. */
  refusal?: string
}

const knownTypes: Readonly<Record<OutputType, true>> = { console: true, file: true, s2: true, webhook: true, fleet: true }
const fileName = /^(\d{1,3})\.json$/

export function newCheckpoint (type: OutputType): OutputCheckpoint {
  return { type, place: startPlace(), statusSeq: 0, isComplete: false }
}

/** undefined: there is none, or none that is whole. */
export async function loadCheckpoint (dir: string, index: number): Promise<OutputCheckpoint | undefined> {
  const value = await readJson(checkpointPath(dir, index))
  return isCheckpoint(value) ? value : undefined
}

/** Of all outputs that have begun, in their order. */
export async function loadCheckpoints (dir: string): Promise<OutputCheckpoint[]> {
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const indexes = names.flatMap(name => fileName.exec(name)?.[1] ?? []).map(Number).sort((a, b) => a - b)
  const found = await Promise.all(indexes.map(index => loadCheckpoint(dir, index)))
  return found.filter(checkpoint => checkpoint !== undefined)
}

export async function saveCheckpoint (dir: string, index: number, checkpoint: OutputCheckpoint): Promise<void> {
  const path = checkpointPath(dir, index)
  const text = JSON.stringify(checkpoint)
  try {
    await writeFile(`${path}.tmp`, text, { mode: 0o600 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    await mkdir(dir, { recursive: true, mode: 0o700 })
    await writeFile(`${path}.tmp`, text, { mode: 0o600 })
  }
  await rename(`${path}.tmp`, path)
}

/** Writes the checkpoints of one output: the newest, and not more often than it must. */
export class CheckpointWriter {
  readonly #save: () => Promise<void>
  readonly #pauseMs: number
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> = Promise.resolve()

  /** `save` writes the checkpoint as it is then, and never fails. */
  constructor (save: () => Promise<void>, pauseMs: number) {
    this.#save = save
    this.#pauseMs = pauseMs
  }

  /** There is something to write. */
  touch (): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#writing = this.#writing.then(this.#save)
    }, this.#pauseMs)
  }

  /** Writes once more, now. */
  flush (): Promise<void> {
    this.#writing = this.#writing.then(this.#save)
    return this.stop()
  }

  /** Resolves once nothing is written any more. */
  stop (): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    return this.#writing
  }
}

function checkpointPath (dir: string, index: number): string {
  return join(dir, `${index}.json`)
}

function isCheckpoint (value: unknown): value is OutputCheckpoint {
  const { type, place, statusSeq, isComplete } = (value ?? {}) as Partial<OutputCheckpoint>
  if (type === undefined || !(type in knownTypes)) return false
  return isCount(statusSeq) && typeof isComplete === 'boolean' && isCount(place?.seq) && typeof place.at === 'string' &&
    isStreamPlace(place.streams?.stdout) && isStreamPlace(place.streams.stderr)
}

function isStreamPlace (place: StreamPlace | undefined): boolean {
  if (!isCount(place?.skip)) return false
  try {
    parseCursor(place!.from)
    return true
  } catch {
    return false
  }
}

function isCount (value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
