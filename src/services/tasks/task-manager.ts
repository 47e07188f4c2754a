import { readdir, rm } from 'node:fs/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { randomId } from '../../lib/id.ts'
import type { QueueStatus, Task, TaskCreate, TaskPage, TaskStatus } from '../../schemas/task.ts'
import type { BudgetedLog } from '../logs/log-budget.ts'
import type { LogSource } from '../logs/log-source.ts'
import type { LogReader } from '../logs/log-reader.ts'
import type { OutputManager } from '../outputs/output-manager.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import type { HostRoom } from './host-room.ts'
import type { PoolCounts, TaskQueue } from './task-queue.ts'
import type { NewTask, TaskRecord } from './task-record.ts'
import type { TaskScheduler } from './task-scheduler.ts'
import { toTaskSpec, type SpecRules } from './task-spec.ts'
import type { TaskFilter as TableFilter, TaskTable } from './task-table.ts'
import { toTask } from './task-view.ts'

export interface TaskManagerOptions {
  queue: TaskQueue
  table: TaskTable
  scheduler: TaskScheduler
  outputs: OutputManager
  logs: Pick<LogReader, 'wake'>
  places: HostPlaces
  room: HostRoom
  rules: SpecRules
  pools: readonly string[]
  /** Ended tasks are kept for so long, and at most so many of them. */
  retention: { maxAgeMs: number, maxCount: number }
  logger: Logger
}

export interface TaskFilter extends Omit<TableFilter, 'isDeadLetter'> {
  deadLetter?: boolean
  limit: number
  cursor?: string
}

const endedTaskStatuses: readonly TaskStatus[] = ['complete', 'failed', 'cancelled']

/** The tasks of this host: takes them, tells of them, ends them. Running them is the scheduler's. */
export class TaskManager {
  readonly #options: TaskManagerOptions

  constructor (options: TaskManagerOptions) {
    this.#options = options
  }

  /** Takes up where an earlier daemon left off. Sandboxes must have been adopted. */
  async adopt (): Promise<void> {
    const { table, scheduler, places } = this.#options
    for (const id of await readdir(places.tasksDir)) {
      if (!table.get(id)) await this.#removeFiles(id)
    }
    for (const record of table.unfinishedOutputs()) this.#beginOutputs(record)
    await scheduler.adopt()
  }

  async create (input: TaskCreate, options: { idempotencyKey?: string } = {}): Promise<Task> {
    const [task] = await this.createBatch([input], options)
    return task!
  }

  /** All of them, or none. */
  async createBatch (inputs: readonly TaskCreate[], { idempotencyKey }: { idempotencyKey?: string } = {}): Promise<Task[]> {
    const tasks = inputs.map((input, index): NewTask => ({
      id: randomId('tsk'),
      spec: inputs.length === 1 ? this.#specOf(input) : this.#specOfBatch(input, index),
      delayMs: input.delayMs ?? 0,
      ...(idempotencyKey === undefined ? {} : { idempotencyKey: `${idempotencyKey}#${index}` }),
    }))
    const records = await this.#options.queue.push(tasks)
    return records.map(toTask)
  }

  /** Newest first. */
  list ({ deadLetter, ...filter }: TaskFilter): TaskPage {
    const { records, nextCursor } = this.#options.table.list({ ...filter, ...(deadLetter === undefined ? {} : { isDeadLetter: deadLetter }) })
    return { items: records.map(toTask), ...(nextCursor === undefined ? {} : { nextCursor }) }
  }

  /** @throws BerthError not_found `task_not_found`. */
  async get (id: string): Promise<Task> {
    const record = this.#record(id)
    const states = record.spec.outputs.length > 0 ? await this.#options.outputs.states(id) : []
    return { ...toTask(record), ...(states.length > 0 ? { outputStates: states } : {}) }
  }

  /** @throws BerthError timed_out when it has not come so far in time. */
  async wait (id: string, { timeoutMs, signal, until = 'ended' }: { timeoutMs?: number, signal?: AbortSignal, until?: 'ended' | 'running' } = {}): Promise<Task> {
    const { table } = this.#options
    const isSo = ({ status }: TaskRecord) => endedTaskStatuses.includes(status) || (until === 'running' && status === 'running')
    const reached = Promise.withResolvers<void>()
    let timer: NodeJS.Timeout | undefined
    const look = () => {
      const record = table.get(id)
      if (!record) reached.reject(notFound())
      else if (isSo(record)) reached.resolve()
    }
    const onAbort = () => reached.reject(signal?.reason instanceof BerthError ? signal.reason : new BerthError('cancelled', 'cancelled', 'the wait was given up'))
    const stopWatching = table.watch(id, look)
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      if (signal?.aborted) onAbort()
      look()
      if (timeoutMs !== undefined) {
        timer = setTimeout(() => {
          const status = table.get(id)?.status
          reached.reject(new BerthError('timed_out', 'wait_timed_out', `the task is still ${status} after ${timeoutMs} ms; wait again`, { details: { status } }))
        }, timeoutMs)
      }
      await reached.promise
    } finally {
      clearTimeout(timer)
      stopWatching()
      signal?.removeEventListener('abort', onAbort)
    }
    return toTask(this.#record(id))
  }

  /** What waits is cancelled at once, what runs is ended; one that has ended stays as it is. */
  async cancel (id: string): Promise<Task> {
    const record = await this.#options.queue.cancel(id)
    this.onChange(record)
    return toTask(record)
  }

  /** @throws BerthError conflict `invalid_state` unless it has failed or was cancelled. */
  async retry (id: string): Promise<Task> {
    const record = await this.#options.queue.retry(id)
    this.onChange(record)
    return toTask(record)
  }

  /** @throws BerthError conflict `invalid_state` unless it has ended. */
  async remove (id: string): Promise<void> {
    if (!await this.#options.table.remove(id)) throw notFound()
    await this.#removeFiles(id)
  }

  async queue (): Promise<QueueStatus> {
    const { queue, scheduler, room, pools } = this.#options
    const counts = await queue.stats()
    const now = Date.now()
    const missing = pools.filter(pool => !counts.some(count => count.pool === pool))
      .map((pool): PoolCounts => ({ pool, delayed: 0, pending: 0, scheduled: 0, running: 0, deadLetters: 0 }))
    return {
      pools: [...counts, ...missing].map(({ oldestPendingAt, ...count }) => ({
        ...count,
        isServed: pools.includes(count.pool),
        ...(oldestPendingAt === undefined ? {} : { oldestPendingMs: Math.max(0, now - oldestPendingAt) }),
      })),
      capacity: { ...room.capacity },
      free: scheduler.free,
      ...(scheduler.heldBack ? { heldBack: scheduler.heldBack } : {}),
    }
  }

  /** Where the output of a task lies: of all its attempts, or of one. */
  taskLog (id: string, attempt?: number): LogSource {
    const { table, places } = this.#options
    const { dir } = places.task(id)
    const latest = this.#record(id)
    const hasEnded = () => this.#hasEnded(id)
    if (attempt === undefined) return { dir, isEnded: hasEnded, end: () => endOf(table.get(id)) }
    // Deliveries that came to no sandbox have printed nothing.
    const runsOf = (record: TaskRecord | undefined) => record?.attempts.filter(({ logCursor }) => logCursor !== undefined) ?? []
    const first = runsOf(latest).find(({ number }) => number === attempt)
    if (!first) throw new BerthError('not_found', 'attempt_not_found', `the task has no attempt ${attempt} that has begun; it has ${latest.attempts.length}`)
    const last = () => runsOf(table.get(id)).findLast(({ number }) => number === attempt)
    const next = () => runsOf(table.get(id)).find(({ number }) => number > attempt)
    return {
      dir,
      ...(first.logCursor === undefined ? {} : { from: first.logCursor }),
      until: () => next()?.logCursor,
      isEnded: () => last()?.endedAt !== undefined || hasEnded(),
      end: () => endOf(last()),
    }
  }

  /** Something of a task has changed: its followers and outputs look again. */
  onChange (record: TaskRecord): void {
    const { logs, places, outputs } = this.#options
    this.#beginOutputs(record)
    outputs.wake(record.id)
    logs.wake(places.task(record.id).dir)
  }

  /** Of tasks that have printed something, for the budget of all logs. */
  async logs (): Promise<BudgetedLog[]> {
    const { table, places, outputs } = this.#options
    const endedAt = table.endTimes()
    return (await readdir(places.tasksDir)).map(id => ({
      dir: places.task(id).dir,
      isEnded: () => this.#hasEnded(id),
      endedAt: endedAt.get(id),
      protectedFrom: outputs.protectedGeneration(id),
    }))
  }

  /** Forgets tasks that ended long ago, or are too many. */
  async prune (): Promise<void> {
    for (const id of await this.#options.table.prune(this.#options.retention)) await this.#removeFiles(id)
  }

  #specOf (input: TaskCreate) {
    return toTaskSpec(input, this.#options.rules)
  }

  #specOfBatch (input: TaskCreate, index: number) {
    try {
      return this.#specOf(input)
    } catch (error) {
      if (!(error instanceof BerthError)) throw error
      throw new BerthError(error.kind, error.code, `tasks[${index}]: ${error.message}; none of the batch was queued`, { details: { ...error.details, index } })
    }
  }

  /** Whether nothing more comes of a task; so it is of one that was deleted. */
  #hasEnded (id: string): boolean {
    const record = this.#options.table.get(id)
    return !record || endedTaskStatuses.includes(record.status)
  }

  #record (id: string): TaskRecord {
    const record = this.#options.table.get(id)
    if (!record) throw notFound()
    return record
  }

  #beginOutputs (record: TaskRecord): void {
    const { outputs, table } = this.#options
    const { id, spec } = record
    if (spec.outputs.length === 0) return
    outputs.begin({
      id,
      outputs: spec.outputs,
      labels: spec.labels,
      isEnded: () => this.#hasEnded(id),
      statuses: () => table.get(id)?.history.map((entry, seq) => ({ ...entry, seq })) ?? [],
    })
  }

  async #removeFiles (id: string): Promise<void> {
    const { outputs, places, logs, logger } = this.#options
    await outputs.forget(id)
    const { dir } = places.task(id)
    await rm(dir, { recursive: true, force: true }).catch(error => logger.warn({ taskId: id, err: error }, 'the files of a task could not be removed; the next daemon tries again'))
    logs.wake(dir)
  }
}

function endOf (ended: Pick<TaskRecord, 'end'> | undefined): { reason?: string, exitCode?: number } | undefined {
  const end = ended?.end
  return end && { reason: end.reason, ...(end.exitCode === undefined ? {} : { exitCode: end.exitCode }) }
}

function notFound (): BerthError {
  return new BerthError('not_found', 'task_not_found', 'there is no task with this id; GET /v1/tasks lists those there are')
}
