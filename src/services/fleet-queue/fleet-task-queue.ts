import { BerthError } from '../../errors.ts'
import type { Claim, ClaimId, ClaimRequest, Outcome, PoolCounts, Renewal, TaskQueue } from '../tasks/task-queue.ts'
import type { NewTask, StartFacts, TaskRecord } from '../tasks/task-record.ts'
import { laneOf, limitsByLabel } from './fleet-lane.ts'
import type { FleetNews, QueueListener } from './fleet-news.ts'
import type { FleetQueueOptions } from './fleet-queue-types.ts'
import type { FleetScripts, ScriptArgument } from './fleet-scripts.ts'
import { canonicalEnd, reasonMembers, toTaskRecord, type FlatHash } from './fleet-task-fields.ts'

const defaultMaxReturns = 10
const defaultReserveAfterMs = 30_000
/** Pauses differ by so much of their length, so that what failed together is not tried again together. */
const jitterShare = 0.1
/** So many claims are renewed in one step: others are to have their turn between. */
const renewBatch = 500

export interface FleetTaskQueueParts {
  scripts: FleetScripts
  news: FleetNews
  options: FleetQueueOptions
  close: () => Promise<void>
}

/**
 * The queue of a fleet. Every operation is one script, so whoever dies, what was answered is so, and nothing is left between.
 *
 * A lease that has lapsed is taken back when somebody else claims, as in the local queue; not though while those who hold tasks had no
 * chance to renew: after a time without anybody who claims (Redis was away, or everyone was cut off from it) lapsed leases have one
 * more lease of grace. Where an answer was lost, the same call again is right for all but `push` without a key, `release` and `retry`,
 * which are refused if they were carried out; what a lost `claim` took is found with `held`.
 */
export class FleetTaskQueue implements TaskQueue {
  readonly #scripts: FleetScripts
  readonly #news: FleetNews
  readonly #options: FleetQueueOptions
  readonly #maxReturns: number
  readonly #limits: string
  readonly #close: () => Promise<void>

  constructor ({ scripts, news, options, close }: FleetTaskQueueParts) {
    this.#scripts = scripts
    this.#news = news
    this.#options = options
    this.#maxReturns = options.maxReturns ?? defaultMaxReturns
    this.#limits = JSON.stringify(limitsByLabel(options.labelLimits))
    this.#close = close
  }

  async push (tasks: readonly NewTask[]): Promise<TaskRecord[]> {
    if (tasks.length === 0) return []
    const answer = await this.#scripts.run<FlatHash[] | ['task_exists', string]>('push', tasks.flatMap(task => this.#argumentsOf(task)))
    if (answer[0] === 'task_exists') throw new BerthError('conflict', 'task_exists', `there is a task ${String(answer[1])} already; take a new id for each task`)
    return (answer as FlatHash[]).map(flat => toTaskRecord(flat)!)
  }

  async claim ({ owner, pools, limit, leaseMs, room, capacity, labels = {} }: ClaimRequest): Promise<Claim[]> {
    const { reserveAfterMs = defaultReserveAfterMs } = this.#options
    const request = JSON.stringify({ owner, pools, limit, leaseMs, room, capacity, labels })
    return toClaims(await this.#scripts.run('claim', [request, this.#limits, reserveAfterMs, this.#maxReturns]))
  }

  async held (owner: string, leaseMs: number): Promise<Claim[]> {
    return toClaims(await this.#scripts.run('held', [owner, leaseMs]))
  }

  /** Once more with other facts is fine: a start whose answer was lost. */
  async start (claim: ClaimId, facts: StartFacts): Promise<void> {
    const isHeld = await this.#scripts.run<number>('start', [claim.taskId, claim.fence, JSON.stringify(facts)])
    if (isHeld === 0) throw stale(claim)
  }

  async renew (claims: readonly ClaimId[], leaseMs: number): Promise<Renewal[]> {
    const renewals: Renewal[] = []
    for (let from = 0; from < claims.length; from += renewBatch) {
      const batch = claims.slice(from, from + renewBatch)
      const answers = await this.#scripts.run<number[]>('renew', [leaseMs, ...batch.flatMap(({ taskId, fence }) => [taskId, fence])])
      renewals.push(...batch.map(({ taskId, fence }, index) => ({ taskId, fence, isHeld: answers[index]! > 0, isCancelRequested: answers[index] === 2 })))
    }
    return renewals
  }

  async settle (claim: ClaimId, { status, end, isRetryable }: Outcome): Promise<TaskRecord> {
    const endedAt = Date.parse(end.at)
    const jitter = jitterShare * (2 * Math.random() - 1)
    return orStale(claim, await this.#scripts.run('settle', [
      claim.taskId, claim.fence, status, canonicalEnd(end), Number.isNaN(endedAt) ? '' : endedAt, end.reason, reasonMembers(end), Number(isRetryable), jitter,
    ]))
  }

  async release (claim: ClaimId, { delayMs, isFault, message = '' }: { delayMs: number, isFault: boolean, message?: string }): Promise<TaskRecord> {
    return orStale(claim, await this.#scripts.run('release', [claim.taskId, claim.fence, delayMs, Number(isFault), message, this.#maxReturns]))
  }

  async cancel (taskId: string): Promise<TaskRecord> {
    return orMissing(taskId, await this.#scripts.run('cancel', [taskId]))
  }

  async retry (taskId: string): Promise<TaskRecord> {
    const [status, isQueued, flat = []] = await this.#scripts.run<[status: string, isQueued: number, flat: FlatHash] | []>('retry', [taskId])
    if (status !== undefined && isQueued === 0) {
      throw new BerthError('conflict', 'invalid_state', `task ${taskId} is ${status}; only one that has failed or was cancelled can be tried again`)
    }
    return orMissing(taskId, flat)
  }

  async stats (): Promise<PoolCounts[]> {
    const pools = await this.#scripts.run<Array<[string, number, number, number, number, number, string]>>('stats', [])
    return pools
      .map(([pool, delayed, pending, scheduled, running, deadLetters, oldest]) =>
        ({ pool, delayed, pending, scheduled, running, deadLetters, ...oldest !== '' && { oldestPendingAt: Number(oldest) } }))
      .sort((a, b) => a.pool < b.pool ? -1 : 1)
  }

  watch (listener: QueueListener): () => void {
    return this.#news.watchQueue(listener)
  }

  async close (): Promise<void> {
    await this.#close()
  }

  #argumentsOf ({ id, spec, delayMs, idempotencyKey = '' }: NewTask): ScriptArgument[] {
    const { labels, pool, maxAttempts, retry } = spec
    return [id, idempotencyKey, JSON.stringify(spec), JSON.stringify(labels), laneOf(spec, this.#options), pool, delayMs, maxAttempts, retry.backoffMs, retry.maxBackoffMs]
  }
}

function toClaims ([leaseUntil, ...tasks]: [string, ...FlatHash[]]): Claim[] {
  return tasks.map(flat => {
    const task = toTaskRecord(flat)!
    return { taskId: task.id, fence: task.attempts.at(-1)!.fence, task, leaseUntil: Number(leaseUntil) }
  })
}

function orStale (claim: ClaimId, flat: FlatHash): TaskRecord {
  const record = toTaskRecord(flat)
  if (record === undefined) throw stale(claim)
  return record
}

function orMissing (taskId: string, flat: FlatHash): TaskRecord {
  const record = toTaskRecord(flat)
  if (record === undefined) throw new BerthError('not_found', 'task_not_found', `there is no task ${taskId}; it may have been deleted, or be past the time for which ended tasks are kept`)
  return record
}

function stale ({ taskId, fence }: ClaimId): BerthError {
  return new BerthError('conflict', 'stale_claim', `delivery ${fence} of task ${taskId} is over: it was settled or given back, or another host has it; end what runs for it`)
}
