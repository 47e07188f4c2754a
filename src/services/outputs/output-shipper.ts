/** One output of one task, from its checkpoint until everything is delivered, whatever the destination does meanwhile. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import { ChangeSignal } from '../../lib/change-signal.ts'
import type { OutputSpec, OutputState } from '../../schemas/output.ts'
import type { LogReader } from '../logs/log-reader.ts'
import { jitter, type Backoff, type DestinationGate, type Turn } from './destination-gate.ts'
import type { OpenSink } from './open-sink.ts'
import { CheckpointWriter, loadCheckpoint, newCheckpoint, saveCheckpoint, type OutputCheckpoint } from './output-checkpoint.ts'
import { neededGeneration } from './output-place.ts'
import { OutputSession, type SessionTimes } from './output-session.ts'
import { SinkBusy, SinkRefusal } from './output-sink.ts'
import { isWaiting, lastSeq, type OutputTask } from './output-task.ts'

export interface ShipperTimes extends SessionTimes {
  backoff: Backoff
  /** The shortest time between two checkpoints. */
  checkpointMs: number
  /** A live output that has nothing to deliver gives its turn to others after this long. */
  quietMs: number
}

export const defaultTimes: Readonly<ShipperTimes> = Object.freeze({
  maxDelayMs: 200,
  // Far beyond what sinks allow their requests: for one that hangs.
  deliveryMs: 300_000,
  settleMs: 3000,
  backoff: { firstMs: 1000, mostMs: 60_000 },
  checkpointMs: 100,
  quietMs: 2000,
})

export interface ShipperOptions {
  task: OutputTask
  spec: OutputSpec
  index: number
  logs: LogReader
  logDir: string
  outputsDir: string
  openSink: OpenSink
  gate: DestinationGate
  logger: Logger
  times: ShipperTimes
}

/** The state of an output as its checkpoint has it. */
export function stateOf ({ type, place, doneThrough, isComplete, refusal }: OutputCheckpoint): OutputState {
  return {
    type,
    status: refusal !== undefined ? 'given_up' : isComplete ? 'complete' : 'shipping',
    entries: place.seq,
    ...(doneThrough === undefined ? {} : { cursor: doneThrough }),
    ...(refusal === undefined ? {} : { message: refusal }),
  }
}

export class OutputShipper {
  readonly #options: ShipperOptions
  readonly #changes = new ChangeSignal()
  readonly #stopping = new AbortController()
  readonly #writer: CheckpointWriter
  /** Where batches ended that are not confirmed. */
  readonly #boundaries: number[] = []
  #checkpoint: OutputCheckpoint
  #isLoaded = false
  #failures = 0
  #failing: { since: string, message: string } | undefined
  #isForgotten = false
  /** Grows with each sign of change of the task. */
  #version = 0

  constructor (options: ShipperOptions) {
    this.#options = options
    this.#checkpoint = newCheckpoint(options.spec.type)
    this.#writer = new CheckpointWriter(() => this.#save(), options.times.checkpointMs)
  }

  get state (): OutputState {
    const state = stateOf(this.#checkpoint)
    if (state.status !== 'shipping' || !this.#failing) return state
    return { ...state, status: 'retrying', failingSince: this.#failing.since, message: this.#failing.message }
  }

  /** The oldest file of the log that is still needed; undefined when none is. */
  get protectedGeneration (): number | undefined {
    if (!this.#isLoaded) return 0
    return this.#checkpoint.isComplete || this.#checkpoint.refusal !== undefined ? undefined : neededGeneration(this.#checkpoint.place)
  }

  /** Something of the task has changed. */
  wake (): void {
    this.#version++
    this.#changes.notify()
  }

  /** Resolves once everything that there is was delivered of a task that has ended, or the output was given up, or it was stopped; never fails. */
  async run (): Promise<void> {
    while (!this.#isLoaded && !this.#isStopped) await this.#load()
    if (this.isOver || this.#isStopped) return
    this.#checkpoint = { ...this.#checkpoint, isComplete: false }
    while (!this.#isStopped && !this.isOver) {
      const version = this.#version
      await this.#tryOnce()
      const isIdle = this.#failing === undefined && isWaiting(this.#options.task) && version === this.#version
      if (isIdle) await this.#changes.wait(this.#stopping.signal)
    }
    await (this.#isForgotten ? this.#writer.stop() : this.#writer.flush())
  }

  /** Stops at a clean place; `run` resolves when it has. With `isForgotten` nothing more is written to disk. */
  stop (options: { isForgotten: boolean }): void {
    this.#isForgotten ||= options.isForgotten
    this.#stopping.abort()
  }

  /** Whether there is nothing left to do, for as long as the task stays as it is. */
  get isOver (): boolean {
    const { refusal, isComplete, statusSeq } = this.#checkpoint
    const { task } = this.#options
    return refusal !== undefined || (isComplete && task.isEnded() && lastSeq(task) < statusSeq)
  }

  get #isStopped (): boolean {
    return this.#stopping.signal.aborted
  }

  async #load (): Promise<void> {
    const { outputsDir, index, spec, logger, times } = this.#options
    try {
      const found = await loadCheckpoint(outputsDir, index)
      if (found?.type === spec.type) this.#checkpoint = found
      this.#isLoaded = true
    } catch (error) {
      logger.warn({ ...this.#facts, err: error }, 'the place of an output could not be read; it is tried again')
      await sleep(times.backoff.firstMs, undefined, { signal: this.#stopping.signal }).catch(() => undefined)
    }
  }

  /** One session, when it is this output's turn. */
  async #tryOnce (): Promise<void> {
    const { gate, times, task } = this.#options
    // Those that live need no turn where all is well: they are few, and stay.
    const isLive = !task.isEnded() && !isWaiting(task)
    let turn: Turn | undefined
    if (!isLive || gate.isFailing || this.#failures > 0) {
      turn = await gate.enter(this.#failures > 0 ? jitter(times.backoff, this.#failures) : 0, this.#stopping.signal)
      if (!turn) return
    }
    try {
      const isComplete = await this.#session(isLive ? turn : undefined)
      if (this.#isStopped) return
      this.#succeeded()
      this.#checkpoint = { ...this.#checkpoint, isComplete }
    } catch (error) {
      this.#failed(error, turn)
    } finally {
      turn?.release()
    }
  }

  async #session (liveTurn: Turn | undefined): Promise<boolean> {
    const { task, spec, index, logs, logDir, openSink, times } = this.#options
    const { place, statusSeq, sinkState } = this.#checkpoint
    const sink = await openSink({ taskId: task.id, spec, index, state: sinkState })
    const done = (checkpoint: Partial<OutputCheckpoint>): void => {
      this.#checkpoint = { ...this.#checkpoint, ...checkpoint }
      if (this.#isForgotten) return
      this.#writer.touch()
      this.#succeeded()
      liveTurn?.release()
    }
    const session = new OutputSession({
      task,
      sink,
      logs,
      logDir,
      place,
      statusSeq,
      times,
      boundaries: this.#boundaries,
      changes: this.#changes,
      signal: this.#stopping.signal,
      isForgotten: () => this.#isForgotten,
      onEntries: (place, doneThrough, sinkState) => { done({ place, doneThrough, sinkState }) },
      onStatuses: statusSeq => { done({ statusSeq }) },
    })
    const quiet = liveTurn && setTimeout(() => {
      // A batch that failed before is on its way, and will tell.
      if (!session.isQuiet || this.#boundaries.length > 0) return
      this.#succeeded()
      liveTurn.release()
    }, times.quietMs)
    try {
      return await session.run()
    } finally {
      clearTimeout(quiet)
    }
  }

  #succeeded (): void {
    this.#failures = 0
    if (this.#failing) this.#options.logger.info({ ...this.#facts, since: this.#failing.since }, 'an output is delivered again')
    this.#failing = undefined
    this.#options.gate.succeed()
  }

  #failed (error: unknown, turn: Turn | undefined): void {
    if (this.#isStopped) return
    const { gate, logger } = this.#options
    const message = error instanceof Error ? error.message : String(error)
    if (error instanceof SinkRefusal) {
      this.#checkpoint = { ...this.#checkpoint, refusal: message }
      logger.warn({ ...this.#facts, reason: message }, 'an output is given up: its destination will never take it')
      return
    }
    if (!this.#failing) logger.warn({ ...this.#facts, err: error }, 'an output cannot be delivered at the moment; it is tried again')
    this.#failing = { since: this.#failing?.since ?? new Date().toISOString(), message }
    // In an outage the destination's pauses count, not those of each output.
    if (!turn?.isProbe) this.#failures = Math.max(1, this.#failures + (gate.isFailing ? 0 : 1))
    if (!gate.isFailing || turn?.isProbe || error instanceof SinkBusy) gate.fail(error instanceof SinkBusy ? error.retryAfterMs : 0)
  }

  get #facts (): { taskId: string, output: number, type: string } {
    const { task, index, spec } = this.#options
    return { taskId: task.id, output: index, type: spec.type }
  }

  async #save (): Promise<void> {
    const { outputsDir, index, logger } = this.#options
    if (this.#isForgotten) return
    try {
      await saveCheckpoint(outputsDir, index, this.#checkpoint)
    } catch (error) {
      // What the checkpoint before stands for is delivered again then, with the same numbers.
      logger.warn({ ...this.#facts, err: error }, 'the place of an output could not be written')
    }
  }
}
