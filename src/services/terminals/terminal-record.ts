/** The record of a terminal on disk, and what of it goes to clients. */
import { readJson, writeDurably } from '../../lib/durable-file.ts'
import type { Terminal, TerminalEnd, TerminalEndReason, TerminalStatus } from '../../schemas/terminal.ts'
import { assertRecordVersion } from '../sandboxes/sandbox-record.ts'

export interface TerminalRecord {
  version: 1
  id: string
  sandboxId: string
  status: TerminalStatus
  name?: string
  /** Absent: the user's shell. */
  argv?: string[]
  cwd: string
  user: string
  /** As it was last known on disk; of one that runs the pty-host knows better. */
  cols: number
  rows: number
  idleTimeoutMs?: number
  createdAt: string
  idempotencyKey?: string
  /** It is being ended by us, for this reason: written before anything is done. */
  ending?: TerminalEndReason
  /** It is being removed with all that is left of it: written before anything is done. */
  isDeleting?: boolean
  end?: TerminalEnd
}

/** What a client is told beside the record. */
export type TerminalFacts = Pick<Terminal, 'lastActivityAt' | 'viewers' | 'output'>

export function toTerminal (record: TerminalRecord, facts: TerminalFacts): Terminal {
  const { id, sandboxId, status, name, argv, cwd, user, cols, rows, idleTimeoutMs, createdAt, end } = record
  return {
    id,
    sandboxId,
    status,
    ...(name === undefined ? {} : { name }),
    ...(argv ? { argv } : {}),
    cwd,
    user,
    cols,
    rows,
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
    createdAt,
    ...facts,
    ...(end ? { end } : {}),
  }
}

export async function writeTerminalRecord (path: string, record: TerminalRecord): Promise<void> {
  await writeDurably(path, JSON.stringify(record))
}

/** The record, or undefined when there is none or it cannot be understood. Throws as readRecord of a sandbox does. */
export async function readTerminalRecord (path: string): Promise<TerminalRecord | undefined> {
  const record = await readJson(path) as Partial<TerminalRecord> | undefined
  assertRecordVersion(record)
  return record?.id === undefined || record.status === undefined ? undefined : record as TerminalRecord
}
