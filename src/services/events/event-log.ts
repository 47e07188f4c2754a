import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { setImmediate } from 'node:timers/promises'
import { ChangeSignal } from '../../lib/change-signal.ts'
import type { Event, EventType } from '../../schemas/event.ts'

export interface NewEvent {
  type: EventType
  sandboxId?: string | undefined
  execId?: string | undefined
  terminalId?: string | undefined
  taskId?: string | undefined
  data?: Record<string, unknown>
}

export interface EventFilter {
  /** Only events later than the one with this seq; all that are kept without it. */
  after?: number | undefined
  sandboxId?: string | undefined
  taskId?: string | undefined
  types?: readonly EventType[] | undefined
}

/** An event that happened elsewhere, and has a number there. */
export interface RelayedEvent extends Omit<NewEvent, 'execId' | 'terminalId'> {
  originSeq: number
  /** When it happened; ISO 8601. */
  at: string
}

export interface EventLogOptions {
  /** As opened by openEventsDatabase. */
  db: DatabaseSync
  /** Keep at most so many events … */
  maxEvents?: number
  /** … and none older than this. */
  maxAgeMs?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

type Row = { seq: number, at: string, type: EventType, data: string } & Record<'sandbox_id' | 'exec_id' | 'terminal_id' | 'task_id', string | null>

const dayMs = 24 * 3600 * 1000
const followBatch = 500
const pruneBatch = 1000

/** What happened on this host, in order, kept for a while. Followers read from the database, so a slow one holds no queue. */
export class EventLog {
  readonly #db: DatabaseSync
  readonly #maxEvents: number
  readonly #maxAgeMs: number
  readonly #now: () => number
  readonly #insert: StatementSync
  readonly #last: StatementSync
  readonly #statements = new Map<string, StatementSync>()
  readonly #changed = new ChangeSignal()
  #isClosed = false

  constructor (options: EventLogOptions) {
    this.#db = options.db
    this.#maxEvents = options.maxEvents ?? 100_000
    this.#maxAgeMs = options.maxAgeMs ?? 7 * dayMs
    this.#now = options.now ?? Date.now
    this.#insert = this.#db.prepare('INSERT INTO events (at, type, sandbox_id, exec_id, terminal_id, task_id, data) VALUES (?, ?, ?, ?, ?, ?, ?)')
    this.#last = this.#db.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
  }

  /** Seq of the newest event ever, 0 before the first. */
  get lastSeq (): number {
    return Number(this.#last.get()?.seq ?? 0)
  }

  /** Records an event and tells followers. Throws what SQLite throws: on a full disk an event cannot be written. */
  append (event: NewEvent): Event {
    const at = new Date(this.#now()).toISOString()
    const data = event.data ?? {}
    const subjects = [event.sandboxId, event.execId, event.terminalId, event.taskId].map(id => id ?? null)
    const { lastInsertRowid } = this.#insert.run(at, event.type, ...subjects, JSON.stringify(data))
    this.#changed.notify()
    return {
      seq: Number(lastInsertRowid),
      at,
      type: event.type,
      ...event.sandboxId !== undefined && { sandboxId: event.sandboxId },
      ...event.execId !== undefined && { execId: event.execId },
      ...event.terminalId !== undefined && { terminalId: event.terminalId },
      ...event.taskId !== undefined && { taskId: event.taskId },
      data,
    }
  }

  /** How far events of this origin have been taken over: 0 where none were, or this log was begun anew. */
  relayed (origin: string): number {
    return Number(this.#prepare('SELECT seq FROM relays WHERE origin = ?').get(origin)?.seq ?? 0)
  }

  /**
   * Takes events over, all or none, but those that it has taken over already. In the order of their numbers.
   * `isDurable`: they and all before them are on the disk when it returns. Throws what SQLite throws.
   */
  relay (origin: string, events: readonly RelayedEvent[], { isDurable = false } = {}): void {
    if (isDurable) this.#db.exec('PRAGMA synchronous = FULL')
    try {
      this.#db.exec('BEGIN IMMEDIATE')
      let last = this.relayed(origin)
      for (const { originSeq, at, type, sandboxId, taskId, data = {} } of events) {
        if (originSeq <= last) continue
        this.#insert.run(at, type, sandboxId ?? null, null, null, taskId ?? null, JSON.stringify(data))
        last = originSeq
      }
      this.#prepare('INSERT OR REPLACE INTO relays (origin, seq) VALUES (?, ?)').run(origin, last)
      this.#db.exec('COMMIT')
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw error
    } finally {
      if (isDurable) this.#db.exec('PRAGMA synchronous = NORMAL')
    }
    if (events.length > 0) this.#changed.notify()
  }

  /** The oldest matching events, at most `limit`. */
  read (filter: EventFilter & { limit: number }): Event[] {
    const where = ['seq > ?']
    const values: Array<string | number> = [filter.after ?? 0]
    if (filter.sandboxId !== undefined) {
      where.push('sandbox_id = ?')
      values.push(filter.sandboxId)
    }
    if (filter.taskId !== undefined) {
      where.push('task_id = ?')
      values.push(filter.taskId)
    }
    if (filter.types) {
      where.push(`type IN (${filter.types.map(() => '?').join(', ')})`)
      values.push(...filter.types)
    }
    const statement = this.#prepare(`SELECT * FROM events WHERE ${where.join(' AND ')} ORDER BY seq LIMIT ?`)
    return (statement.all(...values, filter.limit) as Row[]).map(toEvent)
  }

  /** Past events, then those to come, without a gap or a repeat between. Ends on abort and on close, without an error. */
  async * follow (filter: EventFilter & { signal: AbortSignal }): AsyncGenerator<Event> {
    const { signal } = filter
    let after = filter.after ?? 0
    while (!signal.aborted && !this.#isClosed) {
      const last = this.lastSeq
      const events = this.read({ ...filter, after, limit: followBatch })
      for (const event of events) {
        yield event
        if (signal.aborted) return
      }
      // Nothing that does not match is looked at twice. The seq never falls behind one the caller named.
      after = Math.max(after, events.length < followBatch ? last : 0, events.at(-1)?.seq ?? 0)
      if (!this.#isClosed && events.length < followBatch && this.lastSeq <= after) await this.#changed.wait(signal)
    }
  }

  /** Deletes what is too old or too much, in batches between which others run. Returns how many. */
  async prune (): Promise<number> {
    const oldest = new Date(this.#now() - this.#maxAgeMs).toISOString()
    const remove = this.#db.prepare('DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= ? OR at < ? ORDER BY seq LIMIT ?)')
    const keepFrom = this.#db.prepare('SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?').get(this.#maxEvents)
    let removed = 0
    while (!this.#isClosed) {
      const changes = Number(remove.run(Number(keepFrom?.seq ?? 0), oldest, pruneBatch).changes)
      removed += changes
      if (changes < pruneBatch) break
      await setImmediate()
    }
    return removed
  }

  /** Ends all followers and closes the database. */
  close (): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#changed.notify()
    this.#db.close()
  }

  #prepare (sql: string): StatementSync {
    const statement = this.#statements.get(sql) ?? this.#db.prepare(sql)
    this.#statements.set(sql, statement)
    return statement
  }
}

function toEvent (row: Row): Event {
  return {
    seq: row.seq,
    at: row.at,
    type: row.type,
    ...row.sandbox_id !== null && { sandboxId: row.sandbox_id },
    ...row.exec_id !== null && { execId: row.exec_id },
    ...row.terminal_id !== null && { terminalId: row.terminal_id },
    ...row.task_id !== null && { taskId: row.task_id },
    data: JSON.parse(row.data) as Record<string, unknown>,
  }
}
