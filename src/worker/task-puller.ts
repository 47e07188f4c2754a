import type { Logger } from 'pino'
import type { OutputSpec } from '../schemas/output.ts'
import { deliveryId } from '../services/tasks/delivery-id.ts'
import type { HostRoom } from '../services/tasks/host-room.ts'
import type { TaskDeliveries } from '../services/tasks/task-deliveries.ts'
import type { Claim, Room, TaskQueue } from '../services/tasks/task-queue.ts'
import type { TaskRecord, TaskSpec } from '../services/tasks/task-record.ts'
import type { TaskScheduler } from '../services/tasks/task-scheduler.ts'
import { definedOf } from '../services/tasks/task-spec.ts'
import { boundedCall } from './bounded-call.ts'
import { DeliveryIntake } from './delivery-intake.ts'
import { DeliveryLeases } from './delivery-leases.ts'
import type { DeliveryHooks } from './delivery-report.ts'
import { DeliveryReporter } from './delivery-reporter.ts'
import type { GatewayReports } from './gateway-reports.ts'

export interface TaskPullerOptions extends DeliveryHooks {
  /** The queue of the fleet. It may be away, then and always. */
  fleet: Pick<TaskQueue, 'claim' | 'held' | 'start' | 'renew' | 'settle' | 'release' | 'watch'>
  /** What this host keeps of deliveries, and its own queue, on which they are run. */
  local: TaskDeliveries
  localQueue: Pick<TaskQueue, 'cancel'>
  scheduler: Pick<TaskScheduler, 'taken' | 'heldBack' | 'watch'>
  room: Pick<HostRoom, 'free' | 'largest' | 'heldBack'>
  /** The id of this host. */
  owner: string
  /** Of the fleet; the scheduler serves them too. */
  pools: readonly string[]
  labels: Readonly<Record<string, string>>
  leaseMs: number
  /** So many deliveries at most wait or are set up here. */
  maxStarting: number
  /** Throws a BerthError for what this host cannot run, as it would refuse the same task from a client. */
  beforePush?: (spec: TaskSpec) => void | Promise<void>
  /** Where output goes of tasks that do not say, beside the fleet. */
  defaultOutputs?: readonly OutputSpec[]
  /** A delivery was queued here, or changed otherwise than by being run. */
  onChange?: (delivery: TaskRecord) => void
  gatewayReports?: GatewayReports
  logger: Logger
  /** Other times serve tests. */
  callTimeoutMs?: number
  backoff?: { firstMs: number, maxMs: number }
  lookEveryMs?: number
}

const usualTimes = { callTimeoutMs: 10_000, backoff: { firstMs: 200, maxMs: 30_000 }, lookEveryMs: 5000 }
/** More at once would come from the queue to wait here. */
const maxBatch = 16
/** What a sandbox needs beside what is requested is small against this: so many at once keep little room from one that needs much. */
const usualMemoryBytes = 1024 ** 3
/** Memory and disk come free without a sign. */
const lookWhenHeldBackMs = 1000

/**
 * Takes tasks of a fleet while this host has room, as tasks of its own queue, and has them reported.
 *
 * A claim whose answer was lost is found again: before anything more is claimed the queue is asked what this host has, and so it is at
 * the start and once a lease.
 */
export class TaskPuller {
  readonly #options: TaskPullerOptions
  readonly #times: typeof usualTimes
  readonly #reporter: DeliveryReporter
  readonly #intake: DeliveryIntake
  readonly #leases: DeliveryLeases
  readonly #closing = new AbortController()
  readonly #heardCancels = new Set<string>()
  #stopWatching: Array<() => void> = []
  #turn: Promise<unknown> | undefined
  #isDraining = false
  /** Something may have been claimed of which this host does not know. */
  #isInDoubt = true
  #askedHeldAt = -Infinity
  #failures = 0
  #wakeUp: (() => void) | undefined
  #poked: 'no' | 'locally' | 'by news' = 'no'

  constructor (options: TaskPullerOptions) {
    const { fleet, local, localQueue, logger, leaseMs, beforePush, onTaken, onStarted, onEnded, gatewayReports, lookEveryMs } = options
    this.#options = options
    this.#times = { ...usualTimes, ...definedOf({ callTimeoutMs: options.callTimeoutMs, backoff: options.backoff, lookEveryMs }) }
    const onChange = (delivery: TaskRecord) => options.onChange?.(delivery)
    const { callTimeoutMs, backoff } = this.#times
    this.#reporter = new DeliveryReporter({
      fleet, local, hooks: { onTaken, onStarted, onEnded }, gatewayReports, logger, callTimeoutMs, backoff, onMoved: () => this.#poke('locally'),
    })
    const kept = {
      get: (id: string) => local.get(id),
      take: local.take.bind(local),
      tellAgain: local.tellAgain.bind(local),
      cancel: localQueue.cancel.bind(localQueue),
    }
    this.#intake = new DeliveryIntake({ fleet, local: kept, reporter: this.#reporter, beforePush, defaultOutputs: options.defaultOutputs, onChange, logger })
    this.#leases = new DeliveryLeases({
      fleet,
      abandon: async id => {
        const record = await local.abandon(id)
        if (record) onChange(record)
      },
      cancel: async id => { onChange(await localQueue.cancel(id)) },
      reporter: this.#reporter,
      leaseMs,
      callTimeoutMs,
      backoff,
      logger,
    })
  }

  /** Goes on with what an earlier daemon has left, and begins to take tasks. Waits for nobody. */
  start (): void {
    const { local, fleet, scheduler } = this.#options
    const unreported = local.unreported()
    // Those that have ended are told in the order in which they have.
    for (const record of [...unreported.filter(({ endedAt }) => endedAt !== undefined).sort(byEnd), ...unreported]) this.#reporter.follow(record)
    this.#stopWatching = [scheduler.watch(() => this.#poke('locally')), fleet.watch(news => {
      if (news.kind === 'available') this.#poke('by news')
      else this.#onCancel(news.taskId)
    })]
    void this.#loop()
    this.#leases.start()
  }

  /** Claims nothing more; what is here goes on. */
  drain (): void {
    this.#isDraining = true
  }

  undrain (): void {
    this.#isDraining = false
    this.#poke('locally')
  }

  /** While draining: gives back to the fleet what has not begun here. Resolves when that is on this host's disk; `flush` has it told. */
  async giveBack (): Promise<number> {
    const { local, onChange } = this.#options
    await this.#turn
    const given = await Promise.all([...this.#reporter.open].filter(({ record }) => record.status === 'pending').map(async ({ id }) => await local.giveBack(id)))
    const records = given.filter(record => record !== undefined)
    for (const record of records) onChange?.(record)
    return records.length
  }

  /** Whether the fleet's queue was told within the time how all deliveries ended that have. */
  async flush (timeoutMs: number): Promise<boolean> {
    return await this.#reporter.flush(timeoutMs)
  }

  /** Lets go of everything without touching it: the next daemon goes on. */
  async close (): Promise<void> {
    this.#closing.abort()
    for (const stop of this.#stopWatching) stop()
    this.#leases.close()
    this.#reporter.close()
    this.#wakeUp?.()
    await this.#turn
  }

  get #isClosed (): boolean { return this.#closing.signal.aborted }

  async #loop (): Promise<void> {
    while (!this.#isClosed) {
      const isNews = this.#poked === 'by news'
      this.#poked = 'no'
      const turn = this.#takeTurn(isNews)
      this.#turn = turn
      const pauseMs = await turn
      this.#turn = undefined
      await this.#rest(pauseMs)
    }
  }

  /** One look at the queue; answers for how long to rest unless woken. Never rejects. */
  async #takeTurn (isNews: boolean): Promise<number> {
    const { logger } = this.#options
    const { backoff, lookEveryMs } = this.#times
    try {
      if (this.#isInDoubt || performance.now() - this.#askedHeldAt > this.#options.leaseMs) await this.#reconcile()
      let isHeldBack = false
      for (let isMore = true; isMore && !this.#isClosed && !this.#isDraining;) {
        isHeldBack = (this.#options.scheduler.heldBack ?? await this.#options.room.heldBack()) !== undefined
        isMore = !isHeldBack && await this.#takeSome(isNews)
      }
      if (this.#failures > 0) logger.info('the queue of the fleet answers again')
      this.#failures = 0
      return (isHeldBack ? lookWhenHeldBackMs : lookEveryMs) * (0.5 + Math.random())
    } catch (error) {
      if (this.#isClosed) return 0
      if (this.#failures === 0) logger.warn({ err: error }, 'the queue of the fleet could not be asked for tasks; it is asked again')
      this.#isInDoubt = true
      return Math.min(backoff.maxMs, backoff.firstMs * 2 ** Math.min(this.#failures++, 20)) * (0.25 + 0.75 * Math.random())
    }
  }

  async #rest (pauseMs: number): Promise<void> {
    // What happens here does not bring back a queue that is away; news of it may.
    const isDeaf = this.#failures > 0
    await new Promise<void>(resolve => {
      const timer = setTimeout(resolve, pauseMs)
      this.#wakeUp = () => {
        if (isDeaf && this.#poked !== 'by news' && !this.#isClosed) return
        clearTimeout(timer)
        resolve()
      }
      if (this.#poked !== 'no' || this.#isClosed) this.#wakeUp()
    })
    this.#wakeUp = undefined
  }

  #poke (how: 'locally' | 'by news'): void {
    if (this.#poked !== 'by news') this.#poked = how
    this.#wakeUp?.()
  }

  /** Whether there may be more. */
  async #takeSome (isNews: boolean): Promise<boolean> {
    const { fleet, owner, pools, labels, leaseMs, maxStarting, room } = this.#options
    const waiting = this.#waiting()
    const most = maxStarting - waiting.length - [...this.#reporter.open].filter(({ record }) => record.status === 'scheduled').length
    if (most <= 0 || pools.length === 0) return false
    const limit = Math.min(most, maxBatch, 1 + Math.floor(this.#free(waiting, 1).memoryBytes / usualMemoryBytes))
    const request = { owner, pools, leaseMs, capacity: room.largest, labels }
    let claims = await this.#claim(() => fleet.claim({ ...request, limit, room: this.#free(waiting, limit) }))
    // One may fit where so many more would not. Of news, all hosts of a fleet hear at once.
    if (claims.length === 0 && limit > 1 && !isNews) claims = await this.#claim(() => fleet.claim({ ...request, limit: 1, room: this.#free(waiting, 1) }))
    await Promise.all(claims.map(claim => this.#takeIn(claim, { isUnwanted: this.#isDraining })))
    return claims.length > 0
  }

  /** An answer that comes too late, or is lost, leaves it in doubt what this host has. */
  async #claim (work: () => Promise<Claim[]>): Promise<Claim[]> {
    this.#isInDoubt = true
    this.#heardCancels.clear()
    const claims = await this.#call('a claim of tasks of the fleet', work)
    this.#isInDoubt = false
    this.#reporter.wake()
    return claims
  }

  async #takeIn (claim: Claim, origin: { isUnwanted: boolean, openBefore?: ReadonlySet<string> }): Promise<void> {
    if (this.#isClosed) return
    try {
      await this.#call('taking in a task of the fleet', () => this.#intake.take(claim, origin))
    } catch (error) {
      this.#isInDoubt = true
      throw error
    }
    if (this.#heardCancels.has(claim.taskId)) this.#onCancel(claim.taskId)
  }

  /** What the queue says this host has, against what it knows of. */
  async #reconcile (): Promise<void> {
    const { fleet, owner, leaseMs } = this.#options
    this.#isInDoubt = true
    const openBefore = new Set([...this.#reporter.open].filter(({ isSettled }) => !isSettled).map(({ id }) => id))
    this.#heardCancels.clear()
    const claims = await this.#call('asking the fleet what this host has', () => fleet.held(owner, leaseMs))
    this.#askedHeldAt = performance.now()
    this.#reporter.wake()
    const held = new Set(claims.map(deliveryId))
    for (const id of openBefore) if (!held.has(id)) await this.#leases.lost(id)
    await Promise.all(claims.map(claim => this.#takeIn(claim, { isUnwanted: this.#isDraining, openBefore })))
    this.#isInDoubt = false
  }

  async #call<T> (what: string, work: () => Promise<T>): Promise<T> {
    return await boundedCall({ timeoutMs: this.#times.callTimeoutMs, signal: this.#closing.signal }, what, work)
  }

  #onCancel (taskId: string): void {
    // Of one that is just being taken in it is looked at again afterwards.
    this.#heardCancels.add(taskId)
    this.#leases.cancelTask(taskId)
  }

  /** What deliveries request that wait on this host. */
  #waiting (): Room[] {
    return [...this.#reporter.open].filter(({ record }) => record.status === 'pending').map(({ record }) => record.spec.requests)
  }

  /** What so many more may request together: each needs something beside what it requests. */
  #free (waiting: readonly Room[], count: number): Room {
    const { room, scheduler } = this.#options
    const others = Array.from({ length: count - 1 }, () => ({ cpuMillis: 0, memoryBytes: 0 }))
    return room.free([...scheduler.taken, ...waiting, ...others])
  }
}

function byEnd (a: TaskRecord, b: TaskRecord): number {
  return a.endedAt! < b.endedAt! ? -1 : Number(a.endedAt! > b.endedAt!)
}
