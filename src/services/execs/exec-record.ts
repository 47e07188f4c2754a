/** The record of a detached exec on disk. */
import { readJson, writeDurably } from '../../lib/durable-file.ts'
import type { ProcessIdentity } from '../../host/process.ts'
import type { Exec } from '../../schemas/exec.ts'
import { assertRecordVersion } from '../sandboxes/sandbox-record.ts'

export interface ExecRecord {
  version: 1
  exec: Exec
  monitor?: ProcessIdentity
  /** SIGKILL was sent because the deadline passed. */
  isTimedOut?: boolean
  idempotencyKey?: string
}

export async function writeExecRecord (path: string, record: ExecRecord): Promise<void> {
  await writeDurably(path, JSON.stringify(record))
}

/** The record, or undefined when there is none or it cannot be understood. Throws as readRecord of a sandbox does. */
export async function readExecRecord (path: string): Promise<ExecRecord | undefined> {
  const record = await readJson(path) as Partial<ExecRecord> | undefined
  assertRecordVersion(record)
  return record?.exec === undefined ? undefined : record as ExecRecord
}
