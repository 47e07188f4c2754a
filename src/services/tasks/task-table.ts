import type { SQLInputValue } from 'node:sqlite'
import { BerthError } from '../../errors.ts'
import type { TaskStatus } from '../../schemas/task.ts'
import type { TaskLedger } from './task-ledger.ts'
import type { TaskRecord } from './task-record.ts'
import { isoTime, isUnreported, taskColumns, toKeptTask, toRecord, type KeptTask } from './task-rows.ts'

export interface TaskFilter {
  /** One of these. */
  status?: readonly TaskStatus[]
  /** All of these. */
  labels?: Readonly<Record<string, string>>
  pool?: string
  /** Created at this time or later; ISO 8601. */
  since?: string
  /** Created before this time; ISO 8601. */
  until?: string
  isDeadLetter?: boolean
}

/** Tasks of this host, and deliveries of which nothing is left to be told. */
const isToldSql = "(report IS NULL OR report IN ('done', 'abandoned'))"

interface Place {
  createdAt: number
  seq: number
}

const pruneBatch = 100
/** Ended tasks whose outputs are not done are kept so many times as long: their log is all that a destination in trouble can still get. */
const graceFactor = 2

/** Tasks as they are kept. What it reads is durable. */
export class TaskTable {
  readonly #ledger: TaskLedger

  constructor (ledger: TaskLedger) {
    this.#ledger = ledger
  }

  get (id: string): TaskRecord | undefined {
    const task = this.#ledger.rows.find(id)
    return task && toRecord(task)
  }

  /** Newest first. @throws BerthError invalid_argument `invalid_cursor`. */
  list ({ limit, cursor, ...filter }: TaskFilter & { limit: number, cursor?: string }): { records: TaskRecord[], nextCursor?: string } {
    const { sql, values } = listQuery(filter, cursor === undefined ? undefined : parseCursor(cursor))
    const rows = this.#ledger.rows.query(sql, ...values, limit + 1)
    const tasks = rows.slice(0, limit).map(toKeptTask)
    const last = tasks.at(-1)
    return { records: tasks.map(toRecord), ...rows.length > limit && last && { nextCursor: `${last.createdAt}.${last.seq}` } }
  }

  /** What is scheduled or running, whoever has it. */
  claimed (): TaskRecord[] {
    return this.#ledger.rows.select('WHERE lease_until IS NOT NULL ORDER BY tasks.seq').map(toRecord)
  }

  /** Tasks with outputs that were ever handed out or have ended, and whose outputs are not done. */
  unfinishedOutputs (): TaskRecord[] {
    return this.#ledger.rows.select('WHERE outputs_done = 0 AND (fence > 0 OR ended_at IS NOT NULL) ORDER BY tasks.seq').map(toRecord)
  }

  /** When tasks ended that have, by id; ISO 8601. */
  endTimes (): Map<string, string> {
    const rows = this.#ledger.rows.query('SELECT id, ended_at FROM tasks INDEXED BY tasks_by_end WHERE ended_at IS NOT NULL')
    return new Map(rows.map(row => [String(row.id), isoTime(Number(row.ended_at))]))
  }

  /** Without an effect where there is no such task. */
  async markOutputsDone (id: string): Promise<void> {
    await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      // One that was begun anew meanwhile has more to deliver.
      if (task?.endedAt !== undefined && !task.areOutputsDone) this.#ledger.change(task, () => task.areOutputsDone = true)
    })
  }

  /** Answers false where there is none. @throws BerthError conflict `invalid_state` unless it has ended, `not_reported` before its fleet has been told. */
  async remove (id: string): Promise<boolean> {
    return await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      if (task === undefined) return false
      if (task.endedAt === undefined) throw new BerthError('conflict', 'invalid_state', `task ${id} is ${task.status}; cancel it, wait for its end, then delete it`)
      if (isUnreported(task)) {
        throw new BerthError('conflict', 'not_reported', `the fleet has not been told yet how task ${id} ended; delete it when it has: as soon as this host reaches Redis and the gateway`)
      }
      this.#ledger.remove(task)
      return true
    })
  }

  /**
   * Removes ended tasks, those first that ended first, in batches between which others run; answers their ids.
   * One whose outputs are not done stays, however many there are, until it is twice as old; a delivery that its fleet was not told of, always.
   */
  async prune ({ maxAgeMs, maxCount }: { maxAgeMs: number, maxCount: number }): Promise<string[]> {
    const removed: string[] = []
    for (;;) {
      const batch = await this.#ledger.run(() => {
        const tasks = this.#surplus(maxAgeMs, maxCount)
        for (const task of tasks) this.#ledger.remove(task)
        return tasks
      })
      removed.push(...batch.map(({ id }) => id))
      if (batch.length < pruneBatch) return removed
    }
  }

  /** Calls back after each commit that changed the task, its removal too; answers how to stop. */
  watch (id: string, listener: () => void): () => void {
    return this.#ledger.watchTask(id, listener)
  }

  #surplus (maxAgeMs: number, maxCount: number): KeptTask[] {
    const { rows } = this.#ledger
    const now = this.#ledger.now()
    const ended = Number(rows.prepare('SELECT count(*) AS n FROM tasks INDEXED BY tasks_by_end WHERE ended_at IS NOT NULL').get()?.n)
    const tooMany = Math.min(Math.max(ended - maxCount, 0), pruneBatch)
    // All that end before a time are a prefix of the order in which they ended, so age and count come to one list.
    const mayGo = `${isToldSql} AND (outputs_done = 1 OR ended_at <= ?) ORDER BY ended_at LIMIT ?`
    const old = rows.select(`WHERE ended_at <= ? AND ${mayGo}`, now - maxAgeMs, now - graceFactor * maxAgeMs, pruneBatch)
    if (old.length >= tooMany) return old
    return rows.select(`WHERE ended_at IS NOT NULL AND ${mayGo}`, now - graceFactor * maxAgeMs, tooMany)
  }
}

function listQuery ({ status, labels = {}, pool, since, until, isDeadLetter }: TaskFilter, before: Place | undefined): { sql: string, values: SQLInputValue[] } {
  const [driving, ...others] = Object.entries(labels)
  // A label's rows are in the order of the list; without one the index of the status, or of the time, is.
  const place = driving === undefined ? 'tasks' : 'task_labels'
  const from = driving === undefined ? 'tasks JOIN task_specs USING (seq)' : 'task_labels CROSS JOIN tasks USING (seq) JOIN task_specs USING (seq)'
  const where: string[] = []
  const values: SQLInputValue[] = []
  const add = (condition: string, ...more: SQLInputValue[]): void => {
    where.push(condition)
    values.push(...more)
  }
  if (driving) add('task_labels.label = ? AND task_labels.value = ?', ...driving)
  if (before) add(`(${place}.created_at, ${place}.seq) < (?, ?)`, before.createdAt, before.seq)
  if (since !== undefined) add(`${place}.created_at >= ?`, Date.parse(since))
  if (until !== undefined) add(`${place}.created_at < ?`, Date.parse(until))
  if (status) add(`status IN (${status.map(() => '?').join(', ')})`, ...status)
  if (pool !== undefined) add('pool = ?', pool)
  if (isDeadLetter !== undefined) add(`is_dead = ${isDeadLetter ? 1 : 0}`)
  for (const [label, value] of others) {
    add('EXISTS (SELECT 1 FROM task_labels AS other WHERE other.label = ? AND other.value = ? AND other.created_at = tasks.created_at AND other.seq = tasks.seq)', label, value)
  }
  return {
    sql: `${taskColumns.replace(/FROM .*/, `FROM ${from}`)} ${where.length > 0 ? `WHERE ${where.join(' AND ')}` : ''} ORDER BY ${place}.created_at DESC, ${place}.seq DESC LIMIT ?`,
    values,
  }
}

function parseCursor (cursor: string): Place {
  const match = /^(\d{1,15})\.(\d{1,15})$/.exec(cursor)
  if (match === null) throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that a list answered; leave it out to begin anew')
  return { createdAt: Number(match[1]), seq: Number(match[2]) }
}
