/**
 * An OCI runtime in memory, for tests that make each of its steps fail in turn. It keeps the promises of the contract suite:
 * it writes exit codes and logs as conmon does, and its monitors are real processes, since that is how they are told apart.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, renameSync, writeFileSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { signalName } from '../../src/host/command.ts'
import { RuntimeRefusal, type Monitored } from '../../src/host/conmon.ts'
import type { AttachedProcess, ContainerPlaces, ContainerStatus, ExecPlaces, OciRuntime, RuntimeProfile } from '../../src/host/oci-runtime.ts'
import type { OciProcess } from '../../src/host/oci-spec.ts'
import { findProcess } from '../../src/host/process.ts'
import { refusalError } from '../../src/host/runtime-messages.ts'
import { FakeProcess } from './fake-process.ts'

export type FakeCall = { [Method in keyof OciRuntime]: OciRuntime[Method] extends (...args: never[]) => unknown ? Method : never }[keyof OciRuntime]

export interface FakeRuntimeOptions {
  /** Called before each call is obeyed: throw to make it fail, wait to hold it. */
  onCall?: (method: FakeCall, containerId: string) => void | Promise<void>
}

interface FakeContainer {
  places: ContainerPlaces
  argv: string[]
  status: ContainerStatus
  monitor: ChildProcess
  main: FakeProcess | undefined
  execs: Set<FakeProcess>
}

const programs = /^(\/bin\/|\/\.berth\/)?(sh|cat|echo|sleep|kill|true|false|busybox|init|idle)$/
const directories = ['/', '/bin', '/etc', '/tmp', '/workspace']
const plainFiles = [...directories, '/etc/plain']

export class FakeRuntime implements OciRuntime {
  readonly profile: RuntimeProfile = {
    name: 'fake',
    globalArgs: [],
    cgroups: 'joined',
    sharesHostKernel: false,
    execPid: { option: '--pid', namespace: 'container' },
    overhead: { memoryBytes: 0, pids: 0, pidsPerPid: 1 },
  }

  /** Every call in order: `create sbx_1`. */
  readonly calls: string[] = []
  readonly #options: FakeRuntimeOptions
  readonly #containers = new Map<string, FakeContainer>()
  readonly #execs = new Map<string, FakeProcess>()
  readonly #monitors = new Set<ChildProcess>()

  constructor (options: FakeRuntimeOptions = {}) {
    this.#options = options
  }

  async create (places: ContainerPlaces, _cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored> {
    await this.#note('create', places.id, signal)
    if (this.#containers.has(places.id)) throw new Error('fake refused: a container with this id exists')
    const spec = JSON.parse(await readFile(join(places.bundleDir, 'config.json'), 'utf8')) as { process: OciProcess }
    const { child: monitor, ...monitored } = await this.#startMonitor(places)
    this.#containers.set(places.id, { places, argv: spec.process.args, status: 'created', monitor, main: undefined, execs: new Set() })
    appendFileSync(places.logPath, '')
    return monitored
  }

  async run (places: ContainerPlaces, cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored> {
    const monitored = await this.create(places, cgroupProcsFiles, signal)
    await this.start(places.id, signal)
    return monitored
  }

  async start (id: string, signal?: AbortSignal): Promise<void> {
    await this.#note('start', id, signal)
    const container = this.#expect(id, ['created'])
    const { places } = container
    container.status = 'running'
    container.main = this.#spawn(container, container.argv, async () => '', (stream, output) => log(places.logPath, stream, output))
    void container.main.ended.then(exitCode => this.#end(container, exitCode))
  }

  async status (id: string): Promise<ContainerStatus | undefined> {
    await this.#note('status', id)
    return this.#containers.get(id)?.status
  }

  async kill (id: string, signal: string, options: { all?: boolean } = {}): Promise<void> {
    await this.#note('kill', id)
    const container = this.#containers.get(id)
    if (!container || container.status === 'stopped') return
    if (options.all) for (const exec of container.execs) exec.signal(signal)
    if (container.main) container.main.signal(signal)
    else if (signal.endsWith('KILL')) this.#end(container, 137)
  }

  async pause (id: string): Promise<void> {
    await this.#note('pause', id)
    this.#setPaused(this.#expect(id, ['running']), true)
  }

  async resume (id: string): Promise<void> {
    await this.#note('resume', id)
    this.#setPaused(this.#expect(id, ['paused']), false)
  }

  async delete (id: string): Promise<void> {
    await this.#note('delete', id)
    const container = this.#containers.get(id)
    if (!container) return
    this.#expect(id, ['stopped'])
    this.#containers.delete(id)
  }

  async list (): Promise<string[]> {
    await this.#note('list', '')
    return [...this.#containers.keys()]
  }

  async exec (places: ExecPlaces, process: OciProcess): Promise<AttachedProcess> {
    await this.#note('exec', places.containerId)
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
    const outputs = { stdout, stderr }
    const child = { stdin, stdout, stderr, kill: () => {} }
    // A refusal comes where the runtime's client would end, not where it is started.
    const ended = (async () => {
      try {
        const running = this.#execIn(places, process, () => text(stdin), (stream, output) => outputs[stream].write(output))
        const exitCode = await running.ended
        const signal = exitCode > 128 ? signalName(exitCode - 128) : undefined
        return signal ? { exitCode, signal } : { exitCode }
      } finally {
        stdout.end()
        stderr.end()
      }
    })()
    return { child, ended, hasStarted: () => Promise.resolve(refuse(process) === undefined) }
  }

  async execMonitored (places: ExecPlaces, process: OciProcess, signal?: AbortSignal): Promise<Monitored> {
    await this.#note('execMonitored', places.containerId, signal)
    const running = this.#execIn(places, process, async () => '', (stream, output) => log(places.logPath, stream, output))
    const { child, ...monitored } = await this.#startMonitor(places)
    void running.ended.then(exitCode => this.#leaveExitCode(places.exitDir, places.containerId, exitCode, child))
    return monitored
  }

  /** No client is run by it: what was asked for, as it was. */
  async terminalArgv (places: ExecPlaces, process: OciProcess): Promise<string[]> {
    await this.#note('terminalArgv', places.containerId)
    const refusal = refuse(process)
    if (refusal !== undefined) throw refusalError(new RuntimeRefusal(`exec failed: unable to start container process: ${refusal}`), 'fake')
    return [...process.args]
  }

  async terminalStarted (places: ExecPlaces): Promise<void> {
    await this.#note('terminalStarted', places.containerId)
  }

  async innerPid (): Promise<number | undefined> {
    return undefined
  }

  async signalExec (places: ExecPlaces, signal: string): Promise<void> {
    await this.#note('signalExec', places.containerId)
    this.#execs.get(places.execId)?.signal(signal)
  }

  /** Ends what still runs. */
  async close (): Promise<void> {
    for (const { main, execs } of this.#containers.values()) for (const process of [main, ...execs]) process?.signal('KILL')
    await Promise.all([...this.#containers.values()].map(async ({ main }) => await main?.ended))
    for (const monitor of this.#monitors) monitor.kill('SIGKILL')
    await Promise.all([...this.#monitors].map(monitor => once(monitor, 'exit')))
  }

  async #note (method: FakeCall, id: string, signal?: AbortSignal): Promise<void> {
    this.calls.push(`${method} ${id}`.trim())
    await this.#options.onCall?.(method, id)
    signal?.throwIfAborted()
  }

  #expect (id: string, wanted: readonly ContainerStatus[]): FakeContainer {
    const container = this.#containers.get(id)
    if (!container) throw refusalError(new RuntimeRefusal(`container "${id}" does not exist`), 'fake')
    if (!wanted.includes(container.status)) throw refusalError(new RuntimeRefusal(`the container is in state ${container.status}`), 'fake')
    return container
  }

  #execIn (places: ExecPlaces, process: OciProcess, read: () => Promise<string>, write: (stream: 'stdout' | 'stderr', output: string) => void): FakeProcess {
    const container = this.#expect(places.containerId, ['running'])
    const refusal = refuse(process)
    if (refusal !== undefined) throw refusalError(new RuntimeRefusal(`exec failed: unable to start container process: ${refusal}`), 'fake')
    const running = this.#spawn(container, process.args, read, write)
    container.execs.add(running)
    this.#execs.set(places.execId, running)
    void running.ended.then(() => {
      container.execs.delete(running)
      this.#execs.delete(places.execId)
    })
    return running
  }

  #spawn (container: FakeContainer, argv: readonly string[], read: () => Promise<string>, write: (stream: 'stdout' | 'stderr', output: string) => void): FakeProcess {
    const others = (): FakeProcess[] => [...container.execs, ...(container.argv.includes('--') && container.main ? [container.main] : [])].filter(other => other !== spawned)
    const spawned: FakeProcess = new FakeProcess({
      argv,
      read,
      write,
      signalOthers: signal => { for (const other of others()) other.signal(signal) },
      countOthers: () => others().length,
    })
    return spawned
  }

  #setPaused (container: FakeContainer, isPaused: boolean): void {
    container.status = isPaused ? 'paused' : 'running'
    for (const process of [container.main, ...container.execs]) process?.setPaused(isPaused)
  }

  /** pid 1 has ended: the kernel ends the rest. */
  #end (container: FakeContainer, exitCode: number): void {
    for (const exec of container.execs) exec.signal('KILL')
    container.status = 'stopped'
    this.#leaveExitCode(container.places.exitDir, container.places.id, exitCode, container.monitor)
  }

  /** As conmon does: whole or not at all, and nothing when the monitor was killed before. */
  #leaveExitCode (exitDir: string, name: string, exitCode: number, monitor: ChildProcess): void {
    if (monitor.exitCode !== null || monitor.signalCode !== null) return
    writeFileSync(join(exitDir, `.${name}.tmp`), String(exitCode))
    renameSync(join(exitDir, `.${name}.tmp`), join(exitDir, name))
    monitor.kill('SIGKILL')
  }

  async #startMonitor (places: { runDir: string }): Promise<Monitored & { child: ChildProcess }> {
    const child = spawn('sleep', ['86400'], { stdio: 'ignore' })
    await once(child, 'spawn')
    this.#monitors.add(child)
    child.once('exit', () => this.#monitors.delete(child))
    const pid = child.pid ?? 0
    await writeFile(join(places.runDir, 'conmon.pid'), String(pid))
    return { monitor: findProcess(pid) ?? { pid, startTicks: '' }, pid, child }
  }
}

/** What a runtime would say to a process that it cannot start. */
function refuse (process: OciProcess): string | undefined {
  const program = process.args[0] ?? ''
  if (!directories.includes(process.cwd)) return `chdir to cwd ("${process.cwd}"): no such file or directory`
  if (plainFiles.includes(program)) return `exec: "${program}": permission denied`
  return programs.test(program) ? undefined : `exec: "${program}": executable file not found in $PATH`
}

/** In the CRI format, one line a record. */
function log (path: string, stream: 'stdout' | 'stderr', output: string): void {
  const at = new Date().toISOString().replace('Z', '000000+00:00')
  appendFileSync(path, output.replace(/\n$/, '').split('\n').map(line => `${at} ${stream} F ${line}\n`).join(''))
}
