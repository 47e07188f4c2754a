/** What becomes of a task, told as an airstore gateway wants to hear it. */
import type { TaskRecord } from '../tasks/task-record.ts'
import { definedOf } from '../tasks/task-spec.ts'
import { runBatch, type RedisCommand } from '../redis/redis-batch.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import { keptSeconds, wireKeys, type WireKeys } from './wire-keys.ts'
import type { WireRefusal } from './wire-task.ts'

export interface WireReportOptions {
  redis: RedisConnection
}

/** Where the record does not say it. */
export interface WireReportFacts {
  workerId?: string
}

const nanosecondsPerMs = 1_000_000

/**
 * Writes the state unless a later one is there already: reports of several hosts and of several attempts may come in any order.
 *   KEYS state  ARGV JSON, its number, seconds, JSON of the commands that follow  → 1: written, 0: there is a later one
 */
const writeState = `
local kept = redis.call('GET', KEYS[1])
if kept then
  local ok, state = pcall(cjson.decode, kept)
  if ok and type(state) == 'table' and type(state.report) == 'number' and state.report > tonumber(ARGV[2]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
for _, command in ipairs(cjson.decode(ARGV[4])) do redis.call(unpack(command)) end
return 1`

/** How far a delivery is. */
const ranks = { scheduled: 1, running: 2, pending: 3, complete: 4, failed: 4, cancelled: 4 }

/**
 * Takes the record of a delivery as its host has it, or that of the fleet; each report may be made any number of times. Tasks of
 * foreign producers have their state and result kept and are in the set of what is in flight; of all others only the event is told.
 *
 * @throws BerthError unavailable `redis_unavailable`.
 */
export class WireReports {
  readonly #redis: RedisConnection
  readonly #keys: WireKeys

  constructor ({ redis }: WireReportOptions) {
    this.#redis = redis
    this.#keys = wireKeys(redis.prefix)
  }

  async scheduled (record: TaskRecord, facts: WireReportFacts = {}): Promise<void> {
    await this.#report(record, { status: 'scheduled', ...facts })
  }

  async started (record: TaskRecord, facts: WireReportFacts = {}): Promise<void> {
    await this.#report(record, { status: 'running', ...facts })
  }

  /** With a record that is pending again: the attempt has ended, and another one follows. */
  async ended (record: TaskRecord, facts: WireReportFacts = {}): Promise<void> {
    await this.#report(record, { status: record.status, ...facts })
  }

  /** Ends a task that can never be run, unless it was begun all the same. */
  async refused ({ externalId, message }: WireRefusal): Promise<void> {
    if (externalId === undefined) return
    const at = new Date().toISOString()
    const state = { id: externalId, status: 'failed', exit_code: -1, error: message, created_at: at, finished_at: at, report: 0 }
    await this.#write(externalId, state, [
      ['SET', this.#keys.result(externalId), JSON.stringify({ id: externalId, exit_code: -1, error: message, duration: 0 }), 'EX', keptSeconds],
      ['PUBLISH', this.#keys.logs(externalId), JSON.stringify({ task_id: externalId, timestamp: Date.now(), status: 'failed', exit_code: -1, error: message })],
    ])
  }

  async #report (record: TaskRecord, { status, workerId }: WireReportFacts & { status: TaskRecord['status'] }): Promise<void> {
    const { externalId } = record.spec.fleet ?? {}
    const outcome = outcomeOf(record, status)
    const key = externalId ?? record.spec.fleet?.taskId ?? record.id
    const event: RedisCommand = ['PUBLISH', this.#keys.logs(key), JSON.stringify({
      task_id: key, timestamp: Date.now(), status, ...definedOf({ exit_code: outcome.exitCode, error: outcome.error }), attempt: attemptOf(record), fence: fenceOf(record),
    })]
    if (externalId === undefined) {
      await this.#redis.run(client => runBatch(client, [event]))
      return
    }
    await this.#write(externalId, stateOf(record, { id: externalId, status, workerId, ...outcome }), [...this.#marks(record, externalId, status, outcome), event])
  }

  #marks (record: TaskRecord, externalId: string, status: TaskRecord['status'], outcome: WireOutcome): RedisCommand[] {
    const inFlight = this.#keys.inFlight(record.spec.pool)
    if (status === 'scheduled' || status === 'running') return [['SADD', inFlight, externalId]]
    if (status === 'pending') return [['SREM', inFlight, externalId]]
    const { startedAt, endedAt } = timesOf(record)
    const durationMs = startedAt === undefined || endedAt === undefined ? 0 : Math.max(0, Date.parse(endedAt) - Date.parse(startedAt))
    const result = { id: externalId, exit_code: outcome.exitCode ?? -1, ...definedOf({ error: outcome.error }), duration: Math.round(durationMs * nanosecondsPerMs) }
    return [['SET', this.#keys.result(externalId), JSON.stringify(result), 'EX', keptSeconds], ['SREM', inFlight, externalId]]
  }

  /** The rest follows the state, so that what is late says nothing at all. */
  async #write (externalId: string, state: { report: number }, rest: readonly RedisCommand[]): Promise<void> {
    await this.#redis.run(async client => {
      // The keys lie on several nodes of a cluster, where a script may reach one.
      const [inside, behind] = client.isCluster ? [[], rest] : [rest, []]
      const isLatest = await client.eval(writeState, 1, this.#keys.state(externalId), JSON.stringify(state), state.report, keptSeconds, JSON.stringify(inside))
      if (isLatest === 1 && behind.length > 0) await runBatch(client, behind)
    })
  }
}

interface WireOutcome {
  exitCode?: number
  error?: string
}

function outcomeOf (record: TaskRecord, status: TaskRecord['status']): WireOutcome {
  const end = record.end ?? record.attempts.at(-1)?.end
  if (status === 'scheduled' || status === 'running' || status === 'pending') return {}
  const exitCode = end?.exitCode ?? (status === 'complete' ? 0 : -1)
  if (status === 'complete') return { exitCode }
  const words = (end?.reason ?? status).replaceAll('_', ' ')
  const error = end?.message || (end?.exitCode === undefined ? `the task has ended: ${words}` : `the task has ended: ${words}, with exit code ${end.exitCode}`)
  return { exitCode, error }
}

function stateOf (record: TaskRecord, facts: WireOutcome & { id: string, status: TaskRecord['status'], workerId?: string | undefined }): { report: number } {
  const { id, status, exitCode = -1, error } = facts
  const last = record.attempts.at(-1)
  const times = status === 'pending' ? {} : timesOf(record)
  const { scheduledAt, startedAt, endedAt } = times
  return {
    id,
    status,
    ...status === 'pending' ? {} : definedOf({ sandbox_id: last?.sandboxId, worker_id: facts.workerId ?? last?.workerId }),
    exit_code: exitCode,
    ...definedOf({ error }),
    created_at: record.createdAt,
    ...definedOf({ scheduled_at: scheduledAt, started_at: startedAt, finished_at: endedAt }),
    attempt: attemptOf(record),
    fence: fenceOf(record),
    report: fenceOf(record) * 10 + ranks[status],
  } as { report: number }
}

function timesOf (record: TaskRecord): { scheduledAt?: string | undefined, startedAt?: string | undefined, endedAt?: string | undefined } {
  const last = record.attempts.at(-1)
  return { scheduledAt: last?.claimedAt, startedAt: last?.startedAt, endedAt: record.endedAt ?? last?.endedAt ?? record.end?.at }
}

/** A record of the fleet counts its deliveries; that of a host is one of them. */
function fenceOf ({ id, spec: { fleet }, attempts }: TaskRecord): number {
  return fleet === undefined || fleet.taskId === id ? attempts.at(-1)?.fence ?? 0 : fleet.fence
}

function attemptOf ({ id, attempt, spec: { fleet } }: TaskRecord): number {
  return fleet === undefined || fleet.taskId === id ? attempt : fleet.attempt
}
