import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import { setImmediate } from 'node:timers/promises'
import { ChangeSignal } from '../../lib/change-signal.ts'
import type { DecisionAction, DecisionGap, DecisionKind, NetworkDecision } from '../../schemas/network.ts'

/** A decision before this log has numbered it. */
export type NewDecision = Omit<NetworkDecision, 'seq'>

export interface DecisionFilter {
  sandboxId: string
  /** Only decisions with a greater seq; all that are kept without it. */
  after?: number | undefined
  action?: DecisionAction | undefined
  kind?: DecisionKind | undefined
}

export interface DecisionLogOptions {
  /** As opened by openNetworkDatabase. */
  db: DatabaseSync
  /** Keep at most so many decisions of one sandbox … */
  maxPerSandbox?: number
  /** … and none older than this. */
  maxAgeMs?: number
  /** How long `record` gathers before it writes. */
  gatherMs?: number
  /** Told of decisions that could not be written: the disk is full. */
  onError?: (error: unknown, lost: number) => void
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

type Row = Record<string, string | number | null>

const dayMs = 24 * 3600 * 1000
const followBatch = 500
const pruneBatch = 1000
// A burst of a hostile sandbox is written before it takes memory.
const maxGathered = 1000
// What is too much goes in parts: large enough that not each append deletes, small enough that none takes long.
const keptShare = 0.98

/**
 * What was decided about the networks of sandboxes, in order, kept for a while. No sandbox can push out another's:
 * each has its own limit. Where decisions are gone, readers are told so by a gap.
 */
export class DecisionLog {
  readonly #db: DatabaseSync
  readonly #options: Required<Omit<DecisionLogOptions, 'db'>>
  readonly #insert: StatementSync
  readonly #last: StatementSync
  readonly #statements = new Map<string, StatementSync>()
  /** How many are kept of a sandbox, of those that were counted already. */
  readonly #counts = new Map<string, number>()
  readonly #changed = new ChangeSignal()
  readonly #closing = new AbortController()
  #gathered: NewDecision[] = []
  #timer: NodeJS.Timeout | undefined

  constructor (options: DecisionLogOptions) {
    const { db, ...others } = options
    this.#db = db
    this.#options = { maxPerSandbox: 10_000, maxAgeMs: 7 * dayMs, gatherMs: 100, onError: () => {}, now: Date.now, ...others }
    this.#insert = db.prepare(`
      INSERT INTO decisions (at, sandbox_id, kind, action, reason, count, name, entry, protocol, address, port) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
    this.#last = db.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'decisions'")
  }

  /** Seq of the newest decision ever, 0 before the first. */
  get lastSeq (): number {
    return Number(this.#last.get()?.seq ?? 0)
  }

  /** Writes a decision soon, together with others. Never throws: what cannot be written is lost, and `onError` told. */
  record (decision: NewDecision): void {
    if (this.#closing.signal.aborted) return
    this.#gathered.push(decision)
    if (this.#gathered.length >= maxGathered) this.#flush()
    else this.#timer ??= setTimeout(() => this.#flush(), this.#options.gatherMs).unref()
  }

  /** Writes decisions, all or none, and tells followers. Throws what SQLite throws. */
  append (decisions: readonly NewDecision[]): void {
    if (decisions.length === 0) return
    const added = new Map<string, number>()
    for (const { sandboxId } of decisions) added.set(sandboxId, (added.get(sandboxId) ?? 0) + 1)
    // Counted before the insertion, so that nothing counts twice.
    const kept = new Map([...added].map(([sandboxId, count]) => [sandboxId, this.#count(sandboxId) + count]))
    this.#transaction(() => {
      for (const one of decisions) {
        const { at, sandboxId, kind, action, reason, count, name = null, entry = null, protocol = null, address = null, port = null } = one
        this.#insert.run(at, sandboxId, kind, action, reason, count, name, entry, protocol, address, port)
      }
      for (const [sandboxId, count] of kept) if (count > this.#options.maxPerSandbox) kept.set(sandboxId, this.#trim(sandboxId))
    })
    for (const [sandboxId, count] of kept) this.#counts.set(sandboxId, count)
    this.#changed.notify()
  }

  /** The oldest matching decisions, at most `limit`; with those that wait to be written. */
  list (filter: DecisionFilter & { limit: number }): NetworkDecision[] {
    this.#flush()
    const where = ['sandbox_id = ?', 'seq > ?']
    const values: SQLInputValue[] = [filter.sandboxId, filter.after ?? 0]
    for (const column of ['action', 'kind'] as const) {
      if (filter[column] === undefined) continue
      where.push(`${column} = ?`)
      values.push(filter[column])
    }
    const statement = this.#prepare(`SELECT * FROM decisions WHERE ${where.join(' AND ')} ORDER BY seq LIMIT ?`)
    return (statement.all(...values, filter.limit) as Row[]).map(toDecision)
  }

  /** Says that decisions of a sandbox behind `after` are gone; undefined when none are. */
  gap (sandboxId: string, after = 0): DecisionGap | undefined {
    const seq = Number(this.#prepare('SELECT up_to_seq FROM decision_gaps WHERE sandbox_id = ?').get(sandboxId)?.up_to_seq ?? 0)
    if (seq <= after) return undefined
    return { type: 'gap', seq, message: `decisions up to ${seq} are gone: only so many are kept, and only for a time` }
  }

  /** Past decisions, then those to come, without a repeat, and gaps where some are gone. Ends on abort and on close, without an error. */
  async * follow (filter: DecisionFilter & { signal: AbortSignal }): AsyncGenerator<NetworkDecision | DecisionGap> {
    const signal = AbortSignal.any([filter.signal, this.#closing.signal])
    let after = filter.after ?? 0
    let toldGap = 0
    while (!signal.aborted) {
      const gap = this.gap(filter.sandboxId, Math.max(after, toldGap))
      if (gap) {
        yield gap
        // What is too old goes by its time, so that a decision before the gap's end may be there still.
        toldGap = gap.seq
        if (signal.aborted) return
      }
      const decisions = this.list({ ...filter, after, limit: followBatch })
      const last = this.lastSeq
      for (const decision of decisions) {
        yield decision
        if (signal.aborted) return
      }
      // Nothing that does not match is looked at twice. The seq never falls behind one the caller named.
      after = Math.max(after, decisions.length < followBatch ? last : 0, decisions.at(-1)?.seq ?? 0)
      if (decisions.length < followBatch && this.lastSeq <= after) await this.#changed.wait(signal)
    }
  }

  /** The sandbox is gone, and what was decided about it. */
  forget (sandboxId: string): void {
    this.#gathered = this.#gathered.filter(decision => decision.sandboxId !== sandboxId)
    this.#counts.delete(sandboxId)
    this.#transaction(() => {
      this.#prepare('DELETE FROM decisions WHERE sandbox_id = ?').run(sandboxId)
      this.#prepare('DELETE FROM decision_gaps WHERE sandbox_id = ?').run(sandboxId)
    })
  }

  /** Deletes what is too old, in batches between which others run. Returns how many. */
  async prune (): Promise<number> {
    const oldest = new Date(this.#options.now() - this.#options.maxAgeMs).toISOString()
    let removed = 0
    while (!this.#closing.signal.aborted) {
      const changes = this.#removeWhere('seq IN (SELECT seq FROM decisions WHERE at < ? ORDER BY at, seq LIMIT ?)', oldest, pruneBatch)
      removed += changes
      if (changes < pruneBatch) break
      await setImmediate()
    }
    // Few, and cheap to count anew.
    if (removed > 0) this.#counts.clear()
    return removed
  }

  /** Writes what waits, ends all followers and closes the database. */
  close (): void {
    if (this.#closing.signal.aborted) return
    this.#flush()
    this.#closing.abort()
    this.#db.close()
  }

  #flush (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const decisions = this.#gathered
    this.#gathered = []
    try {
      this.append(decisions)
    } catch (error) {
      this.#options.onError(error, decisions.length)
    }
  }

  #count (sandboxId: string): number {
    return this.#counts.get(sandboxId) ?? Number(this.#prepare('SELECT count(*) AS count FROM decisions WHERE sandbox_id = ?').get(sandboxId)?.count)
  }

  /** Removes the oldest of a sandbox; says how many are left. */
  #trim (sandboxId: string): number {
    const left = Math.ceil(this.#options.maxPerSandbox * keptShare)
    const newestGone = this.#prepare('SELECT seq FROM decisions WHERE sandbox_id = ? ORDER BY seq DESC LIMIT 1 OFFSET ?').get(sandboxId, left)
    this.#removeWhere('sandbox_id = ? AND seq <= ?', sandboxId, Number(newestGone?.seq ?? 0))
    return left
  }

  /** Removes decisions and remembers, for each sandbox, up to where. */
  #removeWhere (condition: string, ...values: SQLInputValue[]): number {
    return this.#transaction(() => {
      this.#prepare(`
        INSERT INTO decision_gaps (sandbox_id, up_to_seq) SELECT sandbox_id, max(seq) FROM decisions WHERE ${condition} GROUP BY sandbox_id
        ON CONFLICT (sandbox_id) DO UPDATE SET up_to_seq = max(up_to_seq, excluded.up_to_seq)`).run(...values)
      return Number(this.#prepare(`DELETE FROM decisions WHERE ${condition}`).run(...values).changes)
    })
  }

  #transaction<T> (work: () => T): T {
    if (this.#db.isTransaction) return work()
    this.#db.exec('BEGIN IMMEDIATE')
    try {
      const result = work()
      this.#db.exec('COMMIT')
      return result
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      throw error
    }
  }

  #prepare (sql: string): StatementSync {
    const statement = this.#statements.get(sql) ?? this.#db.prepare(sql)
    this.#statements.set(sql, statement)
    return statement
  }
}

function toDecision (row: Row): NetworkDecision {
  const { sandbox_id: sandboxId, ...others } = row
  const present = Object.entries({ ...others, sandboxId }).filter(([, value]) => value !== null)
  return Object.fromEntries(present) as unknown as NetworkDecision
}
