/** The record of a detached exec on disk. */
import { readFile } from 'node:fs/promises'
import { writeDurably } from '../../lib/durable-file.ts'
import type { ProcessIdentity } from '../../host/process.ts'
import type { Exec } from '../../schemas/exec.ts'

export interface ExecRecord {
  version: 1
  exec: Exec
  monitor?: ProcessIdentity
  /** SIGKILL was sent because the deadline passed. */
  isTimedOut?: boolean
}

export async function writeExecRecord (path: string, record: ExecRecord): Promise<void> {
  await writeDurably(path, JSON.stringify(record))
}

/** The record, or undefined when there is none that can be read. */
export async function readExecRecord (path: string): Promise<ExecRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(path, 'utf8')) as ExecRecord
    return record.version === 1 ? record : undefined
  } catch {
    return undefined
  }
}
