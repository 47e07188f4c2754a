import { rm } from 'node:fs/promises'
import { StringDecoder } from 'node:string_decoder'
import { BerthError } from '../../errors.ts'
import type { OciProcess } from '../../host/oci-spec.ts'
import { findProcessesBelow, signalProcess } from '../../host/process.ts'
import { Channel } from '../../lib/channel.ts'
import { getOrMake } from '../../lib/get-or-make.ts'
import { randomId } from '../../lib/id.ts'
import { OutputCollector } from '../../lib/output-collector.ts'
import type { ExecCreate, ExecEvent, ExecResult } from '../../schemas/exec.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import { runAttached, type AttachedEnd } from './attached-exec.ts'
import { startPlaced } from './placed-exec.ts'

export const defaultMaxOutputBytes = 4 * 1024 ** 2
const maxAttachedPerSandbox = 256

type OnOutput = (stream: 'stdout' | 'stderr', chunk: Buffer) => Promise<void> | undefined

/** Execs that belong to a request: they end with it, and with the daemon. */
export class AttachedExecs {
  readonly #places: HostPlaces
  /** Under way, by sandbox. */
  readonly #running = new Map<string, Set<string>>()

  constructor (options: { places: HostPlaces }) {
    this.#places = options.places
  }

  has (sandboxId: string, execId: string): boolean {
    return this.#running.get(sandboxId)?.has(execId) ?? false
  }

  /** Sends a signal to the process inside. */
  async signal (sandbox: SandboxLifecycle, execId: string, signal: string): Promise<void> {
    await sandbox.runtime.signalExec(this.#places.exec(sandbox.record.id, execId), signal)
  }

  async run (sandbox: SandboxLifecycle, process: OciProcess, input: ExecCreate, signal?: AbortSignal): Promise<ExecResult> {
    const encoding = input.encoding ?? 'utf8'
    const maxBytes = input.maxOutputBytes ?? defaultMaxOutputBytes
    const collected = { stdout: new OutputCollector(maxBytes), stderr: new OutputCollector(maxBytes) }
    const { id, ended } = await this.#start({ sandbox, process, input, signal }, (stream, chunk) => {
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

  async stream (sandbox: SandboxLifecycle, process: OciProcess, input: ExecCreate, signal?: AbortSignal): Promise<AsyncIterable<ExecEvent>> {
    const channel = new Channel<ExecEvent>()
    // A decoder never tears a character, nor pads base64 before the end.
    const decoders = { stdout: new StringDecoder(input.encoding ?? 'utf8'), stderr: new StringDecoder(input.encoding ?? 'utf8') }
    const { id, ended } = await this.#start({ sandbox, process, input, signal }, (stream, chunk) => {
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

  /** An attached exec of a daemon that is gone: its process inside first, then its client on the host. */
  async endOrphan (sandbox: SandboxLifecycle, execId: string): Promise<void> {
    const places = this.#places.exec(sandbox.record.id, execId)
    const findOnHost = () => findProcessesBelow(this.#places.runDir)
      .filter(({ id, argv }) => id === sandbox.record.id && argv.some(argument => argument.startsWith(places.runDir)))
    // Where nobody on the host is at work on it any more, no process inside will appear.
    const isWaiting = findOnHost().length > 0
    if (!sandbox.hasEnded) await sandbox.runtime.signalExec(places, 'KILL', { isWaiting }).catch(() => {})
    for (const { identity } of findOnHost()) signalProcess(identity, 'SIGKILL')
    await rm(places.runDir, { recursive: true, force: true })
  }

  async #start (
    request: { sandbox: SandboxLifecycle, process: OciProcess, input: ExecCreate, signal: AbortSignal | undefined },
    onOutput: OnOutput
  ): Promise<{ id: string, ended: Promise<AttachedEnd> }> {
    const { sandbox, process, input, signal } = request
    const running = getOrMake(this.#running, sandbox.record.id, () => new Set<string>())
    if (running.size >= maxAttachedPerSandbox) {
      throw new BerthError('exhausted', 'too_many_execs', `at most ${maxAttachedPerSandbox} attached execs run in a sandbox at once; wait for one to end`)
    }
    const id = randomId('exe')
    running.add(id)
    const forget = () => {
      running.delete(id)
      if (running.size === 0) this.#running.delete(sandbox.record.id)
    }
    try {
      const { attached, kill, release } = await startPlaced(this.#places, sandbox, process, { id })
      const ended = runAttached(attached, {
        stdin: Buffer.from(input.stdin ?? '', input.encoding ?? 'utf8'),
        timeoutMs: input.timeoutMs,
        signal,
        kill,
        onOutput,
      }).finally(() => {
        forget()
        return release()
      })
      return { id, ended }
    } catch (error) {
      forget()
      throw error
    }
  }
}
