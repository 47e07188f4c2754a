import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { OciProcess } from '../../host/oci-spec.ts'
import { getOrMake } from '../../lib/get-or-make.ts'
import { randomId } from '../../lib/id.ts'
import { newestFirst } from '../../lib/newest-first.ts'
import type { EventType } from '../../schemas/event.ts'
import type { Exec, ExecCreate, ExecEvent, ExecPage, ExecResult } from '../../schemas/exec.ts'
import type { ImageManager } from '../images/image-manager.ts'
import type { BudgetedLog } from '../logs/log-budget.ts'
import type { LogSource } from '../logs/log-source.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import { AttachedExecs, defaultMaxOutputBytes } from './attached-execs.ts'
import { DetachedExec } from './detached-exec.ts'
import { prepareExec } from './exec-preparation.ts'
import type { ExecRecord } from './exec-record.ts'

export interface ExecManagerOptions {
  places: HostPlaces
  sandboxes: SandboxManager
  images: Pick<ImageManager, 'resolveUser'>
  events: { append: (event: { type: EventType, sandboxId: string, execId: string, data: Record<string, unknown> }) => unknown }
  logger: Logger
  /** Told when a detached exec has ended, so that followers of its log can end too. */
  onEnded: (sandboxId: string, execId: string) => void
}

const maxDetachedPerSandbox = 1024

/**
 * Processes started in running sandboxes. Attached ones belong to a request and end with it;
 * detached ones sit under a monitor of their own and outlive the daemon.
 */
export class ExecManager {
  readonly #options: ExecManagerOptions
  readonly #detached = new Map<string, Map<string, DetachedExec>>()
  readonly #attached: AttachedExecs

  constructor (options: ExecManagerOptions) {
    this.#options = options
    this.#attached = new AttachedExecs({ places: options.places })
  }

  /** Takes over the detached execs of sandboxes that another daemon left, and ends attached ones: nobody reads them any more. */
  async adopt (): Promise<void> {
    await Promise.all(this.#options.sandboxes.all().filter(({ record }) => !record.deletedAt).map(async sandbox => {
      try {
        await this.#adoptSandbox(sandbox)
      } catch (error) {
        this.#options.logger.error({ sandboxId: sandbox.record.id, err: error }, 'the execs of a sandbox could not be adopted')
      }
    }))
  }

  async #adoptSandbox (sandbox: SandboxLifecycle): Promise<void> {
    const { id } = sandbox.record
    const places = this.#options.places.sandbox(id)
    const execIds = await readdir(places.execsDir).catch(() => [])
    for (const execId of execIds) {
      const exec = await DetachedExec.adopt(this.#options.places.exec(id, execId), this.#partsFor(sandbox))
      if (exec) this.#remember(id, exec)
      else await rm(join(places.execsDir, execId), { recursive: true, force: true })
    }
    const runIds = await readdir(places.runExecsDir).catch(() => [])
    const orphans = runIds.filter(runId => !this.#detached.get(id)?.has(runId))
    await Promise.all(orphans.map(execId => this.#attached.endOrphan(sandbox, execId)))
  }

  /** Runs a process to its end and answers what it said. */
  async run (sandboxId: string, input: ExecCreate, options: { signal?: AbortSignal } = {}): Promise<ExecResult> {
    const { sandbox, process } = await this.#prepare(sandboxId, input)
    return await this.#attached.run(sandbox, process, input, options.signal)
  }

  /** Runs a process and gives its output as it comes. What can be refused is refused before the first event. */
  async stream (sandboxId: string, input: ExecCreate, options: { signal?: AbortSignal } = {}): Promise<AsyncIterable<ExecEvent>> {
    const { sandbox, process } = await this.#prepare(sandboxId, input)
    return await this.#attached.stream(sandbox, process, input, options.signal)
  }

  /** Starts a process under its own monitor, and answers at once. */
  async startDetached (sandboxId: string, input: ExecCreate, options: { idempotencyKey?: string | undefined } = {}): Promise<Exec> {
    const { idempotencyKey } = options
    // Asked for again because a daemon died before it had answered: the process runs already.
    const known = idempotencyKey === undefined ? undefined : [...this.#detached.get(sandboxId)?.values() ?? []].find(exec => exec.idempotencyKey === idempotencyKey)
    if (known) return known.exec
    const { sandbox, process } = await this.#prepare(sandboxId, input)
    if (input.stdin !== undefined) throw new BerthError('invalid_argument', 'stdin_not_supported', 'a detached exec has no standard input; leave stdin out, or run it attached')
    if (this.#execsOf(sandboxId).length >= maxDetachedPerSandbox) throw new BerthError('exhausted', 'too_many_execs', `a sandbox keeps at most ${maxDetachedPerSandbox} detached execs`)
    const id = randomId('exe')
    const exec: Exec = {
      id,
      sandboxId,
      status: 'starting',
      argv: input.argv,
      cwd: process.cwd,
      user: input.user ?? sandbox.record.process?.user ?? '',
      createdAt: new Date().toISOString(),
      ...(input.timeoutMs === undefined ? {} : { deadlineAt: new Date(Date.now() + input.timeoutMs).toISOString() }),
    }
    const record: ExecRecord = { version: 1, exec, ...(idempotencyKey === undefined ? {} : { idempotencyKey }) }
    const detached = await DetachedExec.start(this.#options.places.exec(sandboxId, id), record, process, this.#partsFor(sandbox))
    this.#remember(sandboxId, detached)
    this.#options.events.append({ type: 'exec.started', sandboxId, execId: id, data: { argv: input.argv.slice(0, 1) } })
    return detached.exec
  }

  #prepare (sandboxId: string, input: ExecCreate): Promise<{ sandbox: SandboxLifecycle, process: OciProcess }> {
    const { argv, env, cwd, user } = input
    return prepareExec(this.#options, sandboxId, { argv, env, cwd, user })
  }

  /** Newest first. */
  list (sandboxId: string, filter: { limit?: number, cursor?: string, status?: readonly string[] } = {}): ExecPage {
    this.#options.sandboxes.get(sandboxId)
    const { status } = filter
    return newestFirst(this.#execsOf(sandboxId).filter(exec => !status || status.length === 0 || status.includes(exec.status)), filter)
  }

  get (sandboxId: string, execId: string): Exec {
    return this.#detachedExec(sandboxId, execId).exec
  }

  /** @throws BerthError timed_out when it has not ended in time. */
  async wait (sandboxId: string, execId: string, options: { timeoutMs?: number, signal?: AbortSignal } = {}): Promise<Exec> {
    return await this.#detachedExec(sandboxId, execId).wait(options)
  }

  /** What a detached exec that has ended said, read from its log. */
  async result (sandboxId: string, execId: string, options: { maxOutputBytes?: number, encoding?: 'utf8' | 'base64' } = {}): Promise<ExecResult> {
    return await this.#detachedExec(sandboxId, execId).result(options.maxOutputBytes ?? defaultMaxOutputBytes, options.encoding ?? 'utf8')
  }

  /** Sends a signal to the process inside, of a detached exec or of an attached one under way. */
  async signal (sandboxId: string, execId: string, signal: string): Promise<void> {
    const sandbox = this.#options.sandboxes.lifecycle(sandboxId)
    if (this.#attached.has(sandboxId, execId)) return await this.#attached.signal(sandbox, execId, signal)
    await this.#detachedExec(sandboxId, execId).signal(signal)
  }

  /** Where the log of a detached exec lies, and whether it is complete. */
  execLog (sandboxId: string, execId: string): LogSource {
    const detached = this.#detachedExec(sandboxId, execId)
    return {
      dir: this.#options.places.exec(sandboxId, execId).dir,
      isEnded: () => detached.hasEnded,
      end: () => {
        const { status, timedOut, exitCode } = detached.exec
        return detached.hasEnded ? { reason: timedOut ? 'timed_out' : status, ...(exitCode === undefined ? {} : { exitCode }) } : undefined
      },
    }
  }

  /** Of detached execs, for the budget of all logs. */
  logs (): BudgetedLog[] {
    return [...this.#detached.entries()].flatMap(([sandboxId, execs]) => [...execs.values()].map(detached => ({
      dir: this.#options.places.exec(sandboxId, detached.exec.id).dir,
      isEnded: () => detached.hasEnded,
      endedAt: detached.exec.endedAt,
    })))
  }

  /** Ends execs whose deadline has passed, and notices those whose monitor vanished. */
  async sweep (now: number): Promise<void> {
    for (const execs of this.#detached.values()) {
      for (const exec of execs.values()) await exec.sweep(now)
    }
  }

  /** Directories of logs that still grow. */
  growingLogs (): Array<{ sandboxId: string, execId: string, dir: string, bundleDir: string }> {
    return [...this.#detached.entries()].flatMap(([sandboxId, execs]) => [...execs.values()]
      .filter(exec => !exec.hasEnded)
      .map(({ exec: { id: execId } }) => ({ sandboxId, execId, dir: this.#options.places.exec(sandboxId, execId).dir }))
      .map(log => ({ ...log, bundleDir: log.dir })))
  }

  /** The sandbox is gone, and its execs with it. */
  forget (sandboxId: string): void {
    for (const exec of this.#detached.get(sandboxId)?.values() ?? []) exec.close()
    this.#detached.delete(sandboxId)
  }

  /** Settles detached execs when their sandbox has ended. */
  async settle (sandboxId: string): Promise<void> {
    await Promise.all([...this.#detached.get(sandboxId)?.values() ?? []].map(exec => exec.settleWithSandbox()))
  }

  close (): void {
    for (const execs of this.#detached.values()) for (const exec of execs.values()) exec.close()
  }

  #execsOf (sandboxId: string): Exec[] {
    return [...this.#detached.get(sandboxId)?.values() ?? []].map(({ exec }) => exec)
  }

  #detachedExec (sandboxId: string, execId: string): DetachedExec {
    this.#options.sandboxes.get(sandboxId)
    const exec = this.#detached.get(sandboxId)?.get(execId)
    if (!exec) throw new BerthError('not_found', 'exec_not_found', 'the sandbox has no detached exec with this id; GET …/execs lists those there are')
    return exec
  }

  #remember (sandboxId: string, exec: DetachedExec): void {
    getOrMake(this.#detached, sandboxId, () => new Map<string, DetachedExec>()).set(exec.exec.id, exec)
  }

  #partsFor (sandbox: SandboxLifecycle) {
    return {
      sandbox,
      logger: this.#options.logger,
      onEnded: (exec: Exec) => {
        const { id, sandboxId, status, exitCode } = exec
        this.#options.events.append({ type: 'exec.ended', sandboxId, execId: id, data: { status, exitCode } })
        this.#options.onEnded(sandboxId, id)
      },
    }
  }
}
