import type { TaskEnd } from '../../schemas/task.ts'
import type { TaskLedger } from './task-ledger.ts'
import { cancelWaiting, endWaiting } from './task-moves.ts'
import type { NewTask, ReportStage, TaskRecord } from './task-record.ts'
import { isoTime, isUnreported, newKeptTask, toRecord } from './task-rows.ts'

const order: readonly ReportStage[] = ['none', 'started', 'settled', 'done', 'abandoned']

/**
 * Deliveries of a fleet's tasks, queued on this host as tasks of its own: each is the durable report of itself until its fleet has been
 * told everything. Promises resolve once what they say is durable.
 */
export class TaskDeliveries {
  readonly #ledger: TaskLedger

  constructor (ledger: TaskLedger) {
    this.#ledger = ledger
  }

  get (id: string): TaskRecord | undefined {
    const task = this.#ledger.rows.find(id)
    return task && toRecord(task)
  }

  /** Calls back after each commit that changed it; answers how to stop. */
  watch (id: string, listener: () => void): () => void {
    return this.#ledger.watchTask(id, listener)
  }

  /** Oldest first. */
  unreported (): TaskRecord[] {
    return this.#ledger.rows.select("WHERE report IN ('none', 'started', 'settled') ORDER BY tasks.seq").map(toRecord)
  }

  /** Queues a delivery, once; `refusal`: it has ended already, with this, because this host cannot run it. */
  async take (task: NewTask, refusal?: TaskEnd): Promise<TaskRecord> {
    return await this.#ledger.run(() => {
      const known = this.#ledger.rows.find(task.id)
      if (known !== undefined) return toRecord(known)
      const now = this.#ledger.now()
      const added = this.#ledger.add(newKeptTask(task, { lane: this.#ledger.lanes.keyOf(task.spec), now }), undefined)
      if (refusal) this.#ledger.change(added, () => endWaiting(added, { status: 'failed', end: refusal }, now), () => refusal)
      return toRecord(added)
    })
  }

  /** Only ever goes on: what was told stays told. */
  async markReported (id: string, stage: 'started' | 'settled' | 'done'): Promise<void> {
    await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      if (task?.report === undefined || order.indexOf(task.report) >= order.indexOf(stage)) return
      this.#ledger.change(task, () => { task.report = stage })
    })
  }

  /** For a fleet that has forgotten what it was told. */
  async tellAgain (id: string): Promise<TaskRecord | undefined> {
    return await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      if (task?.report === 'done') this.#ledger.change(task, () => { task.report = 'none' })
      return task && toRecord(task)
    })
  }

  /** It is somebody else's: what waits or runs for it is cancelled, and nothing is told of it. */
  async abandon (id: string): Promise<TaskRecord | undefined> {
    return await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      if (task === undefined || !isUnreported(task)) return undefined
      const now = this.#ledger.now()
      const isRunning = task.leaseUntil !== undefined
      this.#ledger.change(task, () => {
        task.report = 'abandoned'
        if (isRunning) task.cancelAt ??= now
        else if (task.endedAt === undefined) cancelWaiting(task, now)
      }, ({ end }) => end)
      if (isRunning) this.#ledger.noteCancel(id)
      return toRecord(task)
    })
  }

  /** Ends what has not begun, to be given back to the fleet; answers it, or nothing where it has begun. */
  async giveBack (id: string): Promise<TaskRecord | undefined> {
    return await this.#ledger.run(() => {
      const task = this.#ledger.rows.find(id)
      if (task?.status !== 'pending' || !isUnreported(task)) return undefined
      const now = this.#ledger.now()
      const end: TaskEnd = { reason: 'drained', at: isoTime(now) }
      this.#ledger.change(task, () => endWaiting(task, { status: 'cancelled', end }, now), () => end)
      return toRecord(task)
    })
  }
}
