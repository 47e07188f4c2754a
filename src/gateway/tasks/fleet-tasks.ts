import { BerthError } from '../../errors.ts'
import { randomId } from '../../lib/id.ts'
import type { TaskFilter, Tasks, TaskWait } from '../../routes/tasks.ts'
import type { FleetTaskCreate } from '../../schemas/fleet.ts'
import type { PoolStats, QueueStatus, Task, TaskCreate, TaskPage } from '../../schemas/task.ts'
import type { FleetTaskTable } from '../../services/fleet-queue/fleet-queue-types.ts'
import { checkOutputSpecs } from '../../services/outputs/output-settings.ts'
import type { PoolCounts, Room, TaskQueue } from '../../services/tasks/task-queue.ts'
import type { NewTask, TaskRecord, TaskSpec } from '../../services/tasks/task-record.ts'
import { toTaskSpec, type SpecRules } from '../../services/tasks/task-spec.ts'
import type { FleetPrincipal, WorkerRecord, Workers } from '../worker-record.ts'
import { toFleetTask } from './fleet-task-view.ts'
import { FleetTaskWatch } from './fleet-task-watch.ts'

export interface FleetTasksOptions {
  queue: Pick<TaskQueue, 'push' | 'cancel' | 'retry' | 'stats'>
  table: Pick<FleetTaskTable, 'get' | 'list' | 'remove' | 'watch'>
  workers: Pick<Workers, 'list'>
  /** Tells the producer of a task that came over the wire how it ended, where no host does. Idempotent. */
  reportEnd?: (record: TaskRecord) => Promise<void>
  /** Forgets the output of a task that is gone, by the name under which it was shipped. Idempotent. */
  dropOutput?: (taskKey: string) => Promise<void>
}

const GiB = 1024 ** 3

/** What the schemas allow at most. What a single host has not, or does not let pass, it refuses for itself. */
const fleetRules: SpecRules = {
  largest: { cpuMillis: 32_000, memoryBytes: 128 * GiB },
  runtimes: new Set(['runsc', 'runc']),
  defaultOutputs: [],
  checkNetwork: () => {},
  checkOutputs: specs => checkOutputSpecs(specs, { hasOutputDir: true, hasS2: true, s2Basin: 'of-the-host' }),
}

/** The tasks of a fleet: takes them, tells of them, asks for their end. Hosts run them. */
export class FleetTasks {
  readonly #options: FleetTasksOptions

  constructor (options: FleetTasksOptions) {
    this.#options = options
  }

  /** The tasks as somebody may see and change them: those of other pools are not there. */
  of (principal: FleetPrincipal): Tasks {
    return {
      create: async (input, options) => (await this.#push(principal, [input], options))[0]!,
      createBatch: async (inputs, options) => await this.#push(principal, inputs, options),
      list: async filter => await this.#list(principal, filter),
      get: async id => toFleetTask(await this.record(principal, id)),
      wait: async (id, options) => await this.#wait(principal, id, options),
      cancel: async id => await this.#cancel(principal, id),
      retry: async id => await this.#retry(principal, id),
      remove: async id => { await this.#remove(principal, id) },
      queue: async () => await this.#queue(principal),
    }
  }

  /** @throws BerthError not_found `task_not_found`, also for one of another pool. */
  async record ({ pools }: FleetPrincipal, id: string): Promise<TaskRecord> {
    const record = await this.#options.table.get(id)
    if (!record || (pools && !pools.includes(record.spec.pool))) throw notFound()
    return record
  }

  async #push (principal: FleetPrincipal, inputs: readonly FleetTaskCreate[], { idempotencyKey }: { idempotencyKey?: string }): Promise<Task[]> {
    checkMayChange(principal)
    const tasks = inputs.map((input, index): NewTask => ({
      id: randomId('tsk'),
      spec: inputs.length === 1 ? specOf(principal, input) : specOfBatch(principal, input, index),
      delayMs: input.delayMs ?? 0,
      ...(idempotencyKey === undefined ? {} : { idempotencyKey: `${idempotencyKey}#${index}` }),
    }))
    const records = await this.#options.queue.push(tasks)
    return records.map(toFleetTask)
  }

  async #list ({ pools }: FleetPrincipal, { deadLetter, ...filter }: TaskFilter): Promise<TaskPage> {
    const { records, nextCursor } = await this.#options.table.list({
      ...filter, ...(pools && { pools }), ...(deadLetter === undefined ? {} : { isDeadLetter: deadLetter }),
    })
    return { items: records.map(toFleetTask), ...(nextCursor === undefined ? {} : { nextCursor }) }
  }

  /** @throws BerthError timed_out when it has not come so far in time. */
  async #wait (principal: FleetPrincipal, id: string, { timeoutMs, signal, until = 'ended' }: TaskWait): Promise<Task> {
    const watch = new FleetTaskWatch(this.#options.table, id)
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(), timeoutMs)
    const over = AbortSignal.any([signal, late.signal])
    try {
      for (;;) {
        const { version } = watch
        const record = await this.record(principal, id)
        if (hasEnded(record) || (until === 'running' && record.status === 'running')) return toFleetTask(record)
        if (signal.aborted) throw signal.reason instanceof BerthError ? signal.reason : new BerthError('cancelled', 'cancelled', 'the wait was given up')
        if (over.aborted) {
          const { status } = record
          throw new BerthError('timed_out', 'wait_timed_out', `the task is still ${status} after ${timeoutMs} ms; wait again`, { details: { status } })
        }
        await watch.changed(version, over)
      }
    } finally {
      clearTimeout(timer)
      watch.close()
    }
  }

  async #cancel (principal: FleetPrincipal, id: string): Promise<Task> {
    await this.#checkMayChange(principal, id)
    const record = await this.#options.queue.cancel(id)
    if (record.status === 'cancelled' && endedInQueue(record)) await this.#options.reportEnd?.(record)
    return toFleetTask(record)
  }

  async #retry (principal: FleetPrincipal, id: string): Promise<Task> {
    await this.#checkMayChange(principal, id)
    return toFleetTask(await this.#options.queue.retry(id))
  }

  async #remove (principal: FleetPrincipal, id: string): Promise<void> {
    checkMayChange(principal)
    const record = await this.record(principal, id)
    // Once it is gone nobody can tell how it ended.
    if (hasEnded(record) && endedInQueue(record)) await this.#options.reportEnd?.(record)
    if (!await this.#options.table.remove(id)) throw notFound()
    // What a crash in between leaves goes by itself, a day after it was written.
    await this.#options.dropOutput?.(record.spec.fleet?.externalId ?? id)
  }

  async #checkMayChange (principal: FleetPrincipal, id: string): Promise<void> {
    checkMayChange(principal)
    if (principal.pools) await this.record(principal, id)
  }

  async #queue ({ pools }: FleetPrincipal): Promise<QueueStatus> {
    const [counts, workers] = await Promise.all([this.#options.queue.stats(), this.#options.workers.list({ ...(pools && { pools }) })])
    const taking = workers.filter(({ status, isLost }) => status === 'available' && !isLost)
    const served = new Set(taking.map(({ pool }) => pool))
    const seen = counts.filter(({ pool }) => !pools || pools.includes(pool))
    const idle = [...served].filter(pool => !seen.some(count => count.pool === pool))
      .map((pool): PoolCounts => ({ pool, delayed: 0, pending: 0, scheduled: 0, running: 0, deadLetters: 0 }))
    return {
      pools: [...seen, ...idle].map(count => toPoolStats(count, served)),
      capacity: sumOf(taking, 'capacity'),
      free: sumOf(taking, 'free'),
    }
  }
}

export function hasEnded ({ status }: Pick<TaskRecord, 'status'>): boolean {
  return status === 'complete' || status === 'failed' || status === 'cancelled'
}

/** Whether a task of a foreign producer has its end from no host: what a host had begun to its end, that host reports. */
function endedInQueue ({ status, attempts, spec }: TaskRecord): boolean {
  return spec.fleet?.externalId !== undefined && attempts.at(-1)?.status !== status
}

function specOf ({ pools }: FleetPrincipal, input: FleetTaskCreate): TaskSpec {
  const { hostLabels, ...create } = input
  const spec = toTaskSpec(create satisfies TaskCreate, fleetRules)
  if (pools && !pools.includes(spec.pool)) {
    throw new BerthError('permission_denied', 'pool_forbidden', `this token is not for the pool ${spec.pool}; it is for ${pools.join(', ')}`, { details: { pool: spec.pool } })
  }
  return { ...spec, ...(hostLabels && { hostLabels }) }
}

function specOfBatch (principal: FleetPrincipal, input: FleetTaskCreate, index: number): TaskSpec {
  try {
    return specOf(principal, input)
  } catch (error) {
    if (!(error instanceof BerthError)) throw error
    throw new BerthError(error.kind, error.code, `tasks[${index}]: ${error.message}; none of the batch was queued`, { details: { ...error.details, index } })
  }
}

function checkMayChange ({ scope }: FleetPrincipal): void {
  if (scope === 'admin' || scope === 'client') return
  throw new BerthError('permission_denied', 'scope_insufficient', `a token of scope ${scope} changes no tasks; use one of scope client or admin`)
}

function toPoolStats ({ oldestPendingAt, ...count }: PoolCounts, served: ReadonlySet<string>): PoolStats {
  return {
    ...count,
    isServed: served.has(count.pool),
    ...(oldestPendingAt === undefined ? {} : { oldestPendingMs: Math.max(0, Date.now() - oldestPendingAt) }),
  }
}

function sumOf (workers: readonly WorkerRecord[], which: 'capacity' | 'free'): Room {
  const rooms = workers.map(worker => worker[which])
  return { cpuMillis: rooms.reduce((sum, room) => sum + room.cpuMillis, 0), memoryBytes: rooms.reduce((sum, room) => sum + room.memoryBytes, 0) }
}

function notFound (): BerthError {
  return new BerthError('not_found', 'task_not_found', 'there is no task with this id; GET /v1/tasks lists those there are')
}
