import { randomId } from '../../lib/id.ts'
import type { EventType } from '../../schemas/event.ts'
import type { TaskRows } from './task-rows.ts'

/** News about a task on its way to the event log. */
export interface OutboxEvent {
  /** Grows with each of one origin. */
  originSeq: number
  at: string
  type: EventType
  taskId: string
  sandboxId?: string
  data: Record<string, unknown>
}

type Row = { seq: number, at: string, type: EventType, task_id: string, sandbox_id: string | null, data: string }

/** The event log keeps no more than so many either. */
const maxKept = 100_000
const trimEvery = 1000

/**
 * What has happened to tasks and the event log may not have yet. Written in the transaction of what happened, deleted when the event
 * log has it for good. When the event log takes nothing for long, the oldest go.
 */
export class TaskOutbox {
  readonly #rows: TaskRows
  readonly #run: <T>(work: () => T) => Promise<T>
  #listener: (() => void) | undefined
  #added = 0

  /** `run`: carries out work in a transaction. */
  constructor (rows: TaskRows, run: <T>(work: () => T) => Promise<T>) {
    this.#rows = rows
    this.#run = run
  }

  /** Names the sequence that `originSeq` counts in. */
  get origin (): string {
    return String(this.#rows.prepare("SELECT value FROM task_store WHERE name = 'origin'").get()?.value)
  }

  /** The greatest originSeq ever. */
  get lastSeq (): number {
    return Number(this.#rows.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'task_outbox'").get()?.seq ?? 0)
  }

  /** Begins another sequence: this database has gone back in time (it was restored), so its numbers come a second time. In a transaction. */
  beginOrigin (): void {
    this.#rows.prepare("INSERT OR REPLACE INTO task_store (name, value) VALUES ('origin', ?)").run(randomId('obx'))
  }

  /** In the transaction of what has happened. */
  add ({ at, type, taskId, sandboxId, data }: Omit<OutboxEvent, 'originSeq'>): void {
    this.#rows.prepare('INSERT INTO task_outbox (at, type, task_id, sandbox_id, data) VALUES (?, ?, ?, ?, ?)')
      .run(at, type, taskId, sandboxId ?? null, JSON.stringify(data))
    if (++this.#added % trimEvery !== 0) return
    this.#rows.prepare('DELETE FROM task_outbox WHERE seq <= (SELECT max(seq) FROM task_outbox) - ?').run(maxKept)
  }

  /** The oldest after this one, at most `limit`. */
  read (after: number, limit: number): OutboxEvent[] {
    const rows = this.#rows.prepare('SELECT * FROM task_outbox WHERE seq > ? ORDER BY seq LIMIT ?').all(after, limit) as Row[]
    return rows.map(row => ({
      originSeq: row.seq,
      at: row.at,
      type: row.type,
      taskId: row.task_id,
      ...row.sandbox_id !== null && { sandboxId: row.sandbox_id },
      data: JSON.parse(row.data) as Record<string, unknown>,
    }))
  }

  /** Deletes what the event log has for good. */
  drop (upTo: number): Promise<void> {
    return this.#run(() => { this.#rows.prepare('DELETE FROM task_outbox WHERE seq <= ?').run(upTo) })
  }

  renew (): Promise<void> {
    return this.#run(() => this.beginOrigin())
  }

  /** Tells the one listener that there may be more. */
  notify (): void {
    this.#listener?.()
  }

  /** One listener at a time, called after commits; undefined takes it away. */
  listen (listener: (() => void) | undefined): void {
    this.#listener = listener
  }
}
