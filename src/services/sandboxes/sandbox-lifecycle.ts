import { mkdir } from 'node:fs/promises'
import { Mutex } from 'async-mutex'
import { BerthError } from '../../errors.ts'
import { readContainerPid, readExitCode } from '../../host/conmon.ts'
import { readCrash, type OciRuntime } from '../../host/oci-runtime.ts'
import { isAlive } from '../../host/process.ts'
import { withDeadline } from '../../lib/deadline.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { SandboxEnd, SandboxStatus, SandboxUpdate } from '../../schemas/sandbox.ts'
import { withKnownPorts, type NetworkSpec } from '../network/network-manager.ts'
import { ExitWatch } from './exit-watch.ts'
import type { LifecycleParts, StopOptions } from './lifecycle-parts.ts'
import { SandboxClock } from './sandbox-clock.ts'
import { classifyEnd, failureReasons } from './sandbox-end.ts'
import type { SandboxRecord } from './sandbox-record.ts'
import { findStarted } from './sandbox-start.ts'
import { SandboxState } from './sandbox-state.ts'
import { assertVerb, liveStatuses } from './sandbox-status.ts'
import type { SetUpRequest } from './sandbox-steps.ts'
import { askToEnd } from './sandbox-termination.ts'
import { setUpError } from './set-up-error.ts'
import { StepError, timed } from './step-ladder.ts'

const startDeadlineMs = 60_000
const exitDeadlineMs = 10_000
const defaultGraceMs = 10_000

/**
 * One sandbox and what can be done with it.
 *
 * Operations run one after the other; a forced stop hurries the one before it.
 * Whatever is about to be done is in the record before it is done.
 */
export class SandboxLifecycle {
  readonly clock: SandboxClock
  readonly #state: SandboxState
  readonly #parts: LifecycleParts
  readonly #mutex = new Mutex()
  #exit: ExitWatch | undefined
  #hurry = new AbortController()
  #isClosed = false

  constructor (record: SandboxRecord, parts: LifecycleParts) {
    this.#parts = parts
    this.clock = new SandboxClock(record)
    this.#state = new SandboxState(record, { recordPath: parts.places.sandbox(record.id).recordPath, logger: parts.logger, onStatus: parts.onStatus })
  }

  get record (): SandboxRecord { return this.#state.record }
  get status (): SandboxStatus { return this.#state.status }
  get hasEnded (): boolean { return this.#state.hasEnded }
  get runtime (): OciRuntime {
    const runtime = this.#parts.runtimes.get(this.record.runtime)
    if (!runtime) throw new BerthError('unavailable', 'runtime_missing', `the OCI runtime ${this.record.runtime} is not on this host; run: berth doctor`)
    return runtime
  }

  /** Calls back after each change of status; answers how to stop. */
  watch (onChange: () => void): () => void {
    return this.#state.watch(onChange)
  }

  /** Sets up a sandbox that was just asked for, and starts it unless told otherwise. Releases all it took when a step fails. */
  async create (options: { start: boolean, request: SetUpRequest }): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      await mkdir(this.#places().dir, { recursive: true, mode: 0o700 })
      await this.#state.move('creating', { holdsRun: true, isStarting: options.start })
      await this.#setUp('all', options.request)
      if (options.start) await this.#run()
      else await this.#state.move('created', { wasCreated: true })
    })
  }

  /** Starts one that was only created, or one that has ended, on the files it left. */
  async start (): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      this.#assertNotDeleting()
      assertVerb('start', this.status)
      if (this.status === 'created') {
        await this.#state.save({ unsettled: true })
        await this.#startContainer()
        await this.#run()
      } else {
        await this.#releaseRun()
        if (this.record.leaks.length > 0) throw new BerthError('unavailable', 'resources_leaked', 'what the sandbox used before could not be released yet; it is being tried again, so try again later')
        await this.#state.move('creating', { stopReason: undefined, holdsRun: true, isStarting: true })
        await this.#setUp('run')
        await this.#run()
      }
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
      await this.#state.save({ unsettled: true })
      await this.#settled(() => this.runtime.pause(this.record.id))
      this.clock.pause()
      await this.#state.move('paused', { unsettled: undefined })
    })
  }

  async resume (): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      assertVerb('resume', this.status)
      await this.#state.save({ unsettled: true })
      await this.#settled(() => this.runtime.resume(this.record.id))
      this.clock.resume()
      await this.#state.move('running', { unsettled: undefined })
    })
  }

  async update (update: SandboxUpdate): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      this.#assertNotDeleting()
      if (update.timeoutMs !== undefined) {
        if (this.hasEnded) throw new BerthError('conflict', 'invalid_state', 'cannot extend the deadline of a sandbox that has ended', { details: { status: this.status } })
        this.clock.extend(update.timeoutMs)
      }
      await this.#state.save(update.labels === undefined ? {} : { labels: update.labels })
    })
  }

  /**
   * Gives it other network rules, at once if it has a network. When they cannot be put in force, the old ones stay. Recorded once they
   * are in force, so that nobody is shown rules that are refused; a daemon that ends before that puts the recorded ones back.
   */
  async setNetwork (spec: NetworkSpec): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      this.#assertNotDeleting()
      const { network: before, heldNetwork } = this.record
      // It may learn ports of the host.
      const network = withKnownPorts(spec, before)
      if (heldNetwork) await this.#parts.network.change(this.record.id, network)
      try {
        await this.#state.save({ network })
      } catch (error) {
        this.record.network = before
        if (heldNetwork && before) await this.#parts.network.change(this.record.id, before)
        throw error
      }
    })
  }

  /** Writes what the clock learnt since the last time, if anything. */
  async flush (): Promise<void> {
    if (!this.clock.isDirty || this.#mutex.isLocked() || this.#isClosed) return
    this.clock.isDirty = false
    await this.#mutex.runExclusive(() => this.#state.save({}))
  }

  /** Ends the sandbox if it runs, releases everything, and removes its files. The record stays, marked as deleted. */
  async remove (options: { force: boolean }): Promise<void> {
    if (options.force) this.#hurry.abort()
    await this.#mutex.runExclusive(async () => {
      if (this.record.deletedAt) return
      if (!options.force && !this.hasEnded && this.status !== 'created') {
        throw new BerthError('conflict', 'invalid_state', `cannot delete a sandbox that is ${this.status}; stop it first, or delete it with ?force=true`, { details: { status: this.status } })
      }
      await this.#state.save({ isDeleting: true })
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
      if (this.status === 'creating' && this.record.isReady && await this.#adoptStart(facts)) return
      if (this.status === 'pending' || this.status === 'creating') {
        return await this.#failSetUp(new StepError('daemon', new BerthError('unavailable', 'daemon_ended', 'the daemon ended while the sandbox was being set up')))
      }
      if (this.hasEnded) return await this.#releaseRun()
      this.#watchExit()
      if (!await this.#isContainerAlive()) return await this.#settleExit(facts)
      if (this.record.unsettled) await this.#settleStatus()
      this.clock.adopt()
    })
    if (this.status === 'stopping') void this.stop({ reason: 'requested', force: true }).catch(error => this.#warn(error, 'a stop could not be finished'))
  }

  /** Tries again to release what leaked. */
  async retryLeaks (): Promise<void> {
    if (this.record.leaks.length === 0) return
    await this.#mutex.runExclusive(async () => {
      if (this.record.isDeleting) await this.#removeAll()
      else if (this.hasEnded) await this.#releaseRun()
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
    this.#exit?.close()
  }

  async #setUp (scope: 'run' | 'all', request: SetUpRequest = {}): Promise<void> {
    this.#hurry = new AbortController()
    // A program that is to run once must not be run again because its daemon was killed before it could say that it runs.
    const beforeStart = this.record.task ? () => this.#state.save({ isReady: true }) : undefined
    await this.#orFail(() => this.#parts.ladder.acquire(this.record, scope, { ...request, beforeStart }))
    this.#watchExit()
  }

  async #startContainer (): Promise<void> {
    await this.#orFail(() => timed(this.record.timings, 'start', () => withDeadline(startDeadlineMs, 'the start', signal => this.runtime.start(this.record.id, signal))))
  }

  /** The daemon was killed around the start of the container: where it came to be, it is adopted like any other. */
  async #adoptStart (facts: { hasHostRestarted: boolean }): Promise<boolean> {
    const started = await findStarted(this.#places(), this.record.id, facts)
    if (!started) return false
    if (started.monitor) this.record.monitor = started.monitor
    await this.#run()
    this.#watchExit()
    if (!await this.#isContainerAlive()) await this.#settleExit(facts)
    return true
  }

  /** The container has been started. */
  async #run (): Promise<void> {
    if (this.status === 'creating') this.#state.passThrough('created')
    this.record.startedAt = new Date().toISOString()
    this.clock.start()
    await this.#state.move('running', { end: undefined, unsettled: undefined, isStarting: undefined, isReady: undefined, wasCreated: true })
  }

  async #orFail (work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const failure = error instanceof StepError ? error : new StepError('start', error)
      await this.#failSetUp(failure)
      throw setUpError(this.record.id, failure)
    }
  }

  /** A sandbox that the client knows stays, as failed; one that was never answered is gone, and its record says why. */
  async #failSetUp (failure: StepError): Promise<void> {
    const { step, cause } = failure
    this.#warn(cause, 'a set-up step failed', { step })
    this.#exit?.close()
    const end: SandboxEnd = { reason: 'setup_failed', at: new Date().toISOString(), step, message: cause instanceof BerthError ? cause.message : failure.message }
    const isKnown = this.record.wasCreated ?? false
    await this.#state.move('failed', { end, unsettled: undefined, ...(isKnown ? {} : { isDeleting: true }) })
    if (isKnown) await this.#releaseRun()
    else await this.#removeAll()
  }

  async #stopContainer (options: StopOptions): Promise<void> {
    const wasPaused = this.status === 'paused'
    const wasRunning = this.status === 'running' || wasPaused
    // The first reason wins.
    if (this.status !== 'stopping') await this.#state.move('stopping', { stopReason: this.record.stopReason ?? options.reason })
    // Once it says `stopping`: a daemon that ends here leaves nothing that runs and is called paused.
    if (wasPaused && !options.force) await this.runtime.resume(this.record.id)
    if (wasRunning && !options.force && !this.#hurry.signal.aborted) await this.#terminate(options.graceMs ?? defaultGraceMs)
    if (await this.#exitCode() === undefined) {
      await this.#parts.cgroups.killAll(this.record.id, await readContainerPid(this.#places().runDir))
      if (this.#exit) await raceWithDelay(exitDeadlineMs, [this.#exit.exited])
    }
    await this.#settleExit({ hasHostRestarted: false })
  }

  /** Asks every process to end, and waits until they have, the grace is over, or somebody is in a hurry. */
  async #terminate (graceMs: number): Promise<void> {
    const hurried = new Promise<void>(resolve => this.#hurry.signal.addEventListener('abort', () => resolve(), { once: true }))
    const asked = askToEnd(this.record, this.runtime, this.#parts.places).catch(error => this.#warn(error, 'the request to end could not be delivered'))
    // With a program of its own the sandbox ends when that does; without, when nothing but init is left.
    const isIdle = this.record.process?.argv === undefined
    await raceWithDelay(graceMs, [...(this.#exit ? [this.#exit.exited] : []), hurried, ...(isIdle ? [asked] : [])])
  }

  /** The container has ended: says so with the reason, then gives back what it used. */
  async #settleExit (facts: { hasHostRestarted: boolean }): Promise<void> {
    if (!liveStatuses.includes(this.status)) return
    this.#exit?.close()
    const usage = await this.#parts.cgroups.usage(this.record.id).catch(() => undefined)
    const crash = await readCrash(this.#places().runDir)
    if (crash !== undefined) this.#parts.logger.error({ sandboxId: this.record.id, lastWords: crash }, 'the OCI runtime crashed')
    const end = classifyEnd({
      at: new Date().toISOString(),
      exitCode: await this.#exitCode(),
      stopReason: this.record.stopReason,
      oomKills: usage?.oomKills ?? 0,
      sharesHostKernel: this.#parts.runtimes.get(this.record.runtime)?.profile.sharesHostKernel ?? false,
      peakMemoryBytes: usage?.peakMemoryBytes,
      hasCrashed: crash !== undefined,
      hasHostRestarted: facts.hasHostRestarted,
    })
    this.clock.stop()
    await this.#state.move(failureReasons.includes(end.reason) ? 'failed' : 'stopped', { end, stopReason: undefined, unsettled: undefined })
    await this.#releaseRun()
  }

  async #releaseRun (): Promise<void> {
    if (!this.record.holdsRun) return
    await this.#parts.ladder.release(this.record, 'run')
    await this.#state.save({})
  }

  async #removeAll (): Promise<void> {
    if (liveStatuses.includes(this.status)) await this.#endForRemoval()
    await this.#parts.ladder.release(this.record, 'all')
    if (this.record.leaks.length === 0) {
      await this.#parts.places.removeSandboxFiles(this.record.id).catch(error => this.#parts.ladder.leak(this.record, 'files', error))
    }
    if (this.record.leaks.length > 0) return await this.#state.save({})
    await this.#state.save({ deletedAt: new Date().toISOString(), isDeleting: undefined })
    this.#state.notify()
  }

  async #endForRemoval (): Promise<void> {
    if (!await this.#isContainerAlive()) return await this.#settleExit({ hasHostRestarted: false })
    if (!this.#exit) this.#watchExit()
    await this.#stopContainer({ reason: 'requested', force: true })
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
    if (isNews) await this.#state.move(actual, { unsettled: undefined })
    else await this.#state.save({ unsettled: undefined })
  }

  async #isContainerAlive (): Promise<boolean> {
    return await this.#exitCode() === undefined && this.record.monitor !== undefined && isAlive(this.record.monitor)
  }

  #exitCode (): Promise<number | undefined> {
    return readExitCode(this.#places().exitDir, this.record.id)
  }

  /** Settles the exit when it comes, unless an operation under way does so first. */
  #watchExit (): void {
    this.#exit?.close()
    const exit = new ExitWatch({ exitDir: this.#places().exitDir, sandboxId: this.record.id, logger: this.#parts.logger })
    this.#exit = exit
    const settle = () => this.#mutex.runExclusive(async () => {
      if (!this.#isClosed && this.#exit === exit) await this.#settleExit({ hasHostRestarted: false })
    })
    void exit.exited.then(settle).catch(error => this.#warn(error, 'an exit could not be settled'))
  }

  #places () {
    return this.#parts.places.sandbox(this.record.id)
  }

  #assertNotDeleting (): void {
    if (this.record.isDeleting || this.record.deletedAt) throw new BerthError('conflict', 'sandbox_deleted', 'the sandbox has been deleted')
  }

  #warn (error: unknown, message: string, fields: Record<string, unknown> = {}): void {
    this.#parts.logger.warn({ sandboxId: this.record.id, err: error, ...fields }, message)
  }
}
