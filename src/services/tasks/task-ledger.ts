import type { DatabaseSync } from 'node:sqlite'
import type { TaskEnd } from '../../schemas/task.ts'
import { DueTimer } from './due-timer.ts'
import { GroupCommit } from './group-commit.ts'
import { TaskLanes } from './task-lanes.ts'
import { TaskOutbox } from './task-outbox.ts'
import type { LabelLimit, PoolCounts } from './task-queue.ts'
import { isoTime, TaskRows, type KeptTask } from './task-rows.ts'

export interface TaskQueueOptions {
  /** The label between whose values tasks of one priority take turns. */
  fairLabel: string
  /** A limit for one value of a label counts in the place of that for all of its values. */
  labelLimits: readonly LabelLimit[]
  /** The faulty return that makes so many, without a run to an end between them, ends a task as `undeliverable`; 10 without it. */
  maxReturns?: number
  /** A task that has been due for so long is waited for with the room that it needs; 30 s without it. */
  reserveAfterMs?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

export type QueueNews = { kind: 'available' } | { kind: 'cancel', taskId: string }
export type NewsListener = (news: QueueNews) => void

type Place = 'delayed' | 'pending' | 'scheduled' | 'running'

/** So many become due in one operation. */
const dueBatch = 500
const retryAfterMs = 1000

/**
 * Where every change of a task goes through: its row, its news and what is known in memory change together, and those who wait are told
 * after the commit.
 */
export class TaskLedger {
  readonly rows: TaskRows
  readonly outbox: TaskOutbox
  readonly lanes: TaskLanes
  readonly now: () => number
  readonly #commit: GroupCommit
  readonly #timer: DueTimer
  readonly #pools = new Map<string, PoolCounts>()
  readonly #listeners = new Set<NewsListener>()
  readonly #watchers = new Map<string, Set<() => void>>()
  readonly #changed = new Set<string>()
  readonly #cancelled = new Set<string>()
  #hasNews = false
  #isAvailable = false
  /** Lapses up to this time have been told. */
  #lapsesToldUntil = 0

  constructor (db: DatabaseSync, { fairLabel, labelLimits, reserveAfterMs = 30_000, now = () => Date.now() }: TaskQueueOptions) {
    this.now = now
    this.rows = new TaskRows(db)
    this.outbox = new TaskOutbox(this.rows, work => this.run(work))
    this.lanes = new TaskLanes({ fairLabel, labelLimits, reserveAfterMs, findHead: lane => this.#findHead(lane) })
    this.#timer = new DueTimer({ now, next: () => this.#nextTime(), onDue: () => this.#onDue() })
    this.#commit = new GroupCommit({
      db,
      load: () => this.#load(),
      afterCommit: () => {
        this.#tell()
        this.#timer.arm()
      },
      afterFailure: () => {
        this.#forgetNews()
        this.#timer.arm(retryAfterMs)
      },
    })
    this.#timer.arm()
  }

  /** Carries out an operation: see GroupCommit. */
  run<T> (work: () => T): Promise<T> {
    return this.#commit.run(work)
  }

  async close (): Promise<void> {
    this.#timer.stop()
    await this.#commit.close()
    this.#timer.stop()
    this.#listeners.clear()
    this.#watchers.clear()
  }

  add (task: Omit<KeptTask, 'seq'>, idempotencyKey: string | undefined): KeptTask {
    const added = this.rows.insert(task, idempotencyKey)
    this.#count(added, 1)
    this.#note(added, 'task.created', { to: added.status, attempt: added.attempt })
    return added
  }

  /** `edit` must not fail. `endOf`: what of the changed task says why its status changed. */
  change (task: KeptTask, edit: () => void, endOf: (task: KeptTask) => TaskEnd | undefined = () => undefined): void {
    const before = { ...task }
    edit()
    if (task.status !== before.status) this.#noteStatus(task, before, endOf(task))
    this.rows.update(task)
    this.#count(task, 1)
    this.#count(before, -1)
    this.#changed.add(task.id)
  }

  remove (task: KeptTask): void {
    this.rows.delete(task)
    this.#count(task, -1)
    this.#note(task, 'task.deleted', {})
  }

  /** Makes delayed tasks due whose time has come. */
  promote (): void {
    const rows = this.rows.prepare(`SELECT seq, lane, pool, available_at FROM tasks INDEXED BY tasks_delayed
      WHERE status = 'pending' AND is_due = 0 AND available_at <= ? ORDER BY available_at LIMIT ?`).all(this.now(), dueBatch)
    for (const row of rows) {
      const head = { seq: Number(row.seq), dueAt: Number(row.available_at) }
      this.rows.prepare('UPDATE tasks SET is_due = 1 WHERE seq = ?').run(head.seq)
      this.lanes.addDue(String(row.lane), 1, head)
      const counts = this.#pool(String(row.pool))
      counts.delayed--
      counts.pending++
      this.#isAvailable = true
    }
  }

  noteCancel (taskId: string): void {
    this.#cancelled.add(taskId)
  }

  counts (): PoolCounts[] {
    const oldest = new Map<string, number>()
    const rows = this.rows.prepare('SELECT lane, min(available_at) AS oldest FROM tasks INDEXED BY tasks_ready WHERE is_due = 1 GROUP BY lane').all()
    for (const row of rows) {
      const [pool] = JSON.parse(String(row.lane)) as [string]
      oldest.set(pool, Math.min(oldest.get(pool) ?? Infinity, Number(row.oldest)))
    }
    return [...this.#pools.values()]
      .filter(({ delayed, pending, scheduled, running, deadLetters }) => delayed + pending + scheduled + running + deadLetters > 0)
      .map(counts => ({ ...counts, ...oldest.has(counts.pool) && { oldestPendingAt: oldest.get(counts.pool)! } }))
      .sort((a, b) => a.pool < b.pool ? -1 : 1)
  }

  watch (listener: NewsListener): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  watchTask (id: string, listener: () => void): () => void {
    const watcher = () => listener()
    const watchers = this.#watchers.get(id) ?? new Set()
    this.#watchers.set(id, watchers.add(watcher))
    return () => {
      watchers.delete(watcher)
      if (watchers.size === 0 && this.#watchers.get(id) === watchers) this.#watchers.delete(id)
    }
  }

  #load (): void {
    this.lanes.clear()
    this.#pools.clear()
    const unfinished = this.rows.prepare(`SELECT lane, pool, status, is_due, count(*) AS n FROM tasks
      WHERE status IN ('pending', 'scheduled', 'running') GROUP BY lane, pool, status, is_due`).all()
    for (const { lane, pool, status, is_due: isDue, n } of unfinished) {
      const place = placeOf({ status: status as KeptTask['status'], isDue: isDue === 1 })!
      this.#pool(String(pool))[place] += Number(n)
      if (place === 'pending') this.lanes.addDue(String(lane), Number(n))
      else if (place !== 'delayed') this.lanes.addClaimed(String(lane), Number(n))
    }
    const dead = this.rows.prepare('SELECT pool, count(*) AS n FROM tasks WHERE is_dead = 1 GROUP BY pool').all()
    for (const { pool, n } of dead) this.#pool(String(pool)).deadLetters = Number(n)
  }

  #findHead (lane: string): { seq: number, dueAt: number } | undefined {
    const row = this.rows.prepare('SELECT seq, available_at FROM tasks INDEXED BY tasks_ready WHERE lane = ? AND is_due = 1 ORDER BY seq LIMIT 1').get(lane)
    return row && { seq: Number(row.seq), dueAt: Number(row.available_at) }
  }

  #count (task: KeptTask, sign: 1 | -1): void {
    const place = placeOf(task)
    const counts = this.#pool(task.spec.pool)
    if (task.isDeadLetter) counts.deadLetters += sign
    if (place === undefined) return
    counts[place] += sign
    if (place === 'pending') {
      if (sign === -1) return this.lanes.removeDue(task.lane, task.seq)
      this.lanes.addDue(task.lane, 1, { seq: task.seq, dueAt: task.availableAt })
      this.#isAvailable = true
    } else if (place !== 'delayed') {
      this.lanes.addClaimed(task.lane, sign)
    }
  }

  #pool (pool: string): PoolCounts {
    const known = this.#pools.get(pool)
    if (known !== undefined) return known
    const counts = { pool, delayed: 0, pending: 0, scheduled: 0, running: 0, deadLetters: 0 }
    this.#pools.set(pool, counts)
    return counts
  }

  #note (task: KeptTask, type: 'task.created' | 'task.status' | 'task.deleted', data: Record<string, unknown>, sandboxId?: string): void {
    this.outbox.add({ at: isoTime(this.now()), type, taskId: task.id, ...sandboxId !== undefined && { sandboxId }, data })
    this.#changed.add(task.id)
    this.#hasNews = true
  }

  #noteStatus (task: KeptTask, before: KeptTask, end: TaskEnd | undefined): void {
    const wasClaimed = before.leaseUntil !== undefined
    if (wasClaimed && task.leaseUntil === undefined) this.#isAvailable = true
    const attempt = wasClaimed ? before.attempt : task.attempt
    const why = end && { reason: end.reason, ...end.exitCode !== undefined && { exitCode: end.exitCode } }
    task.history.push({ at: isoTime(this.now()), status: task.status, attempt, ...why, ...end?.message !== undefined && { message: end.message } })
    const sandboxId = wasClaimed ? task.attempts.at(-1)?.sandboxId : undefined
    this.#note(task, 'task.status', { from: before.status, to: task.status, attempt, ...why }, sandboxId)
  }

  #nextTime (): number | undefined {
    const due = this.rows.prepare("SELECT min(available_at) AS at FROM tasks INDEXED BY tasks_delayed WHERE status = 'pending' AND is_due = 0").get()?.at
    const lapse = this.rows.prepare('SELECT min(lease_until) AS at FROM tasks INDEXED BY tasks_leased WHERE lease_until > ?').get(Math.min(this.#lapsesToldUntil, this.now()))?.at
    const times = [due, lapse].filter(at => typeof at === 'number')
    return times.length === 0 ? undefined : Math.min(...times)
  }

  #onDue (): void {
    this.#lapsesToldUntil = Math.max(this.#lapsesToldUntil, this.now())
    // What fails is tried again: afterFailure arms the timer.
    this.run(() => {
      this.promote()
      this.#isAvailable = true
    }).catch(() => {})
  }

  #tell (): void {
    const changed = [...this.#changed]
    const cancelled = [...this.#cancelled]
    const isAvailable = this.#isAvailable && [...this.#pools.values()].some(({ pending, scheduled, running }) => pending + scheduled + running > 0)
    const hasNews = this.#hasNews
    this.#forgetNews()
    for (const id of changed) for (const watcher of [...this.#watchers.get(id) ?? []]) watcher()
    for (const taskId of cancelled) for (const listener of [...this.#listeners]) listener({ kind: 'cancel', taskId })
    if (isAvailable) for (const listener of [...this.#listeners]) listener({ kind: 'available' })
    if (hasNews) this.outbox.notify()
  }

  #forgetNews (): void {
    this.#changed.clear()
    this.#cancelled.clear()
    this.#hasNews = false
    this.#isAvailable = false
  }
}

function placeOf ({ status, isDue }: Pick<KeptTask, 'status' | 'isDue'>): Place | undefined {
  if (status === 'pending') return isDue ? 'pending' : 'delayed'
  return status === 'scheduled' || status === 'running' ? status : undefined
}
