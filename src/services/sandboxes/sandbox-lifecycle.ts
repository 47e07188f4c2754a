import { mkdir } from 'node:fs/promises'
import { Mutex } from 'async-mutex'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { CgroupManager } from '../../host/cgroup.ts'
import { readExitCode, watchExit } from '../../host/conmon.ts'
import type { OciRuntime } from '../../host/oci-runtime.ts'
import { isAlive } from '../../host/process.ts'
import { withDeadline } from '../../lib/deadline.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { EndReason, SandboxEnd, SandboxStatus, SandboxUpdate } from '../../schemas/sandbox.ts'
import { SandboxClock } from './sandbox-clock.ts'
import { classifyEnd, failureReasons } from './sandbox-end.ts'
import type { HostPlaces } from './sandbox-places.ts'
import { writeRecord, type SandboxRecord } from './sandbox-record.ts'
import { assertVerb, canMove, endedStatuses, liveStatuses } from './sandbox-status.ts'
import type { SandboxStep } from './sandbox-steps.ts'
import { askToEnd } from './sandbox-termination.ts'

export interface LifecycleParts {
  places: HostPlaces
  cgroups: CgroupManager
  runtimes: ReadonlyMap<string, OciRuntime>
  steps: readonly SandboxStep[]
  logger: Logger
  /** Told of each change of status, after it is on disk. */
  onStatus: (record: SandboxRecord, change: { from: SandboxStatus, to: SandboxStatus }) => void
  /** Told when a resource could not be released. */
  onLeak: (record: SandboxRecord, step: string, error: unknown) => void
}

export interface StopOptions {
  reason: EndReason
  force?: boolean
  graceMs?: number
}

const startDeadlineMs = 60_000
const releaseDeadlineMs = 60_000
const exitDeadlineMs = 10_000
export const defaultGraceMs = 10_000

/**
 * One sandbox: its record, and the only code that changes its status.
 *
 * Operations on one sandbox run one after the other; a forced stop hurries the one before it.
 * Whatever is about to be done is in the record before it is done.
 */
export class SandboxLifecycle {
  readonly record: SandboxRecord
  readonly clock: SandboxClock
  readonly #parts: LifecycleParts
  readonly #mutex = new Mutex()
  readonly #watchers = new Set<() => void>()
  #exited = Promise.withResolvers<void>()
  #closeWatch: (() => void) | undefined
  #hurry = new AbortController()
  #isClosed = false

  constructor (record: SandboxRecord, parts: LifecycleParts) {
    this.record = record
    this.#parts = parts
    this.clock = new SandboxClock(record)
  }

  get status (): SandboxStatus { return this.record.status }
  get hasEnded (): boolean { return endedStatuses.includes(this.record.status) }
  get runtime (): OciRuntime {
    const runtime = this.#parts.runtimes.get(this.record.runtime)
    if (!runtime) throw new BerthError('unavailable', 'runtime_missing', `the OCI runtime ${this.record.runtime} is not on this host; run: berth doctor`)
    return runtime
  }

  /** Calls back after each change of status; answers how to stop. */
  watch (onChange: () => void): () => void {
    this.#watchers.add(onChange)
    return () => this.#watchers.delete(onChange)
  }

  /** Sets up a sandbox that was just asked for, and starts it unless told otherwise. Releases all it took when a step fails. */
  async create (options: { start: boolean }): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      await this.#begin()
      await this.#setUp('sandbox')
      if (!options.start) return await this.#move('created', { wasCreated: true })
      await this.#passThroughCreated()
      await this.#startContainer()
    })
  }

  async start (): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      this.#assertNotDeleting()
      assertVerb('start', this.status)
      if (this.status !== 'created') {
        await this.#releaseSteps('run')
        if (this.record.leaks.length > 0) throw new BerthError('unavailable', 'resources_leaked', 'what the sandbox used before could not be released yet; it is being tried again, so try again later')
        await this.#move('creating', { stopReason: undefined, holdsRun: true })
        await this.#setUp('run')
        await this.#passThroughCreated()
      } else {
        await this.#save({ unsettled: true })
      }
      await this.#startContainer()
    })
  }

  /** Ends the container: SIGTERM to all, grace, SIGKILL; with `force`, SIGKILL at once. Returns when it has ended. */
  async stop (options: StopOptions): Promise<void> {
    if (options.force) this.#hurry.abort()
    await this.#mutex.runExclusive(async () => {
      if (this.hasEnded) return
      assertVerb('stop', this.status)
      await this.#stopContainer(options)
    })
  }

  async pause (): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      assertVerb('pause', this.status)
      await this.#save({ unsettled: true })
      await this.#settled(() => this.runtime.pause(this.record.id))
      this.clock.pause()
      await this.#move('paused', { unsettled: undefined })
    })
  }

  async resume (): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      assertVerb('resume', this.status)
      await this.#save({ unsettled: true })
      await this.#settled(() => this.runtime.resume(this.record.id))
      this.clock.resume()
      await this.#move('running', { unsettled: undefined })
    })
  }

  async update (update: SandboxUpdate): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      this.#assertNotDeleting()
      if (update.timeoutMs !== undefined) {
        if (this.hasEnded) throw new BerthError('conflict', 'invalid_state', 'cannot extend the deadline of a sandbox that has ended', { details: { status: this.status } })
        this.clock.extend(update.timeoutMs)
      }
      await this.#save(update.labels === undefined ? {} : { labels: update.labels })
    })
  }

  /** Writes what the clock learnt since the last save, if anything. */
  async flush (): Promise<void> {
    if (!this.clock.isDirty || this.#mutex.isLocked() || this.#isClosed) return
    await this.#mutex.runExclusive(() => this.#save({}))
  }

  /** Ends the sandbox if it runs, releases everything, and removes its files. The record stays, marked as deleted. */
  async remove (options: { force: boolean }): Promise<void> {
    if (options.force) this.#hurry.abort()
    await this.#mutex.runExclusive(async () => {
      if (this.record.deletedAt) return
      if (!options.force && !this.hasEnded && this.status !== 'created') {
        throw new BerthError('conflict', 'invalid_state', `cannot delete a sandbox that is ${this.status}; stop it first, or delete it with ?force=true`, { details: { status: this.status } })
      }
      await this.#save({ isDeleting: true, stopReason: this.record.stopReason ?? 'requested' })
      await this.#removeAll()
    })
  }

  /**
   * Takes over what another daemon left: a live container is adopted as it is, an ended one is settled with its real exit code,
   * a half-done create is rolled back, a half-done deletion is finished.
   */
  async adopt (facts: { hasHostRestarted: boolean }): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      if (this.record.isDeleting) return await this.#removeAll()
      if (this.status === 'pending' || this.status === 'creating') return await this.#rollBack()
      if (this.hasEnded) return await this.#releaseRun()
      this.#watchExit()
      if (!await this.#isContainerAlive()) return await this.#settleExit(facts)
      if (this.record.unsettled) await this.#settleStatus()
    })
    if (this.status === 'stopping') void this.stop({ reason: this.record.stopReason ?? 'requested', force: true }).catch(error => this.#log(error, 'a stop could not be finished'))
  }

  /** Tries again to release what leaked. */
  async retryLeaks (): Promise<void> {
    if (this.record.leaks.length === 0) return
    await this.#mutex.runExclusive(async () => {
      if (!this.hasEnded && !this.record.isDeleting) return
      if (this.record.isDeleting) await this.#removeAll()
      else await this.#releaseRun()
    })
  }

  /** Looks whether the monitor is still there; one that vanished without an exit code means that the sandbox is lost. */
  async checkMonitor (): Promise<void> {
    if (!liveStatuses.includes(this.status) || this.#mutex.isLocked() || await this.#isContainerAlive()) return
    await this.#mutex.runExclusive(() => this.#settleExit({ hasHostRestarted: false }))
  }

  /** Lets go of the sandbox without touching it. */
  close (): void {
    this.#isClosed = true
    this.#closeWatch?.()
  }

  async #begin (): Promise<void> {
    await mkdir(this.#places().dir, { recursive: true, mode: 0o700 })
    await this.#move('creating', { holdsRun: true })
  }

  async #setUp (scope: 'sandbox' | 'run'): Promise<void> {
    this.#hurry = new AbortController()
    this.record.timings = []
    for (const step of this.#parts.steps) {
      if (scope === 'run' && step.scope === 'sandbox') continue
      const startedMs = performance.now()
      try {
        await withDeadline(step.deadlineMs, `the step ${step.name}`, signal => step.acquire(this.record, signal))
      } catch (error) {
        await this.#failSetUp(step.name, error)
        throw setUpError(this.record.id, step.name, error)
      }
      this.record.timings.push({ step: step.name, durationMs: roundMs(performance.now() - startedMs) })
    }
    this.#watchExit()
  }

  async #startContainer (): Promise<void> {
    const startedMs = performance.now()
    try {
      await withDeadline(startDeadlineMs, 'the start', signal => this.runtime.start(this.record.id, signal))
    } catch (error) {
      await this.#failSetUp('start', error)
      throw setUpError(this.record.id, 'start', error)
    }
    this.record.timings.push({ step: 'start', durationMs: roundMs(performance.now() - startedMs) })
    this.record.startedAt = new Date().toISOString()
    this.clock.start()
    await this.#move('running', { end: undefined, unsettled: undefined, wasCreated: true })
  }

  /** A sandbox that the client knows stays, as failed; one that was never answered is gone, and its record says why. */
  async #failSetUp (step: string, error: unknown): Promise<void> {
    this.#log(error, 'a set-up step failed', { step })
    const end: SandboxEnd = { reason: 'setup_failed', at: new Date().toISOString(), step, message: error instanceof BerthError ? error.message : `the step ${step} failed` }
    this.#closeWatch?.()
    await this.#move('failed', { end, unsettled: undefined, ...(this.record.wasCreated ? {} : { isDeleting: true }) })
    if (this.record.wasCreated) {
      await this.#releaseSteps('run')
      await this.#save({})
    } else {
      await this.#removeAll()
    }
  }

  async #rollBack (): Promise<void> {
    await this.#failSetUp('daemon', new BerthError('unavailable', 'daemon_ended', 'the daemon ended while the sandbox was being set up'))
  }

  async #stopContainer (options: StopOptions): Promise<void> {
    const reason = this.record.stopReason ?? options.reason
    if (this.status === 'paused') await this.runtime.resume(this.record.id)
    const wasRunning = this.status !== 'created'
    if (this.status !== 'stopping') await this.#move('stopping', { stopReason: reason })
    const isHurried = options.force || this.#hurry.signal.aborted
    if (wasRunning && !isHurried) await this.#terminate(options.graceMs ?? defaultGraceMs)
    await this.#kill()
    await this.#settleExit({ hasHostRestarted: false })
  }

  /** Asks every process to end, and waits until they have, the grace is over, or somebody is in a hurry. */
  async #terminate (graceMs: number): Promise<void> {
    const hurried = new Promise<void>(resolve => this.#hurry.signal.addEventListener('abort', () => resolve(), { once: true }))
    const done = askToEnd(this.record, this.runtime, this.#parts.places).catch(error => this.#log(error, 'the request to end could not be delivered'))
    // With a program of its own, the sandbox ends when that program does; without, when nothing but init is left.
    const isIdle = this.record.process?.argv === undefined
    await raceWithDelay(graceMs, [this.#exited.promise, hurried, ...(isIdle ? [done] : [])])
  }

  async #kill (): Promise<void> {
    if (await this.#exitCode() !== undefined) return
    await this.runtime.kill(this.record.id, 'KILL', { all: true })
    await raceWithDelay(exitDeadlineMs, [this.#exited.promise])
    if (await this.#exitCode() === undefined) await this.#parts.cgroups.killAll(this.record.id)
  }

  /** The container has ended: says so with the reason, then gives back what it used. */
  async #settleExit (facts: { hasHostRestarted: boolean }): Promise<void> {
    if (!liveStatuses.includes(this.status)) return
    this.#closeWatch?.()
    const usage = await this.#parts.cgroups.usage(this.record.id).catch(() => undefined)
    const end = classifyEnd({
      at: new Date().toISOString(),
      exitCode: await this.#exitCode(),
      stopReason: this.record.stopReason,
      oomKills: usage?.oomKills ?? 0,
      peakMemoryBytes: usage?.peakMemoryBytes,
      hasHostRestarted: facts.hasHostRestarted,
    })
    this.clock.stop()
    await this.#move(failureReasons.includes(end.reason) ? 'failed' : 'stopped', { end, stopReason: undefined, unsettled: undefined })
    await this.#releaseRun()
  }

  async #removeAll (): Promise<void> {
    if (!this.hasEnded) await this.#endForRemoval()
    await this.#releaseSteps('all')
    if (this.record.leaks.length === 0) await this.#removeFiles()
    if (this.record.leaks.length > 0) return await this.#save({})
    await this.#save({ deletedAt: new Date().toISOString(), isDeleting: undefined })
    this.#notify()
  }

  /** Brings a sandbox that is to be removed to its end, as far as it got. */
  async #endForRemoval (): Promise<void> {
    if (liveStatuses.includes(this.status) && await this.#isContainerAlive()) {
      this.#watchExit()
      return await this.#stopContainer({ reason: 'requested', force: true })
    }
    if (liveStatuses.includes(this.status)) return await this.#settleExit({ hasHostRestarted: false })
    await this.#move('failed', { end: { reason: 'requested', at: new Date().toISOString() } })
  }

  async #removeFiles (): Promise<void> {
    try {
      await this.#parts.places.removeSandboxFiles(this.record.id)
    } catch (error) {
      this.#leak('files', error)
    }
  }

  async #releaseRun (): Promise<void> {
    if (!this.record.holdsRun) return
    await this.#releaseSteps('run')
    await this.#save({})
  }

  /** Runs the releases newest first, every one; what fails is in the record as a leak. */
  async #releaseSteps (scope: 'run' | 'all'): Promise<void> {
    this.#closeWatch?.()
    this.record.leaks = []
    for (const step of [...this.#parts.steps].reverse()) {
      if (step.scope === 'run' ? !this.record.holdsRun : scope === 'run') continue
      try {
        await withDeadline(releaseDeadlineMs, `the release of ${step.name}`, () => step.release(this.record))
      } catch (error) {
        this.#leak(step.name, error)
      }
    }
    if (this.record.leaks.length === 0) this.record.holdsRun = undefined
  }

  #leak (step: string, error: unknown): void {
    this.record.leaks.push({ step, message: `the release of ${step} failed and will be tried again` })
    this.#log(error, 'a resource could not be released', { step })
    this.#parts.onLeak(this.record, step, error)
  }

  /** After a pause or resume that failed, the runtime knows what is so. */
  async #settled (operation: () => Promise<void>): Promise<void> {
    try {
      await operation()
    } catch (error) {
      await this.#settleStatus()
      throw error
    }
  }

  async #settleStatus (): Promise<void> {
    const actual = await this.runtime.status(this.record.id)
    if (actual === 'running' && this.status === 'created') {
      this.record.startedAt ??= new Date().toISOString()
      this.clock.start()
    }
    if (actual === 'paused' && this.status === 'running') this.clock.pause()
    if (actual === 'running' && this.status === 'paused') this.clock.resume()
    const isNews = (actual === 'running' || actual === 'paused') && actual !== this.status
    if (isNews) await this.#move(actual, { unsettled: undefined })
    else await this.#save({ unsettled: undefined })
  }

  async #isContainerAlive (): Promise<boolean> {
    if (await this.#exitCode() !== undefined) return false
    if (this.record.monitor && isAlive(this.record.monitor)) return true
    // The monitor may have written the code and ended between the two looks.
    return false
  }

  #exitCode (): Promise<number | undefined> {
    return readExitCode(this.#places().exitDir, this.record.id)
  }

  /** Settles the exit when it comes, unless an operation under way does so first. */
  #watchExit (): void {
    this.#closeWatch?.()
    const exited = Promise.withResolvers<void>()
    this.#exited = exited
    const look = async () => {
      if (await this.#exitCode() === undefined) return
      exited.resolve()
      await this.#mutex.runExclusive(async () => {
        if (!this.#isClosed && this.#exited === exited) await this.#settleExit({ hasHostRestarted: false })
      })
    }
    const guardedLook = () => { void look().catch(error => this.#log(error, 'an exit could not be settled')) }
    this.#closeWatch = watchExit(this.#places().exitDir, guardedLook)
    guardedLook()
  }

  /** Created, and started at once: on disk it stays `creating`, which a daemon that starts rolls back either way. */
  #passThroughCreated (): Promise<void> {
    return this.#move('created', {}, { isOnDisk: false })
  }

  /** The one place that changes the status. */
  async #move (to: SandboxStatus, patch: Partial<SandboxRecord> = {}, options: { isOnDisk: boolean } = { isOnDisk: true }): Promise<void> {
    const from = this.status
    if (!canMove(from, to)) throw new Error(`a sandbox cannot go from ${from} to ${to}`)
    this.record.status = to
    if (options.isOnDisk) await this.#save(patch)
    this.#parts.logger.info({ sandboxId: this.record.id, from, to, ...(patch.end ? { end: patch.end } : {}) }, 'sandbox status changed')
    this.#parts.onStatus(this.record, { from, to })
    this.#notify()
  }

  #notify (): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  async #save (patch: Partial<SandboxRecord>): Promise<void> {
    Object.assign(this.record, patch)
    this.clock.isDirty = false
    await writeRecord(this.#places().recordPath, this.record)
  }

  #places () {
    return this.#parts.places.sandbox(this.record.id)
  }

  #assertNotDeleting (): void {
    if (this.record.isDeleting || this.record.deletedAt) throw new BerthError('conflict', 'sandbox_deleted', 'the sandbox has been deleted')
  }

  #log (error: unknown, message: string, fields: Record<string, unknown> = {}): void {
    this.#parts.logger.warn({ sandboxId: this.record.id, err: error, ...fields }, message)
  }
}

function roundMs (durationMs: number): number {
  return Math.round(durationMs * 100) / 100
}

/** The step's own error where it is the client's to read, else that this step failed; always with the sandbox's id. */
function setUpError (sandboxId: string, step: string, cause: unknown): BerthError {
  const details = { sandboxId, step }
  if (cause instanceof BerthError) return new BerthError(cause.kind, cause.code, cause.message, { cause, details: { ...cause.details, ...details } })
  return new BerthError('internal', 'setup_failed', `the sandbox could not be set up: its step ${step} failed; everything was released, and the daemon's log has the cause`, { cause, details })
}
