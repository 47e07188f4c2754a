/**
 * A fleet's queue and one host of it: both on SQLite, as the queue of a fleet keeps the same contract. The host's daemon can be killed at
 * any of its steps and started anew; its sandboxes go on meanwhile.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import pino from 'pino'
import { BerthError } from '../../../src/errors.ts'
import { pollUntil } from '../../../src/lib/poll.ts'
import type { SandboxEnd } from '../../../src/schemas/sandbox.ts'
import { openTaskDatabase } from '../../../src/services/database.ts'
import type { SandboxLifecycle } from '../../../src/services/sandboxes/sandbox-lifecycle.ts'
import { HostRoom } from '../../../src/services/tasks/host-room.ts'
import type { TaskDeliveries } from '../../../src/services/tasks/task-deliveries.ts'
import type { TaskRecord } from '../../../src/services/tasks/task-record.ts'
import { TaskScheduler } from '../../../src/services/tasks/task-scheduler.ts'
import { openTaskStore, type TaskStore } from '../../../src/services/tasks/task-store.ts'
import { TaskPuller, type TaskPullerOptions } from '../../../src/worker/task-puller.ts'
import { newTask, queueDefaults, type TaskChoice } from '../../contract/queue-rig.ts'
import { Lifeline, never, throughLifeline } from './lifeline.ts'

export const owner = 'hst_here'
const at = '2026-01-01T00:00:00.000Z'

/** What happens to a call: it fails, is carried out without an answer, or neither fails nor answers. */
export type Fault = 'fails' | 'loses its answer' | 'hangs'

class FakeSandbox {
  readonly record: { id: string, task: { id: string, fence: number, logCursor: string }, timings: never[], startedAt: string, end?: SandboxEnd }
  readonly #watchers = new Set<() => void>()
  stops: Array<{ reason: string, force?: boolean }> = []

  constructor (task: { id: string, fence: number, logCursor: string }) {
    this.record = { id: `sbx_${task.id}_${task.fence}`, task, timings: [], startedAt: at }
  }

  get status (): string { return this.record.end ? 'stopped' : 'running' }
  get hasEnded (): boolean { return this.record.end !== undefined }

  watch (listener: () => void): () => void {
    this.#watchers.add(listener)
    return () => this.#watchers.delete(listener)
  }

  end (end: Partial<SandboxEnd> = {}): void {
    if (this.hasEnded) return
    this.record.end = { reason: 'exited', exitCode: 0, at: new Date().toISOString(), ...end }
    for (const watcher of this.#watchers) watcher()
  }

  async stop (options: { reason: 'requested' | 'drained', force?: boolean }): Promise<void> {
    this.stops.push(options)
    this.end({ reason: options.reason, exitCode: 143 })
  }
}

interface Daemon {
  lifeline: Lifeline
  store: TaskStore
  scheduler: TaskScheduler
  puller: TaskPuller
}

export class DeliveriesRig {
  readonly fleet: TaskStore
  /** What the host has said, in the order in which it was taken: `settle <task> complete`. */
  readonly told: string[] = []
  /** Deliveries for which a sandbox was made. */
  readonly made: string[] = []
  sandboxes: FakeSandbox[] = []
  createError: Error | undefined
  /** By name of the call: what happens to the next ones. */
  readonly faults = new Map<string, Fault[]>()
  isFleetAway = false
  isGatewayAway = false
  /** Added to the clock of the fleet's queue. */
  offsetMs = 0
  /** How a sandbox ends by itself; without it, it goes on. */
  endOf: ((deliveryId: string) => Partial<SandboxEnd>) | undefined
  daemon: Daemon | undefined
  readonly #dir = mkdtempSync(join(tmpdir(), 'berth-deliveries-'))
  readonly #options: Partial<TaskPullerOptions>
  #closing: Array<Promise<void>> = []

  constructor (t: TestContext, options: Partial<TaskPullerOptions> = {}) {
    this.#options = options
    this.fleet = this.#openStore('fleet.db', () => Date.now() + this.offsetMs)
    t.after(async () => {
      await this.end()
      await this.fleet.close()
      rmSync(this.#dir, { recursive: true })
    })
  }

  get local (): TaskDeliveries { return this.daemon!.store.deliveries }

  async push (...choices: TaskChoice[]): Promise<string[]> {
    return (await this.fleet.queue.push(choices.map(newTask))).map(({ id }) => id)
  }

  task (id: string): TaskRecord { return this.fleet.table.get(id)! }

  /** The sandbox that runs for a task of the fleet. */
  sandbox (taskId: string): FakeSandbox | undefined {
    return this.sandboxes.find(({ record }) => this.local.get(record.task.id)?.spec.fleet?.taskId === taskId)
  }

  /** `isIdle`: what is queued here waits. */
  async start ({ killAt, isIdle = false }: { killAt?: Lifeline['killAt'], isIdle?: boolean } = {}): Promise<Daemon> {
    const lifeline = new Lifeline()
    lifeline.killAt = killAt
    const store = this.#openStore('local.db', () => Date.now())
    const room = new HostRoom({
      cpuOvercommit: 1000,
      reservedMemoryBytes: 0,
      stateDir: '/',
      overheadBytes: 0,
      others: () => [],
      readKernel: async () => ({ availableMemoryBytes: Infinity, memoryPressurePercent: 0, freeDiskBytes: Infinity }),
    })
    const scheduler = this.#scheduler(store, room, lifeline)
    const puller = new TaskPuller({
      fleet: this.#fleetOf(lifeline),
      local: throughLifeline(store.deliveries, lifeline, ['take', 'markReported', 'tellAgain', 'abandon', 'giveBack']),
      localQueue: throughLifeline(store.queue, lifeline, ['cancel']),
      scheduler,
      room,
      owner,
      pools: ['default'],
      labels: {},
      leaseMs: 60_000,
      maxStarting: 4,
      logger: pino({ level: 'silent' }),
      backoff: { firstMs: 2, maxMs: 10 },
      lookEveryMs: 20,
      onTaken: delivery => this.#hear(lifeline, 'taken', delivery),
      onStarted: delivery => this.#hear(lifeline, 'started', delivery),
      onEnded: (delivery, fleet) => this.#hear(lifeline, `ended ${fleet.status}`, delivery),
      gatewayReports: {
        started: async ({ taskId }) => await this.#tellGateway(lifeline, `gateway started ${taskId}`),
        ended: async ({ taskId, status }) => await this.#tellGateway(lifeline, `gateway ${status} ${taskId}`),
      },
      ...this.#options,
    })
    const daemon = { lifeline, store, scheduler, puller }
    this.daemon = daemon
    void lifeline.death.promise.then(() => { this.#closing.push(this.#bury(daemon)) })
    await Promise.race([scheduler.adopt(), lifeline.death.promise])
    if (lifeline.isDead) return daemon
    if (!isIdle) scheduler.start()
    puller.start()
    return daemon
  }

  /** As by SIGKILL: what was not asked for is not done, and no answer is heard. */
  async kill (): Promise<void> {
    const { daemon } = this
    if (!daemon) return
    this.daemon = undefined
    daemon.lifeline.isDead = true
    await this.#bury(daemon)
    await Promise.all(this.#closing.splice(0))
  }

  async end (): Promise<void> {
    const { daemon } = this
    this.daemon = undefined
    await Promise.all(this.#closing.splice(0))
    if (!daemon || daemon.lifeline.isDead) return
    await daemon.puller.close()
    await daemon.scheduler.close()
    await daemon.store.close()
  }

  async until (isSo: () => boolean, what = 'it is so'): Promise<void> {
    if (await pollUntil(async () => isSo(), 10_000)) return
    throw new Error(`in time, ${what}\n${this.told.join('\n')}`)
  }

  async untilReported (...ids: string[]): Promise<void> {
    await this.until(() => ids.every(id => this.task(id).endedAt !== undefined) && this.local.unreported().length === 0, `${ids.join(', ')} are reported`)
  }

  async #bury ({ puller, scheduler, store }: Daemon): Promise<void> {
    const ended = [puller.close(), scheduler.close()]
    await store.close()
    // The loops of a dead daemon hang in their last call.
    void Promise.all(ended)
  }

  #openStore (name: string, now: () => number): TaskStore {
    return openTaskStore({ db: openTaskDatabase(join(this.#dir, name)), options: { ...queueDefaults, now } })
  }

  #scheduler (store: TaskStore, room: HostRoom, lifeline: Lifeline): TaskScheduler {
    return new TaskScheduler({
      queue: throughLifeline(store.queue, lifeline, ['claim', 'held', 'start', 'renew', 'settle', 'release']),
      room,
      owner,
      pools: ['default'],
      leaseMs: 60_000,
      maxStarting: 8,
      logger: pino({ level: 'silent' }),
      startLog: async () => '0:0',
      onChange: () => {},
      sandboxes: {
        all: () => this.sandboxes as unknown as SandboxLifecycle[],
        ofTask: (id, fence) => this.sandboxes.find(({ record }) => record.task.id === id && record.task.fence === fence) as unknown as SandboxLifecycle | undefined,
        createForTask: async (_input, task) => await lifeline.call(async () => this.#makeSandbox(task)),
        removeOfTask: async id => await lifeline.call(async () => { this.sandboxes = this.sandboxes.filter(({ record }) => record.id !== id) }),
      },
    })
  }

  #makeSandbox (task: { id: string, fence: number, logCursor: string }): SandboxLifecycle {
    if (this.createError) throw this.createError
    const sandbox = new FakeSandbox(task)
    this.made.push(task.id)
    this.sandboxes.push(sandbox)
    const { endOf } = this
    if (endOf) setImmediate(() => sandbox.end(endOf(task.id)))
    return sandbox as unknown as SandboxLifecycle
  }

  /** The queue of the fleet as a host sees it. */
  #fleetOf (lifeline: Lifeline): TaskPullerOptions['fleet'] {
    const { queue } = this.fleet
    const call = async <T>(name: string, work: () => Promise<T>) => await lifeline.call(async () => {
      const fault = this.isFleetAway ? 'fails' : this.faults.get(name)?.shift()
      if (fault === 'hangs') return await never()
      if (fault === 'fails') throw new BerthError('unavailable', 'redis_unavailable', 'Redis is away')
      const answer = await work()
      if (fault === 'loses its answer') throw new BerthError('unavailable', 'redis_unavailable', 'Redis went away')
      return answer
    })
    return {
      watch: listener => queue.watch(news => { if (!lifeline.isDead && !this.isFleetAway) listener(news) }),
      claim: async request => await call('claim', async () => await queue.claim(request)),
      held: async (...args) => await call('held', async () => await queue.held(...args)),
      renew: async (...args) => await call('renew', async () => await queue.renew(...args)),
      start: async (claim, facts) => await call('start', async () => {
        await queue.start(claim, facts)
        this.told.push(`start ${claim.taskId}`)
      }),
      settle: async (claim, outcome) => await call('settle', async () => {
        const record = await queue.settle(claim, outcome)
        this.told.push(`settle ${claim.taskId} ${outcome.status}`)
        return record
      }),
      release: async (claim, options) => await call('release', async () => {
        const record = await queue.release(claim, options)
        this.told.push(`release ${claim.taskId}${options.isFault ? ' faulty' : ''}`)
        return record
      }),
    }
  }

  async #hear (lifeline: Lifeline, what: string, { spec }: TaskRecord): Promise<void> {
    await lifeline.call(async () => { this.told.push(`${what} ${spec.fleet?.taskId}`) })
  }

  async #tellGateway (lifeline: Lifeline, what: string): Promise<void> {
    await lifeline.call(async () => {
      if (this.isGatewayAway) throw new BerthError('unavailable', 'gateway_unreachable', 'the gateway is away')
      this.told.push(what)
    })
  }
}
