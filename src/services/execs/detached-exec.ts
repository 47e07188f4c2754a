import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { signalName } from '../../host/command.ts'
import { readExitCode, watchExit } from '../../host/conmon.ts'
import type { OciProcess } from '../../host/oci-spec.ts'
import type { ExecPlaces } from '../../host/oci-runtime.ts'
import { isAlive } from '../../host/process.ts'
import { OutputCollector } from '../../lib/output-collector.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { Exec, ExecResult } from '../../schemas/exec.ts'
import { collectLog } from '../logs/log-output.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import { readExecRecord, writeExecRecord, type ExecRecord } from './exec-record.ts'

export interface DetachedParts {
  sandbox: SandboxLifecycle
  logger: Logger
  onEnded: (exec: Exec) => void
}

/** How long a monitor may take to write the exit code once its sandbox has ended. */
const exitDeadlineMs = 5000

/** A process under its own monitor: its log and exit code are files that no daemon's death touches. */
export class DetachedExec {
  readonly #places: ExecPlaces
  readonly #parts: DetachedParts
  readonly #record: ExecRecord
  readonly #ended = Promise.withResolvers<void>()
  #closeWatch: (() => void) | undefined
  #endActivity: (() => void) | undefined
  #settling: Promise<void> | undefined

  private constructor (places: ExecPlaces, record: ExecRecord, parts: DetachedParts) {
    this.#places = places
    this.#record = record
    this.#parts = parts
  }

  /** Intent on disk, monitor and process, then the record as running. A refusal leaves nothing. */
  static async start (places: ExecPlaces, record: ExecRecord, process: OciProcess, parts: DetachedParts): Promise<DetachedExec> {
    const detached = new DetachedExec(places, record, parts)
    await Promise.all([mkdir(places.exitDir, { recursive: true }), mkdir(places.runDir, { recursive: true })])
    await detached.#save()
    try {
      const { monitor } = await parts.sandbox.runtime.execMonitored(places, process)
      detached.#record.monitor = monitor
    } catch (error) {
      await rm(places.dir, { recursive: true, force: true })
      await rm(places.runDir, { recursive: true, force: true })
      throw error
    }
    Object.assign(record.exec, { status: 'running', startedAt: new Date().toISOString() })
    await detached.#save()
    detached.#watch()
    return detached
  }

  /** What another daemon left, or undefined where a start never came to its answer and left nothing that runs. */
  static async adopt (places: ExecPlaces, parts: DetachedParts): Promise<DetachedExec | undefined> {
    const record = await readExecRecord(recordPath(places))
    if (!record) return undefined
    // Nobody was told of it: the manager ends what there may be of it.
    if (record.exec.status === 'starting') return undefined
    const detached = new DetachedExec(places, record, parts)
    if (detached.hasEnded) detached.#ended.resolve()
    else detached.#watch()
    return detached
  }

  get exec (): Exec { return this.#record.exec }
  get idempotencyKey (): string | undefined { return this.#record.idempotencyKey }
  get hasEnded (): boolean { return this.exec.status !== 'starting' && this.exec.status !== 'running' }

  async wait (options: { timeoutMs?: number, signal?: AbortSignal }): Promise<Exec> {
    const { timeoutMs, signal } = options
    const abandoned = Promise.withResolvers<never>()
    const onAbort = () => abandoned.reject(signal?.reason instanceof BerthError ? signal.reason : new BerthError('cancelled', 'cancelled', 'the wait was given up'))
    signal?.addEventListener('abort', onAbort, { once: true })
    const timer = timeoutMs === undefined
      ? undefined
      : setTimeout(() => abandoned.reject(new BerthError('timed_out', 'wait_timed_out', `the exec is still ${this.exec.status} after ${timeoutMs} ms; wait again`)), timeoutMs)
    try {
      await Promise.race([this.#ended.promise, abandoned.promise])
      return this.exec
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
  }

  async signal (signal: string): Promise<void> {
    if (this.hasEnded) throw new BerthError('conflict', 'invalid_state', `cannot signal an exec that has ${this.exec.status === 'exited' ? 'exited' : 'ended'}`, { details: { status: this.exec.status } })
    await this.#parts.sandbox.runtime.signalExec(this.#places, signal)
  }

  async result (maxOutputBytes: number, encoding: 'utf8' | 'base64'): Promise<ExecResult> {
    const { exec } = this
    if (exec.exitCode === undefined) throw new BerthError('conflict', 'invalid_state', `the exec has no exit code: it is ${exec.status}`, { details: { status: exec.status } })
    const collected = { stdout: new OutputCollector(maxOutputBytes), stderr: new OutputCollector(maxOutputBytes) }
    await collectLog(this.#places.dir, (stream, bytes) => collected[stream].add(bytes))
    return {
      id: exec.id,
      exitCode: exec.exitCode,
      ...(exec.signal ? { signal: exec.signal } : {}),
      stdout: collected.stdout.text(encoding),
      stderr: collected.stderr.text(encoding),
      truncated: { stdout: collected.stdout.isTruncated, stderr: collected.stderr.isTruncated },
      timedOut: exec.timedOut ?? false,
      durationMs: Date.parse(exec.endedAt ?? exec.createdAt) - Date.parse(exec.startedAt ?? exec.createdAt),
    }
  }

  async sweep (now: number): Promise<void> {
    if (this.hasEnded) return
    const { deadlineAt } = this.exec
    if (deadlineAt !== undefined && Date.parse(deadlineAt) <= now && !this.#record.isTimedOut) {
      this.#record.isTimedOut = true
      await this.#save()
      await this.#parts.sandbox.runtime.signalExec(this.#places, 'KILL').catch(error => this.#parts.logger.warn({ sandboxId: this.exec.sandboxId, execId: this.exec.id, err: error }, 'an exec past its deadline could not be killed'))
    }
    if (this.#record.monitor && !isAlive(this.#record.monitor)) await this.#settle()
  }

  /** The sandbox has ended: the exit code comes within a moment, or the exec is lost. */
  async settleWithSandbox (): Promise<void> {
    if (this.hasEnded) return
    await pollUntil(async () => this.hasEnded || !(this.#record.monitor && isAlive(this.#record.monitor)), exitDeadlineMs)
    await this.#settle()
  }

  close (): void {
    this.#closeWatch?.()
    this.#endActivity?.()
  }

  #watch (): void {
    this.#endActivity = this.#parts.sandbox.clock.beginActivity()
    const look = async () => {
      if (await readExitCode(this.#places.exitDir, this.#places.containerId) !== undefined) await this.#settle()
    }
    const guardedLook = () => { void look().catch(error => this.#parts.logger.error({ sandboxId: this.exec.sandboxId, execId: this.exec.id, err: error }, 'the end of an exec could not be settled')) }
    this.#closeWatch = watchExit(this.#places.exitDir, guardedLook)
    guardedLook()
  }

  #settle (): Promise<void> {
    this.#settling ??= this.#settleOnce()
    return this.#settling
  }

  async #settleOnce (): Promise<void> {
    const exitCode = await readExitCode(this.#places.exitDir, this.#places.containerId)
    // The client of a sandbox that went away may leave its code before the sandbox is seen to have ended.
    if (exitCode === runtimeFailure) await pollUntil(async () => this.#parts.sandbox.hasEnded, sandboxEndDeadlineMs)
    this.close()
    const { exec } = this
    exec.endedAt = new Date().toISOString()
    // A client whose sandbox went away under it says 128: that is no exit code of the process.
    const isKnown = exitCode !== undefined && !(exitCode === runtimeFailure && this.#parts.sandbox.hasEnded)
    if (isKnown) {
      const signal = exitCode > 128 ? signalName(exitCode - 128) : undefined
      Object.assign(exec, { status: 'exited', exitCode, ...(signal ? { signal } : {}) })
    } else {
      Object.assign(exec, { status: 'lost', message: 'the exec ended with its sandbox or monitor before its exit code was known' })
    }
    if (this.#record.isTimedOut) exec.timedOut = true
    await this.#save()
    await rm(this.#places.runDir, { recursive: true, force: true })
    this.#parts.onEnded(exec)
    this.#ended.resolve()
  }

  async #save (): Promise<void> {
    await writeExecRecord(recordPath(this.#places), this.#record)
  }
}

const runtimeFailure = 128
const sandboxEndDeadlineMs = 1000

function recordPath (places: ExecPlaces): string {
  return join(places.dir, 'exec.json')
}
