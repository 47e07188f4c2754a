import type { Logger } from 'pino'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import type { HeldBack, HostRoom } from './host-room.ts'
import type { Claim, Room, TaskQueue } from './task-queue.ts'
import { TaskRun, type TaskRunParts } from './task-run.ts'

export interface TaskSchedulerOptions extends Omit<TaskRunParts, 'sandboxes' | 'queue'> {
  queue: TaskQueue
  sandboxes: TaskRunParts['sandboxes'] & Pick<SandboxManager, 'all'>
  room: HostRoom
  /** The id of this host. */
  owner: string
  pools: readonly string[]
  leaseMs: number
  /** How many sandboxes are set up for tasks at once: what more is claimed would wait here, out of its order. */
  maxStarting: number
  logger: Logger
}

/** Room can come free without a sign: others' memory, the disk. */
const lookEveryMs = 1000
const renewalsPerLease = 3

/** Takes tasks while there is room, and keeps the leases of those that run. */
export class TaskScheduler {
  readonly #options: TaskSchedulerOptions
  readonly #runs = new Map<string, TaskRun>()
  readonly #ending = new Set<Promise<void>>()
  readonly #listeners = new Set<() => void>()
  #timers: NodeJS.Timeout[] = []
  #stopWatching: (() => void) | undefined
  #pumping: Promise<void> | undefined
  #isPokedAgain = false
  #hasStarted = false
  #isClosed = false
  #isDraining = false
  #heldBack: HeldBack | undefined

  constructor (options: TaskSchedulerOptions) {
    this.#options = options
  }

  /** Why nothing is begun at the moment, if so. */
  get heldBack (): HeldBack | undefined {
    return this.#isClosed || this.#isDraining ? 'stopping' : this.#heldBack
  }

  get free (): Room {
    return this.#options.room.free(this.taken)
  }

  /** What those that are being run request, one by one. */
  get taken (): Room[] {
    return [...this.#runs.values()].map(({ room }) => room)
  }

  /** How many are being run, and for how many of them a sandbox is still being made. */
  get counts (): { running: number, starting: number } {
    const runs = [...this.#runs.values()]
    return { running: runs.length, starting: runs.filter(({ isStarting }) => isStarting).length }
  }

  /** Goes on with what an earlier daemon of this host had claimed, and deletes sandboxes of deliveries that are over. */
  async adopt (): Promise<void> {
    const { queue, owner, leaseMs, sandboxes, logger } = this.#options
    // What is cancelled from now on is heard; what was before is in the claims.
    this.#stopWatching = queue.watch(news => {
      if (news.kind === 'cancel') this.#runs.get(news.taskId)?.cancel()
      else this.poke()
    })
    for (const claim of await queue.held(owner, leaseMs)) this.#begin(claim)
    for (const { record } of sandboxes.all()) {
      const { task } = record
      const isOver = task && this.#runs.get(task.id)?.claim.fence !== task.fence
      if (!isOver) continue
      void sandboxes.removeOfTask(record.id)
        .catch(error => logger.error({ sandboxId: record.id, taskId: task.id, err: error }, 'the sandbox of a task that is over could not be deleted'))
    }
  }

  /** Begins to take tasks. */
  start (): void {
    this.#hasStarted = true
    const { leaseMs } = this.#options
    this.#timers = [setInterval(() => this.poke(), lookEveryMs), setInterval(() => { void this.#renew() }, leaseMs / renewalsPerLease)]
    this.poke()
  }

  /** Looks whether something can be begun. Nothing is before the start: what is claimed already must be known first. */
  poke (): void {
    if (!this.#hasStarted || this.#isClosed) return
    this.#isPokedAgain = true
    this.#pumping ??= this.#pump().finally(() => { this.#pumping = undefined })
  }

  /** Calls back when a sandbox has been set up, or room has come free; answers how to stop. */
  watch (listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /** Takes nothing more; what runs goes on. */
  drain (): void {
    this.#isDraining = true
  }

  /** Takes tasks again. */
  undrain (): void {
    this.#isDraining = false
    this.poke()
  }

  /**
   * Takes nothing more, ends what runs with the reason `drained`, and gives it back; resolves when all of it has been reported on.
   * `graceMs`: how long a program has to end by itself.
   */
  async stopAll (graceMs: number): Promise<void> {
    this.drain()
    await this.#pumping
    for (const run of this.#runs.values()) run.drain(graceMs)
    await Promise.all(this.#ending)
  }

  /** Lets go of every task without touching its sandbox: the next daemon goes on with them. */
  async close (): Promise<void> {
    this.#isClosed = true
    this.#stopWatching?.()
    for (const timer of this.#timers) clearInterval(timer)
    for (const run of this.#runs.values()) run.close()
    await this.#pumping
  }

  async #pump (): Promise<void> {
    while (this.#isPokedAgain) {
      this.#isPokedAgain = false
      try {
        while (await this.#takeOne());
      } catch (error) {
        this.#options.logger.error({ err: error }, 'the queue could not be asked for tasks; it is asked again')
      }
    }
  }

  async #takeOne (): Promise<boolean> {
    const { queue, room, owner, pools, leaseMs, maxStarting } = this.#options
    if (this.#isClosed || this.#isDraining) return false
    if (this.counts.starting >= maxStarting) return false
    this.#heldBack = await room.heldBack()
    // A drain, or the end, may have been asked for meanwhile.
    if (this.#heldBack || this.#isClosed || this.#isDraining) return false
    const [claim] = await queue.claim({ owner, pools, limit: 1, leaseMs, room: this.free, capacity: room.largest })
    if (!claim) return false
    // Claimed while the daemon began to end: the next one goes on with it.
    if (!this.#isClosed) this.#begin(claim)
    return true
  }

  #begin (claim: Claim): void {
    const { taskId } = claim
    const run = new TaskRun(claim, this.#options)
    this.#runs.set(taskId, run)
    this.#options.onChange(claim.task)
    const ended = run.run(() => this.#onMove()).finally(() => {
      if (this.#runs.get(taskId) === run) this.#runs.delete(taskId)
      this.#ending.delete(ended)
      this.#onMove()
    })
    this.#ending.add(ended)
  }

  #onMove (): void {
    this.poke()
    for (const listener of this.#listeners) listener()
  }

  async #renew (): Promise<void> {
    const { queue, leaseMs, logger } = this.#options
    if (this.#runs.size === 0) return
    try {
      for (const { taskId, fence, isHeld, isCancelRequested } of await queue.renew([...this.#runs.values()].map(({ claim }) => claim), leaseMs)) {
        const run = this.#runs.get(taskId)
        if (run?.claim.fence !== fence) continue
        if (!isHeld) run.abandon()
        else if (isCancelRequested) run.cancel()
      }
    } catch (error) {
      logger.error({ err: error }, 'leases of tasks could not be renewed; it is tried again')
    }
  }
}
