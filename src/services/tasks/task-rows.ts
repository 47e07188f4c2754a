/** Tasks as rows of `tasks.db`, and back. */
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import type { TaskEnd, TaskStatus } from '../../schemas/task.ts'
import type { AttemptRecord, NewTask, ReportStage, StatusChange, TaskRecord, TaskSpec } from './task-record.ts'

/** A task as the queue works on it. Times are milliseconds since the epoch. */
export interface KeptTask {
  /** Grows with each push. */
  readonly seq: number
  readonly id: string
  readonly spec: TaskSpec
  readonly createdAt: number
  status: TaskStatus
  /** Which tasks it shares its place in the queue with: see TaskLanes. */
  lane: string
  availableAt: number
  /** pending, and no longer delayed. Once it is due it stays so, whatever the clock does. */
  isDue: boolean
  attempt: number
  /** The attempt after which it is not tried again. */
  lastAttempt: number
  fence: number
  /** How often it was given back with a fault since it last was run to an end. */
  faults: number
  owner: string | undefined
  leaseUntil: number | undefined
  cancelAt: number | undefined
  endedAt: number | undefined
  isDeadLetter: boolean
  areOutputsDone: boolean
  /** Of deliveries of a fleet. */
  report: ReportStage | undefined
  end: TaskEnd | undefined
  attempts: AttemptRecord[]
  history: StatusChange[]
}

type Row = Record<string, string | number | null>

export const taskColumns = 'SELECT tasks.*, spec FROM tasks JOIN task_specs USING (seq)'

/** Reads and writes rows; knows no rules. */
export class TaskRows {
  readonly #db: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()

  constructor (db: DatabaseSync) {
    this.#db = db
  }

  /** Statements are kept: callers use few and fixed ones. */
  prepare (sql: string): StatementSync {
    const kept = this.#statements.get(sql)
    if (kept !== undefined) return kept
    const statement = this.#db.prepare(sql)
    this.#statements.set(sql, statement)
    return statement
  }

  /** Once, for a statement that is put together from what somebody asks for. */
  query (sql: string, ...values: SQLInputValue[]): Row[] {
    return this.#db.prepare(sql).all(...values) as Row[]
  }

  find (id: string): KeptTask | undefined {
    return this.select('WHERE id = ?', id)[0]
  }

  findBySeq (seq: number): KeptTask | undefined {
    return this.select('WHERE tasks.seq = ?', seq)[0]
  }

  findByKey (key: string): KeptTask | undefined {
    return this.select('WHERE idempotency_key = ?', key)[0]
  }

  /** `rest`: what follows the columns in the statement. */
  select (rest: string, ...values: SQLInputValue[]): KeptTask[] {
    return (this.prepare(`${taskColumns} ${rest}`).all(...values) as Row[]).map(toKeptTask)
  }

  insert (task: Omit<KeptTask, 'seq'>, idempotencyKey: string | undefined): KeptTask {
    const { spec } = task
    const { lastInsertRowid } = this.prepare(`INSERT INTO tasks (id, pool, idempotency_key, created_at, ${changing.join(', ')})
      VALUES (${'?, '.repeat(changing.length + 3)}?)`).run(task.id, spec.pool, idempotencyKey ?? null, task.createdAt, ...changingValues(task))
    const seq = Number(lastInsertRowid)
    this.prepare('INSERT INTO task_specs (seq, spec) VALUES (?, ?)').run(seq, JSON.stringify(spec))
    for (const [label, value] of Object.entries(spec.labels)) {
      this.prepare('INSERT INTO task_labels (label, value, created_at, seq) VALUES (?, ?, ?, ?)').run(label, value, task.createdAt, seq)
    }
    return { ...task, seq }
  }

  update (task: KeptTask): void {
    this.prepare(`UPDATE tasks SET ${changing.map(column => `${column} = ?`).join(', ')} WHERE seq = ?`).run(...changingValues(task), task.seq)
  }

  delete (task: KeptTask): void {
    for (const [label, value] of Object.entries(task.spec.labels)) {
      this.prepare('DELETE FROM task_labels WHERE label = ? AND value = ? AND created_at = ? AND seq = ?').run(label, value, task.createdAt, task.seq)
    }
    this.prepare('DELETE FROM tasks WHERE seq = ?').run(task.seq)
  }
}

const changing = [
  'status', 'lane', 'available_at', 'is_due', 'attempt', 'last_attempt', 'fence', 'faults', 'owner', 'lease_until', 'cancel_at', 'ended_at',
  'is_dead', 'outputs_done', 'report', 'end', 'attempts', 'history',
]

function changingValues (task: Omit<KeptTask, 'seq'>): SQLInputValue[] {
  return [
    task.status, task.lane, task.availableAt, Number(task.isDue), task.attempt, task.lastAttempt, task.fence, task.faults,
    task.owner ?? null, task.leaseUntil ?? null, task.cancelAt ?? null, task.endedAt ?? null, Number(task.isDeadLetter), Number(task.areOutputsDone),
    task.report ?? null, task.end === undefined ? null : JSON.stringify(task.end), JSON.stringify(task.attempts), JSON.stringify(task.history),
  ]
}

/** A task as it is when it is queued. */
export function newKeptTask ({ id, spec, delayMs }: NewTask, { lane, now }: { lane: string, now: number }): Omit<KeptTask, 'seq'> {
  return {
    id,
    spec,
    createdAt: now,
    status: 'pending',
    lane,
    availableAt: now + delayMs,
    isDue: delayMs <= 0,
    attempt: 1,
    lastAttempt: spec.maxAttempts,
    fence: 0,
    faults: 0,
    owner: undefined,
    leaseUntil: undefined,
    cancelAt: undefined,
    endedAt: undefined,
    isDeadLetter: false,
    areOutputsDone: spec.outputs.length === 0,
    report: spec.fleet !== undefined && spec.fleet.fence > 0 ? 'none' : undefined,
    end: undefined,
    attempts: [],
    history: [{ at: isoTime(now), status: 'pending', attempt: 1 }],
  }
}

export function toKeptTask (row: Row): KeptTask {
  return {
    seq: Number(row.seq),
    id: String(row.id),
    spec: JSON.parse(String(row.spec)) as TaskSpec,
    createdAt: Number(row.created_at),
    status: row.status as TaskStatus,
    lane: String(row.lane),
    availableAt: Number(row.available_at),
    isDue: row.is_due === 1,
    attempt: Number(row.attempt),
    lastAttempt: Number(row.last_attempt),
    fence: Number(row.fence),
    faults: Number(row.faults),
    owner: row.owner === null ? undefined : String(row.owner),
    leaseUntil: row.lease_until === null ? undefined : Number(row.lease_until),
    cancelAt: row.cancel_at === null ? undefined : Number(row.cancel_at),
    endedAt: row.ended_at === null ? undefined : Number(row.ended_at),
    isDeadLetter: row.is_dead === 1,
    areOutputsDone: row.outputs_done === 1,
    report: row.report === null ? undefined : row.report as ReportStage,
    end: row.end === null ? undefined : JSON.parse(String(row.end)) as TaskEnd,
    attempts: JSON.parse(String(row.attempts)) as AttemptRecord[],
    history: JSON.parse(String(row.history)) as StatusChange[],
  }
}

export function toRecord (task: KeptTask): TaskRecord {
  return {
    id: task.id,
    spec: task.spec,
    status: task.status,
    attempt: task.attempt,
    attempts: task.attempts,
    history: task.history,
    createdAt: isoTime(task.createdAt),
    availableAt: isoTime(task.availableAt),
    ...task.endedAt !== undefined && { endedAt: isoTime(task.endedAt) },
    ...task.cancelAt !== undefined && { cancelRequestedAt: isoTime(task.cancelAt) },
    ...task.end && { end: task.end },
    ...task.isDeadLetter && { isDeadLetter: true },
    ...task.report && { report: task.report },
  }
}

/** A delivery of a fleet of which there is still something to tell. */
export function isUnreported ({ report }: Pick<KeptTask, 'report'>): boolean {
  return report !== undefined && report !== 'done' && report !== 'abandoned'
}

export function isoTime (ms: number): string {
  return new Date(ms).toISOString()
}
