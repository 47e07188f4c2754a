import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../errors.ts'
import { ChangeSignal } from '../lib/change-signal.ts'
import { DeadlineError } from '../lib/deadline.ts'
import type { TaskDeliveries } from '../services/tasks/task-deliveries.ts'
import { verdictOfDelivery, type Verdict } from '../services/tasks/task-outcome.ts'
import type { ClaimId, TaskQueue } from '../services/tasks/task-queue.ts'
import type { AttemptRecord, FleetOrigin, TaskRecord } from '../services/tasks/task-record.ts'
import type { GatewayReports } from './gateway-reports.ts'
import { LaneClosedError, type ReportLane } from './report-lane.ts'

/** What else is told of deliveries where tasks come from; each is repeated after a failure, and once more after a restart of the daemon. */
export interface DeliveryHooks {
  onTaken?: ((delivery: TaskRecord) => Promise<void>) | undefined
  onStarted?: ((delivery: TaskRecord) => Promise<void>) | undefined
  /** `fleet`: the task as the delivery has left it in the fleet; pending where another one follows. */
  onEnded?: ((delivery: TaskRecord, fleet: TaskRecord) => Promise<void>) | undefined
}

export interface DeliveryReportParts {
  fleet: Pick<TaskQueue, 'start' | 'settle' | 'release'>
  local: Pick<TaskDeliveries, 'get' | 'watch' | 'markReported' | 'abandon'>
  hooks: DeliveryHooks
  gatewayReports?: GatewayReports | undefined
  /** To the queue and what lies beside it, and to the gateway: neither waits for the other, but a gateway is told nothing first. */
  fleetLane: Pick<ReportLane, 'do'>
  gatewayLane: Pick<ReportLane, 'do'>
  /** After each change here; `hasMoved`: of its status. */
  onChange: (hasMoved: boolean) => void
  logger: Logger
}

/** The delivery is somebody else's. */
class AbandonedError extends Error {}

const localRetryMs = 1000
/** What has been told in less time is written down once, when all of it has been. */
const settledMarkAfterMs = 500

/**
 * What is told of one delivery, in this order:
 *
 *   taken ─▶ start ─▶ started ─────────────▶ settle or release ─▶ ended ─▶ done
 *                        └▶ gateway: started ─────────────────────────┴▶ gateway: result ─▶ done
 *
 * Everything but a release may be said twice, so it goes on after a restart from the last stage that is on disk.
 */
export class DeliveryReport {
  readonly id: string
  readonly origin: FleetOrigin
  readonly #parts: DeliveryReportParts
  readonly #changed = new ChangeSignal()
  readonly #closing: AbortSignal
  #record: TaskRecord
  /** Said, and not on disk yet. */
  #isSettled = false

  constructor (record: TaskRecord, { closing, ...parts }: DeliveryReportParts & { closing: AbortSignal }) {
    this.id = record.id
    this.origin = record.spec.fleet!
    this.#record = record
    this.#parts = parts
    this.#closing = closing
  }

  /** As it was after the last commit that changed it. */
  get record (): TaskRecord { return this.#record }

  get claim (): ClaimId { return { taskId: this.origin.taskId, fence: this.origin.fence } }

  get hasEnded (): boolean { return this.#record.endedAt !== undefined }

  /** The queue of the fleet knows how it ended, or need not. */
  get isSettled (): boolean { return this.#isSettled || (this.#record.report !== 'none' && this.#record.report !== 'started') }

  /** Until everything has been told, the delivery was abandoned, or the daemon ends; never rejects. */
  async run (): Promise<void> {
    const stopWatching = this.#parts.local.watch(this.id, () => this.#look())
    try {
      this.#look()
      await this.#tell()
    } catch (error) {
      if (error instanceof LaneClosedError || error instanceof AbandonedError || this.#closing.aborted) return
      this.#log('error', { err: error }, 'a delivery could not be reported; the next daemon tries again')
    } finally {
      stopWatching()
    }
  }

  /** The queue has forgotten how it ended, while others are still to be told. */
  async settleAgain (): Promise<void> {
    if (!this.hasEnded || !this.isSettled) return
    await this.#parts.fleetLane.do(`settle ${this.id}`, () => this.#sayEnd(), isRefusal).catch((error: unknown) => {
      if (!(error instanceof LaneClosedError)) this.#log('warn', { err: error }, 'a delivery that the fleet had forgotten could not be settled again')
    })
  }

  async #tell (): Promise<void> {
    const started = this.#tellStart()
    const gatewayStarted = started.then(() => this.#tellGatewayStarted())
    // Heard below; an earlier failure of what comes between must not leave it unheard.
    gatewayStarted.catch(() => {})
    await started
    await this.#until(() => this.hasEnded)
    const ended = await this.#tellEnd()
    const late = setTimeout(() => { this.#mark('settled').catch(() => {}) }, settledMarkAfterMs)
    try {
      await gatewayStarted
      await this.#tellGatewayEnded(ended)
    } finally {
      clearTimeout(late)
    }
    await this.#mark('done')
  }

  async #tellStart (): Promise<void> {
    const { fleet, hooks } = this.#parts
    if (this.#record.report === 'none') await this.#hook('onTaken', () => hooks.onTaken?.(this.#record))
    await this.#until(() => this.hasEnded || this.#run !== undefined)
    const run = this.#run
    if (this.#record.report !== 'none' || run === undefined) return
    const { sandboxId, logCursor, startedAt, timings } = run
    const facts = { sandboxId: sandboxId!, logCursor: logCursor ?? '0:0', startedAt: startedAt ?? new Date().toISOString(), timings: timings ?? [] }
    // Of one that has ended here, an earlier daemon may have told everything: its end decides.
    await this.#tellQueue('start', () => fleet.start(this.claim, facts), this.hasEnded)
    await this.#hook('onStarted', () => hooks.onStarted?.(this.#record))
    // It serves to say less after a restart, and costs a write.
    if (!this.hasEnded) await this.#mark('started')
  }

  async #tellEnd (): Promise<TaskRecord | undefined> {
    const { hooks } = this.#parts
    const wasSettled = this.isSettled
    const { verdict } = verdictOfDelivery(this.#record)
    const ended = wasSettled && verdict === 'release' ? undefined : await this.#tellQueue(verdict, () => this.#sayEnd(), wasSettled)
    this.#isSettled = true
    // An end may be said again, a release not.
    if (verdict === 'release') await this.#mark('settled')
    this.#log('info', { end: this.#record.end, fleetStatus: ended?.status }, verdict === 'settle' ? 'a delivery was settled' : 'a delivery was given back')
    await this.#hook('onEnded', () => hooks.onEnded?.(this.#record, ended ?? this.#likely(verdict)))
    return ended
  }

  /** What becomes of the task, where the answer of the queue was for a daemon that is gone. */
  #likely (verdict: Verdict['verdict']): TaskRecord {
    if (verdict === 'settle') return this.#record
    const { end: _end, endedAt: _endedAt, ...rest } = this.#record
    return { ...rest, status: 'pending' }
  }

  async #sayEnd (): Promise<TaskRecord> {
    const { fleet } = this.#parts
    const verdict = verdictOfDelivery(this.#record)
    return verdict.verdict === 'settle' ? await fleet.settle(this.claim, verdict.outcome) : await fleet.release(this.claim, verdict)
  }

  async #tellGatewayStarted (): Promise<void> {
    const { gatewayLane, gatewayReports } = this.#parts
    const run = this.#run
    if (gatewayReports === undefined || run === undefined) return
    await gatewayLane.do(`started ${this.id}`, async () => await gatewayReports.started({ ...this.#gatewayIds(), sandboxId: run.sandboxId! }), () => false)
  }

  /** Of the task's end alone: where another attempt follows there is no result yet. */
  async #tellGatewayEnded (ended: TaskRecord | undefined): Promise<void> {
    const { gatewayLane, gatewayReports } = this.#parts
    const { status, end } = ended ?? {}
    if (gatewayReports === undefined || end === undefined || (status !== 'complete' && status !== 'failed' && status !== 'cancelled')) return
    const { exitCode, message, reason } = end
    await gatewayLane.do(`result ${this.id}`, async () => await gatewayReports.ended({
      ...this.#gatewayIds(),
      status,
      ...exitCode !== undefined && { exitCode },
      ...status !== 'complete' && { error: message ?? reason },
    }), () => false)
  }

  /** `mayBeStale`: it was told before, so a refusal says nothing. */
  async #tellQueue<T> (what: string, work: () => Promise<T>, mayBeStale = false): Promise<T | undefined> {
    try {
      return await this.#parts.fleetLane.do(`${what} ${this.id}`, async () => {
        this.#assertOurs()
        return await work()
      }, isRefusal)
    } catch (error) {
      if (!(error instanceof BerthError)) throw error
      if (mayBeStale) return undefined
      this.#log('warn', { report: what, err: error }, 'the fleet does not take a report of a delivery: it is somebody else\'s')
      await this.#locally(() => this.#parts.local.abandon(this.id))
      throw new AbandonedError()
    }
  }

  /** What a hook refuses is logged, and counts as told: it must not keep the queue from being told. */
  async #hook (what: keyof DeliveryHooks, work: () => Promise<void> | undefined): Promise<void> {
    if (this.#parts.hooks[what] === undefined) return
    await this.#parts.fleetLane.do(`${what} ${this.id}`, async () => {
      this.#assertOurs()
      await work()
    }, error => error instanceof AbandonedError || !mayPass(error)).catch((error: unknown) => {
      if (error instanceof AbandonedError || error instanceof LaneClosedError) throw error
      this.#log('error', { report: what, err: error }, 'a report of a delivery failed, and is not made again')
    })
  }

  async #mark (stage: 'started' | 'settled' | 'done'): Promise<void> {
    await this.#locally(() => this.#parts.local.markReported(this.id, stage))
    this.#assertOurs()
  }

  /** What must be on disk is tried until it is. */
  async #locally (work: () => Promise<unknown>): Promise<void> {
    for (;;) {
      if (this.#closing.aborted) throw new LaneClosedError()
      try {
        await work()
        return this.#look()
      } catch (error) {
        if (this.#closing.aborted) throw new LaneClosedError()
        this.#log('error', { err: error }, 'what the fleet was told could not be written down; it is tried again')
        await delay(localRetryMs, undefined, { signal: this.#closing }).catch(() => {})
      }
    }
  }

  async #until (isSo: () => boolean): Promise<void> {
    for (;;) {
      this.#assertOurs()
      if (isSo()) return
      await this.#changed.wait(this.#closing)
    }
  }

  #assertOurs (): void {
    if (this.#closing.aborted) throw new LaneClosedError()
    if (this.#record.report === 'abandoned') throw new AbandonedError()
  }

  #look (): void {
    if (this.#closing.aborted) return
    const record = this.#parts.local.get(this.id)
    // Nobody deletes one that has not been reported.
    if (record === undefined) return
    const hasMoved = record.status !== this.#record.status
    this.#record = record
    this.#changed.notify()
    this.#parts.onChange(hasMoved)
  }

  /** The attempt here that came to a sandbox. */
  get #run (): AttemptRecord | undefined {
    return this.#record.attempts.findLast(({ sandboxId }) => sandboxId !== undefined)
  }

  #gatewayIds (): { taskId: string, fence: number } {
    return { taskId: this.origin.externalId ?? this.origin.taskId, fence: this.origin.fence }
  }

  #log (level: 'info' | 'warn' | 'error', fields: object, message: string): void {
    this.#parts.logger[level]({ taskId: this.origin.taskId, fence: this.origin.fence, deliveryId: this.id, ...fields }, message)
  }
}

/** An answer of the queue by which the delivery is not, or no longer, this host's. */
function isRefusal (error: unknown): boolean {
  return error instanceof AbandonedError || (error instanceof BerthError && (error.code === 'stale_claim' || error.kind === 'not_found'))
}

function mayPass (error: unknown): boolean {
  return error instanceof DeadlineError || (error instanceof BerthError && ['unavailable', 'timed_out', 'exhausted'].includes(error.kind))
}
