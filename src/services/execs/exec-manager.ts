import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { StringDecoder } from 'node:string_decoder'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { buildProcess, type OciProcess } from '../../host/oci-spec.ts'
import type { ExecPlaces } from '../../host/oci-runtime.ts'
import { findProcessesBelow, signalProcess } from '../../host/process.ts'
import { Channel } from '../../lib/channel.ts'
import { randomId } from '../../lib/id.ts'
import type { EventType } from '../../schemas/event.ts'
import type { Exec, ExecCreate, ExecEvent, ExecPage, ExecResult } from '../../schemas/exec.ts'
import type { ImageManager } from '../images/image-manager.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import { assertVerb } from '../sandboxes/sandbox-status.ts'
import { runAttached, type AttachedEnd } from './attached-exec.ts'
import { DetachedExec } from './detached-exec.ts'
import type { ExecRecord } from './exec-record.ts'
import { OutputCollector } from './output-collector.ts'

export interface ExecManagerOptions {
  places: HostPlaces
  sandboxes: SandboxManager
  images: Pick<ImageManager, 'resolveUser'>
  events: { append: (event: { type: EventType, sandboxId: string, execId: string, data: Record<string, unknown> }) => unknown }
  logger: Logger
  /** Told when a detached exec has ended, so that followers of its log can end too. */
  onEnded: (sandboxId: string, execId: string) => void
}

const defaultMaxOutputBytes = 4 * 1024 ** 2
const maxAttachedPerSandbox = 256
const maxDetachedPerSandbox = 1024
const defaultPageSize = 100

/**
 * Processes started in running sandboxes. Attached ones belong to a request and end with it;
 * detached ones sit under a monitor of their own and outlive the daemon.
 */
export class ExecManager {
  readonly #options: ExecManagerOptions
  readonly #detached = new Map<string, Map<string, DetachedExec>>()
  /** Attached execs under way, by sandbox: how to reach the process inside. */
  readonly #attached = new Map<string, Map<string, ExecPlaces>>()

  constructor (options: ExecManagerOptions) {
    this.#options = options
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
    await Promise.all(orphans.map(execId => this.#endOrphan(sandbox, this.#options.places.exec(id, execId))))
  }

  /** An attached exec of a daemon that is gone: its process inside first, then its client on the host. */
  async #endOrphan (sandbox: SandboxLifecycle, places: ExecPlaces): Promise<void> {
    const findOnHost = () => findProcessesBelow(this.#options.places.runDir)
      .filter(({ id, argv }) => id === sandbox.record.id && argv.some(argument => argument.startsWith(places.runDir)))
    // Where nobody on the host is at work on it any more, no process inside will appear.
    const isWaiting = findOnHost().length > 0
    if (!sandbox.hasEnded) await sandbox.runtime.signalExec(places, 'KILL', { isWaiting }).catch(() => {})
    for (const { identity } of findOnHost()) signalProcess(identity, 'SIGKILL')
    await rm(places.runDir, { recursive: true, force: true })
  }

  /** Runs a process to its end and answers what it said. */
  async run (sandboxId: string, input: ExecCreate, options: { signal?: AbortSignal } = {}): Promise<ExecResult> {
    const encoding = input.encoding ?? 'utf8'
    const maxBytes = input.maxOutputBytes ?? defaultMaxOutputBytes
    const collected = { stdout: new OutputCollector(maxBytes), stderr: new OutputCollector(maxBytes) }
    const { id, ended } = await this.#attach(sandboxId, input, options.signal, (stream, chunk) => {
      collected[stream].add(chunk)
      return undefined
    })
    const end = await ended
    return {
      id,
      ...end,
      stdout: collected.stdout.text(encoding),
      stderr: collected.stderr.text(encoding),
      truncated: { stdout: collected.stdout.isTruncated, stderr: collected.stderr.isTruncated },
    }
  }

  /** Runs a process and gives its output as it comes. What can be refused is refused before the first event. */
  async stream (sandboxId: string, input: ExecCreate, options: { signal?: AbortSignal } = {}): Promise<AsyncIterable<ExecEvent>> {
    const channel = new Channel<ExecEvent>()
    const decoders = { stdout: new ChunkDecoder(input.encoding), stderr: new ChunkDecoder(input.encoding) }
    const { id, ended } = await this.#attach(sandboxId, input, options.signal, (stream, chunk) => {
      const data = decoders[stream].write(chunk)
      return data === '' ? undefined : channel.push({ type: stream, data })
    })
    void channel.push({ type: 'started', id })
    ended.then(end => {
      for (const stream of ['stdout', 'stderr'] as const) {
        const data = decoders[stream].end()
        if (data !== '') void channel.push({ type: stream, data })
      }
      void channel.push({ type: 'exit', ...end })
      channel.close()
    }, error => channel.fail(error))
    return channel
  }

  async #attach (sandboxId: string, input: ExecCreate, signal: AbortSignal | undefined, onOutput: (stream: 'stdout' | 'stderr', chunk: Buffer) => Promise<void> | undefined): Promise<{ id: string, ended: Promise<AttachedEnd> }> {
    const { sandbox, process } = await this.#prepare(sandboxId, input)
    const running = getOrMake(this.#attached, sandboxId, () => new Map<string, ExecPlaces>())
    if (running.size >= maxAttachedPerSandbox) throw new BerthError('exhausted', 'too_many_execs', `at most ${maxAttachedPerSandbox} attached execs run in a sandbox at once; wait for one to end`)
    const id = randomId('exe')
    const places = this.#options.places.exec(sandboxId, id)
    running.set(id, places)
    const endActivity = sandbox.clock.beginActivity()
    const finish = async () => {
      running.delete(id)
      endActivity()
      await rm(places.runDir, { recursive: true, force: true })
    }
    try {
      await mkdir(places.runDir, { recursive: true })
      const attached = await sandbox.runtime.exec(places, process)
      const ended = runAttached(attached, {
        stdin: Buffer.from(input.stdin ?? '', input.encoding ?? 'utf8'),
        timeoutMs: input.timeoutMs,
        signal,
        kill: () => sandbox.runtime.signalExec(places, 'KILL'),
        onOutput,
      }).finally(finish)
      return { id, ended }
    } catch (error) {
      await finish()
      throw error
    }
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

  async #prepare (sandboxId: string, input: ExecCreate): Promise<{ sandbox: SandboxLifecycle, process: OciProcess }> {
    const sandbox = this.#options.sandboxes.lifecycle(sandboxId)
    const { record } = sandbox
    if (record.deletedAt) throw new BerthError('not_found', 'sandbox_deleted', 'the sandbox has been deleted')
    assertVerb('exec in', record.status)
    const own = record.process
    if (!own) throw new Error('a running sandbox without a process in its record')
    const user = input.user === undefined ? own : await this.#options.images.resolveUser({ lowerDirs: record.lowerDirs ?? [] }, input.user)
    const home: Record<string, string> = 'home' in user && user.home !== undefined ? { HOME: user.home } : {}
    const process = buildProcess({ argv: input.argv, env: { ...own.env, ...home, ...input.env }, cwd: input.cwd ?? own.cwd, user, pids: record.resources.pids })
    return { sandbox, process }
  }

  /** Newest first. */
  list (sandboxId: string, filter: { limit?: number, cursor?: string, status?: readonly string[] } = {}): ExecPage {
    this.#options.sandboxes.get(sandboxId)
    const { limit = defaultPageSize, cursor, status } = filter
    const matches = this.#execsOf(sandboxId)
      .filter(exec => !status || status.length === 0 || status.includes(exec.status))
      .sort((a, b) => a.createdAt < b.createdAt || (a.createdAt === b.createdAt && a.id < b.id) ? 1 : -1)
    const begin = cursor === undefined ? 0 : matches.findIndex(exec => exec.id === cursor) + 1
    if (cursor !== undefined && begin === 0) throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that this list answered; leave it out to begin anew')
    const items = matches.slice(begin, begin + limit)
    const last = items.at(-1)
    return { items, ...(last && begin + limit < matches.length ? { nextCursor: last.id } : {}) }
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
    const attached = this.#attached.get(sandboxId)?.get(execId)
    if (attached) return await sandbox.runtime.signalExec(attached, signal)
    await this.#detachedExec(sandboxId, execId).signal(signal)
  }

  /** Where the log of a detached exec lies, and whether it is complete. */
  execLog (sandboxId: string, execId: string): { dir: string, isEnded: () => boolean } {
    const exec = this.#detachedExec(sandboxId, execId)
    return { dir: this.#options.places.exec(sandboxId, execId).dir, isEnded: () => exec.hasEnded }
  }

  /** Ends execs whose deadline has passed, and notices those whose monitor vanished. */
  async sweep (now: number): Promise<void> {
    for (const execs of this.#detached.values()) {
      for (const exec of execs.values()) await exec.sweep(now)
    }
  }

  /** Directories of logs that still grow. */
  growingLogs (): Array<{ dir: string, bundleDir: string }> {
    return [...this.#detached.entries()].flatMap(([sandboxId, execs]) => [...execs.values()]
      .filter(exec => !exec.hasEnded)
      .map(exec => this.#options.places.exec(sandboxId, exec.exec.id).dir)
      .map(dir => ({ dir, bundleDir: dir })))
  }

  /** The sandbox is gone, and its execs with it. */
  forget (sandboxId: string): void {
    for (const exec of this.#detached.get(sandboxId)?.values() ?? []) exec.close()
    this.#detached.delete(sandboxId)
    this.#attached.delete(sandboxId)
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

/** Chunks of bytes as text that never tears a character, or as base64 that never pads in the middle of the stream's sense. */
class ChunkDecoder {
  readonly #decoder: StringDecoder

  constructor (encoding: 'utf8' | 'base64' = 'utf8') {
    this.#decoder = new StringDecoder(encoding)
  }

  write (chunk: Buffer): string { return this.#decoder.write(chunk) }
  end (): string { return this.#decoder.end() }
}

function getOrMake<K, V> (map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key)
  if (value === undefined) map.set(key, value = make())
  return value
}
