/** One delivery of a task, from its sandbox to its report. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { SandboxEnd } from '../../schemas/sandbox.ts'
import type { StopOptions } from '../sandboxes/lifecycle-parts.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import { waitForStatus } from '../sandboxes/sandbox-wait.ts'
import { activeSpan, inChildSpan } from '../tracing/span.ts'
import type { Tracing } from '../tracing/tracing.ts'
import { verdictOfDrain, verdictOfEnd, verdictOfLoss, verdictOfRefusal, type Verdict } from './task-outcome.ts'
import type { Claim, Room, TaskQueue } from './task-queue.ts'
import type { TaskRecord } from './task-record.ts'
import { toSandboxCreate } from './task-spec.ts'

export interface TaskRunParts {
  sandboxes: Pick<SandboxManager, 'createForTask' | 'ofTask' | 'removeOfTask'>
  queue: Pick<TaskQueue, 'start' | 'settle' | 'release'>
  /** Makes room for the log of another attempt; answers the cursor at which it will begin. */
  startLog: (taskId: string) => Promise<string>
  /** The log of the task may be written to from now on, or its status has changed. */
  onChange: (task: TaskRecord) => void
  logger: Logger
  tracing?: Tracing
}

const cancelGraceMs = 10_000
const retryPauseMs = 1000

/**
 * Re-entrant: after a restart of the daemon the same delivery is simply run again. Its sandbox carries the task's id and the number
 * of the delivery, so that it is found where there is one, whether it runs or has ended, and is made only where there is none.
 *
 * Order: intent (the claim) → sandbox → its end → report, durable → the sandbox is deleted. Whoever dies in between leaves
 * something that the next run finds.
 */
export class TaskRun {
  readonly claim: Claim
  /** Until its sandbox runs. */
  isStarting = true
  readonly #parts: TaskRunParts
  readonly #closing = new AbortController()
  #isCancelled: boolean
  #isAbandoned = false
  #drainGraceMs: number | undefined
  /** Its report is under way or done: whether the lease still holds says nothing any more. */
  #isReporting = false
  #sandbox: SandboxLifecycle | undefined

  constructor (claim: Claim, parts: TaskRunParts) {
    this.claim = claim
    this.#parts = parts
    this.#isCancelled = claim.task.cancelRequestedAt !== undefined
  }

  get room (): Room { return this.claim.task.spec.requests }

  /** Runs it to its end; never rejects. `onStarted` is called when its sandbox runs. */
  async run (onStarted: () => void): Promise<void> {
    try {
      await this.#traced(() => this.#run(onStarted))
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#log('error', { err: error }, 'a task could not be run')
    }
  }

  /** The task is to be cancelled. */
  cancel (): void {
    if (this.#isCancelled) return
    this.#isCancelled = true
    this.#stop()
  }

  /** Somebody else has the task: what was begun for it is ended, and nothing is reported. */
  abandon (): void {
    if (!this.#isReporting) this.#abandon()
  }

  /** The host goes away: it is ended, with this grace, and given back. */
  drain (graceMs: number): void {
    if (this.#drainGraceMs !== undefined || this.#isReporting) return
    this.#drainGraceMs = graceMs
    this.#stop()
  }

  /** Lets go of the run without touching its sandbox. */
  close (): void {
    this.#closing.abort()
  }

  #abandon (): void {
    if (this.#isAbandoned) return
    this.#isAbandoned = true
    this.#log('warn', {}, 'the lease of a task was lost; its sandbox is ended')
    this.#stop()
  }

  async #traced (work: () => Promise<void>): Promise<void> {
    const { tracing } = this.#parts
    if (!tracing?.isOn) return await work()
    const { taskId, fence, task: { attempt, spec } } = this.claim
    await tracing.inSpan('task.run', {
      'berth.task.id': spec.fleet?.taskId ?? taskId,
      'berth.task.local_id': taskId,
      'berth.task.fence': spec.fleet?.fence ?? fence,
      'berth.task.attempt': spec.fleet?.attempt ?? attempt,
      'berth.task.pool': spec.pool,
    }, spec.traceparent, work)
  }

  async #run (onStarted: () => void): Promise<void> {
    const verdict = await this.#reachEnd(onStarted)
    if (this.#closing.signal.aborted) return
    if (!this.#isAbandoned) await inChildSpan(activeSpan(), 'task.report', () => this.#report(verdict))
    const id = this.#sandbox?.record.id
    if (id !== undefined) await this.#parts.sandboxes.removeOfTask(id)
  }

  async #reachEnd (onStarted: () => void): Promise<Verdict> {
    const { task, fence, taskId } = this.claim
    const found = this.#parts.sandboxes.ofTask(taskId, fence)
    if (!found && task.status === 'running') return verdictOfLoss()
    if (!found && this.#isCancelled) return verdictOfRefusal(undefined, { isCancelled: true })
    if (!found && this.#drainGraceMs !== undefined) return verdictOfDrain()
    try {
      this.#sandbox = found ?? await inChildSpan(activeSpan(), 'sandbox.create', () => this.#create())
    } catch (error) {
      return verdictOfRefusal(error, { isCancelled: this.#isCancelled })
    }
    this.isStarting = false
    onStarted()
    const sandbox = this.#sandbox
    const { record } = sandbox
    activeSpan()?.set({ 'berth.sandbox.id': record.id })
    if (task.status !== 'running') await this.#reportStart(record)
    if (this.#isCancelled || this.#isAbandoned || this.#drainGraceMs !== undefined) this.#stop()
    await inChildSpan(activeSpan(), 'task.execute', () => waitForStatus(sandbox, { signal: this.#closing.signal }))
    const end = record.end ?? { reason: 'lost', at: new Date().toISOString() } satisfies SandboxEnd
    const isDeleted = (record.isDeleting ?? false) || record.deletedAt !== undefined
    if (isDeleted && end.reason === 'requested' && !this.#isCancelled) return verdictOfLoss()
    return verdictOfEnd(end, { isCancelled: this.#isCancelled })
  }

  async #create (): Promise<SandboxLifecycle> {
    const { task, fence, taskId } = this.claim
    const logCursor = await this.#parts.startLog(taskId)
    return await this.#parts.sandboxes.createForTask(toSandboxCreate(task.spec), { id: taskId, fence, logCursor })
  }

  async #reportStart (record: SandboxLifecycle['record']): Promise<void> {
    const { id: sandboxId, startedAt = new Date().toISOString(), timings } = record
    await this.#durably(() => this.#parts.queue.start(this.claim, { sandboxId, startedAt, timings, logCursor: record.task?.logCursor ?? '0:0' }))
  }

  async #report (verdict: Verdict): Promise<void> {
    const { queue } = this.#parts
    this.#isReporting = true
    const settled = await this.#durably(async () => verdict.verdict === 'settle'
      ? await queue.settle(this.claim, verdict.outcome)
      : await queue.release(this.claim, verdict))
    if (!settled) return
    this.#parts.onChange(settled)
    this.#log('info', { status: settled.status, attempt: settled.attempt, end: verdict.verdict === 'settle' ? verdict.outcome.end : { message: verdict.message } }, 'a task was reported on')
  }

  /** What must be on disk is tried until it is; undefined once somebody else has the task, or this daemon ends. */
  async #durably<T> (work: () => Promise<T>): Promise<T | undefined> {
    while (!this.#closing.signal.aborted) {
      try {
        return await work()
      } catch (error) {
        if (error instanceof BerthError && error.code === 'stale_claim') {
          this.#abandon()
          return undefined
        }
        this.#log('error', { err: error }, 'the queue could not be told of a task; it is tried again')
        await delay(retryPauseMs, undefined, { signal: this.#closing.signal }).catch(() => {})
      }
    }
    return undefined
  }

  #stop (): void {
    const sandbox = this.#sandbox
    if (!sandbox || sandbox.hasEnded) return
    sandbox.stop(this.#howToStop())
      .catch(error => this.#log('warn', { err: error }, 'the sandbox of a task could not be stopped'))
  }

  #howToStop (): StopOptions {
    if (this.#isAbandoned) return { reason: 'requested', force: true }
    if (this.#isCancelled || this.#drainGraceMs === undefined) return { reason: 'requested', graceMs: cancelGraceMs }
    return { reason: 'drained', graceMs: this.#drainGraceMs }
  }

  #log (level: 'info' | 'warn' | 'error', fields: object, message: string): void {
    this.#parts.logger[level]({ taskId: this.claim.taskId, fence: this.claim.fence, ...fields }, message)
  }
}
