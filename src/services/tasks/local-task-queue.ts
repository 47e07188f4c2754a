import { isDeepStrictEqual } from 'node:util'
import { BerthError } from '../../errors.ts'
import type { NewsListener, TaskLedger } from './task-ledger.ts'
import { begin, cancelWaiting, deliver, finish, giveBack, requeue } from './task-moves.ts'
import type { Claim, ClaimId, ClaimRequest, Outcome, PoolCounts, Renewal, TaskQueue } from './task-queue.ts'
import type { NewTask, StartFacts, TaskRecord } from './task-record.ts'
import { newKeptTask, toRecord, type KeptTask } from './task-rows.ts'

const defaultMaxReturns = 10
/** What this host cannot begin goes back to the fleet soon: another may. */
const maxReturnsOfDelivery = 2
/** So many lapsed leases are taken back in one claim. */
const lapseBatch = 100

/**
 * The queue of one host. Operations of one turn of the event loop share a transaction; those that are refused are refused alone.
 *
 * A lease that has lapsed is taken back when somebody claims, and only from others: what an owner has itself, it has until it settles
 * or releases it, or another owner takes it. So a host that was suspended, or whose daemon was down, finds its own tasks still its own
 * (`renew`, `held`), is never handed one of them a second time, and loses those alone that another host has taken meanwhile. An owner
 * that may have lost an answer of `claim` finds what was in it with `held`.
 */
export class LocalTaskQueue implements TaskQueue {
  readonly #ledger: TaskLedger
  readonly #maxReturns: number

  constructor (ledger: TaskLedger, { maxReturns = defaultMaxReturns }: { maxReturns?: number | undefined } = {}) {
    this.#ledger = ledger
    this.#maxReturns = maxReturns
  }

  async push (tasks: readonly NewTask[]): Promise<TaskRecord[]> {
    return await this.#ledger.run(() => {
      const ids = new Set<string>()
      for (const { id, idempotencyKey } of tasks) {
        if (idempotencyKey !== undefined && this.#ledger.rows.findByKey(idempotencyKey)) continue
        if (!ids.has(id) && !this.#ledger.rows.find(id)) ids.add(id)
        else throw new BerthError('conflict', 'task_exists', `there is a task ${id} already; take a new id for each task`)
      }
      const now = this.#ledger.now()
      return tasks.map(task => toRecord(this.#push(task, now)))
    })
  }

  async claim ({ owner, pools, limit, leaseMs, room, capacity }: ClaimRequest): Promise<Claim[]> {
    return await this.#ledger.run(() => {
      const { lanes, rows } = this.#ledger
      const now = this.#ledger.now()
      this.#ledger.promote()
      this.#takeBackLapsed(owner, now)
      const claims: Claim[] = []
      const search = { pools: new Set(pools), room: { ...room }, capacity, now }
      while (claims.length < limit) {
        const next = lanes.next(search)
        const task = next && rows.findBySeq(next.head.seq)
        if (next === undefined) break
        // Never handed out twice, whatever is thought of it in memory: this failure has memory loaded anew.
        if (task?.isDue !== true) throw new Error(`lane ${next.lane.key} begins with a task that is not due`)
        this.#ledger.change(task, () => deliver(task, { owner, leaseUntil: now + leaseMs, now }))
        lanes.served(next.lane.fair)
        search.room.cpuMillis -= next.lane.requests.cpuMillis
        search.room.memoryBytes -= next.lane.requests.memoryBytes
        claims.push(toClaim(task))
      }
      return claims
    })
  }

  async held (owner: string, leaseMs: number): Promise<Claim[]> {
    return await this.#ledger.run(() => {
      const leaseUntil = this.#ledger.now() + leaseMs
      const tasks = this.#ledger.rows.select('WHERE lease_until IS NOT NULL AND owner = ? ORDER BY tasks.seq', owner)
      for (const task of tasks) this.#ledger.change(task, () => task.leaseUntil = leaseUntil)
      return tasks.map(toClaim)
    })
  }

  /** Once more with other facts is fine: a start whose answer was lost. */
  async start (claim: ClaimId, facts: StartFacts): Promise<void> {
    await this.#ledger.run(() => {
      const task = this.#claimed(claim)
      this.#ledger.change(task, () => begin(task, facts))
    })
  }

  async renew (claims: readonly ClaimId[], leaseMs: number): Promise<Renewal[]> {
    if (claims.length === 0) return []
    return await this.#ledger.run(() => {
      const leaseUntil = this.#ledger.now() + leaseMs
      // No more than the lease changes, and this is what is asked most often.
      const renew = this.#ledger.rows.prepare('UPDATE tasks SET lease_until = ? WHERE id = ? AND fence = ? AND lease_until IS NOT NULL RETURNING cancel_at')
      return claims.map(({ taskId, fence }) => {
        const [row] = renew.all(leaseUntil, taskId, fence)
        return { taskId, fence, isHeld: row !== undefined, isCancelRequested: row !== undefined && row.cancel_at !== null }
      })
    })
  }

  async settle (claim: ClaimId, outcome: Outcome): Promise<TaskRecord> {
    return await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(claim.taskId)
      if (task && !isHeldBy(task, claim) && wasSettled(task, claim, outcome)) return toRecord(task)
      const held = this.#claimed(claim, task)
      this.#ledger.change(held, () => finish(held, outcome, this.#ledger.now()), () => outcome.end)
      return toRecord(held)
    })
  }

  async release (claim: ClaimId, { delayMs, isFault, message }: { delayMs: number, isFault: boolean, message?: string }): Promise<TaskRecord> {
    return await this.#ledger.run(() => {
      const task = this.#claimed(claim)
      this.#giveBack(task, { delayMs, isFault, message })
      return toRecord(task)
    })
  }

  async cancel (taskId: string): Promise<TaskRecord> {
    return await this.#ledger.run(() => {
      const task = this.#find(taskId)
      const now = this.#ledger.now()
      if (task.status === 'pending') {
        this.#ledger.change(task, () => cancelWaiting(task, now), task => task.end)
      } else if (task.endedAt === undefined) {
        if (task.cancelAt === undefined) this.#ledger.change(task, () => task.cancelAt = now)
        this.#ledger.noteCancel(taskId)
      }
      return toRecord(task)
    })
  }

  async retry (taskId: string): Promise<TaskRecord> {
    return await this.#ledger.run(() => {
      const task = this.#find(taskId)
      if (task.report !== undefined) {
        throw new BerthError('conflict', 'task_of_fleet', `task ${taskId} is a delivery of task ${task.spec.fleet?.taskId} of the fleet; try that one again, at its gateway`)
      }
      if (task.status !== 'failed' && task.status !== 'cancelled') {
        throw new BerthError('conflict', 'invalid_state', `task ${taskId} is ${task.status}; only one that has failed or was cancelled can be tried again`)
      }
      this.#ledger.change(task, () => requeue(task, this.#ledger.now()))
      return toRecord(task)
    })
  }

  async stats (): Promise<PoolCounts[]> {
    return await this.#ledger.run(() => {
      this.#ledger.promote()
      return this.#ledger.counts()
    })
  }

  watch (listener: NewsListener): () => void {
    return this.#ledger.watch(listener)
  }

  async close (): Promise<void> {
    await this.#ledger.close()
  }

  #push (task: NewTask, now: number): KeptTask {
    const { idempotencyKey } = task
    const known = idempotencyKey === undefined ? undefined : this.#ledger.rows.findByKey(idempotencyKey)
    return known ?? this.#ledger.add(newKeptTask(task, { lane: this.#ledger.lanes.keyOf(task.spec), now }), idempotencyKey)
  }

  #takeBackLapsed (claimer: string, now: number): void {
    const lapsed = this.#ledger.rows.select('WHERE lease_until <= ? AND owner <> ? ORDER BY lease_until LIMIT ?', now, claimer, lapseBatch)
    for (const task of lapsed) this.#giveBack(task, { delayMs: 0, isFault: true, message: `the lease of host ${task.owner} lapsed` })
  }

  #giveBack (task: KeptTask, options: { delayMs: number, isFault: boolean, message: string | undefined }): void {
    this.#ledger.change(task, () => giveBack(task, { ...options, maxFaults: this.#maxReturnsOf(task), now: this.#ledger.now() }), task => task.attempts.at(-1)?.end)
  }

  #maxReturnsOf ({ report }: KeptTask): number {
    return report === undefined ? this.#maxReturns : Math.min(this.#maxReturns, maxReturnsOfDelivery)
  }

  #find (taskId: string): KeptTask {
    const task = this.#ledger.rows.find(taskId)
    if (task === undefined) throw new BerthError('not_found', 'task_not_found', `there is no task ${taskId}; it may have been deleted, or be past the time for which ended tasks are kept`)
    return task
  }

  #claimed (claim: ClaimId, task = this.#ledger.rows.find(claim.taskId)): KeptTask {
    if (task && isHeldBy(task, claim)) return task
    throw new BerthError('conflict', 'stale_claim', `delivery ${claim.fence} of task ${claim.taskId} is over: it was settled or given back, or another host has it; end what runs for it`)
  }
}

function isHeldBy (task: KeptTask, { fence }: ClaimId): boolean {
  return task.leaseUntil !== undefined && task.fence === fence
}

/** Whether a delivery ended in this very way. What failed in a task that was to be cancelled is kept as cancelled. */
function wasSettled (task: KeptTask, { fence }: ClaimId, { status, end }: Outcome): boolean {
  const attempt = task.attempts.find(attempt => attempt.fence === fence)
  if (attempt === undefined || (attempt.status !== status && (attempt.status !== 'cancelled' || status !== 'failed'))) return false
  return isDeepStrictEqual(attempt.end, JSON.parse(JSON.stringify(end)))
}

function toClaim (task: KeptTask): Claim {
  return { taskId: task.id, fence: task.fence, task: toRecord(task), leaseUntil: task.leaseUntil! }
}
