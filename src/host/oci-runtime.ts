/**
 * One interface over OCI runtimes (opencontainers/runtime-spec, runtime.md; the command line as runc has it).
 * What differs between runsc and runc is data: a profile. Only this file reads their exit codes, and runtime-messages.ts what they say.
 */
import { access, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../errors.ts'
import { pollUntil } from '../lib/poll.ts'
import { cleanEnv, runCommand, signalName, type CommandResult } from './command.ts'
import { RuntimeRefusal, startMonitored, type Monitored } from './conmon.ts'
import type { OciProcess } from './oci-spec.ts'
import { findProcess, killProcess, readPidFile } from './process.ts'
import { lastLoggedError, refusalError, saysAlive, saysCreated, saysEnded, saysUnknown } from './runtime-messages.ts'
import { startPiped, type PipedOptions, type PipedProgram } from './spawn.ts'

export type ContainerStatus = 'creating' | 'created' | 'running' | 'paused' | 'stopped'

export interface ContainerPlaces {
  id: string
  bundleDir: string
  runDir: string
  exitDir: string
  logPath: string
}

export interface ExecPlaces {
  execId: string
  containerId: string
  /** Holds process.json; conmon's fifos are made here. */
  dir: string
  runDir: string
  exitDir: string
  logPath: string
}

/** How a process is attached. */
export type ExecOptions = Pick<PipedOptions, 'pipeBytes'>

/** How large a terminal is, in characters. */
export interface TerminalMeasure {
  cols: number
  rows: number
}

/** A process attached to this daemon by pipes. */
export interface AttachedProcess {
  child: Pick<PipedProgram, 'stdin' | 'stdout' | 'stderr' | 'kill'>
  /** Resolves when the client has ended, with what that means. Output may still be in the pipes. */
  ended: Promise<{ exitCode: number, signal?: string }>
  /** Resolves with true when the process inside has started, with false when it was refused: then what the client wrote is the runtime's own. */
  hasStarted: () => Promise<boolean>
}

/** What sets one runtime apart. */
export interface RuntimeProfile {
  name: string
  /** Flags that every call for a container must carry alike. */
  globalArgs: readonly string[]
  /** joined: the process enters a cgroup that we made; runtime: the runtime applies linux.cgroupsPath itself. */
  cgroups: 'joined' | 'runtime'
  /** How the pid of an exec is learnt, and in whose pid namespace it counts. */
  execPid: { option: string, namespace: 'container' | 'host' }
  /** Memory and processes of the runtime itself that count in the sandbox's cgroup. */
  overhead: { memoryBytes: number, pids: number, pidsPerPid: number }
  /** Whether guests make their system calls to the host's own kernel: then they are filtered. */
  sharesHostKernel: boolean
  /** The flag that names a file for the runtime's last words when it crashes. */
  panicLogFlag?: string
  /** How it intercepts system calls, where there is a choice. */
  platform?: string
  /** The oldest release that works, by the date in its version (yyyymmdd). */
  oldestRelease?: number
  /** The oldest release that starts in a network namespace of its own where the kernel shows /proc/sys/net/core/rmem_default in each of them. */
  oldestNetnsRelease?: number
}

export const runtimeProfiles: Readonly<Record<string, RuntimeProfile>> = Object.freeze({
  runsc: {
    name: 'runsc',
    platform: 'systrap',
    oldestRelease: 20240701, // before it, stat of coreutils 9 fails with EINVAL and there is no systrap
    oldestNetnsRelease: 20240731,
    globalArgs: [
      '--platform=systrap', // KVM hangs on nested hosts
      '--network=sandbox', // its own stack on the addresses of its network namespace
      '--directfs=false', // with it, opening a symlink fails with EBADF on recent kernels
      '--overlay2=none', // the overlay is ours, so that what is written survives a stop
      '--ignore-cgroups', // the cgroup is ours
    ],
    cgroups: 'joined',
    sharesHostKernel: false,
    panicLogFlag: '--panic-log',
    execPid: { option: '--internal-pid-file', namespace: 'container' },
    // At rest the sentry takes 25-33 MB and the gofer 22 MB; each guest process is a stub process of the host with its threads.
    overhead: { memoryBytes: 64 * 1024 ** 2, pids: 256, pidsPerPid: 3 },
  },
  runc: {
    name: 'runc',
    globalArgs: [],
    cgroups: 'runtime',
    sharesHostKernel: true,
    execPid: { option: '--pid-file', namespace: 'host' },
    overhead: { memoryBytes: 0, pids: 8, pidsPerPid: 1 },
  },
})

export interface OciRuntime {
  readonly profile: RuntimeProfile
  create (places: ContainerPlaces, cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored>
  /** Creates and starts at once, which takes the runtime one process in the place of two. */
  run (places: ContainerPlaces, cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored>
  start (id: string, signal?: AbortSignal): Promise<void>
  /** undefined: the runtime knows no such container. */
  status (id: string): Promise<ContainerStatus | undefined>
  /** Sends a signal to pid 1, or to every process. A container that has ended is fine. */
  kill (id: string, signal: string, options?: { all?: boolean }): Promise<void>
  pause (id: string): Promise<void>
  resume (id: string): Promise<void>
  /** Removes a container whose process has ended; one that the runtime does not know is fine. */
  delete (id: string): Promise<void>
  list (): Promise<string[]>
  exec (places: ExecPlaces, process: OciProcess, options?: ExecOptions): Promise<AttachedProcess>
  execMonitored (places: ExecPlaces, process: OciProcess, signal?: AbortSignal): Promise<Monitored>
  /**
   * The command that runs a process at the terminal that is its own standard input and output: a client that goes on until the process has
   * ended, exits as it did, and passes a new size on. The process is told that it has a terminal, and has it in this size from its start.
   */
  terminalArgv (places: ExecPlaces, process: OciProcess, size: TerminalMeasure): Promise<string[]>
  /**
   * Waits until the process at a terminal has started, or its client has ended, with this exit code.
   *
   * @throws what `ended` of an exec does where the process was refused.
   */
  terminalStarted (places: ExecPlaces, ended: Promise<number>): Promise<void>
  /** The pid of an exec or of the process at a terminal, as it counts inside; undefined while none is known, or it has ended. */
  innerPid (places: ExecPlaces): Promise<number | undefined>
  /** Sends a signal to an exec's process inside; one that has ended is fine. Waits a moment for one that is still being started, unless told not to. */
  signalExec (places: ExecPlaces, signal: string, options?: { isWaiting: boolean }): Promise<void>
}

export interface CommandRuntimeOptions {
  profile: RuntimeProfile
  path: string
  /** The runtime's own state; below the run directory, so that it goes with a reboot. */
  root: string
  conmonPath: string
  joinCgroupPath: string
  /** What stands before the runtime where it starts a container: libexec/without-net-sysctls, or nothing. */
  startPrefix: readonly string[]
}

const maxPanicBytes = 4096
const callTimeoutMs = 60_000

function panicLogPath (runDir: string): string {
  return join(runDir, 'panic.log')
}

function errorLogPath (places: ExecPlaces): string {
  return join(places.runDir, 'error.json')
}

/** The runtime's last words, if it crashed: the first bytes of its panic log. They are for our log, never for a client. */
export async function readCrash (runDir: string): Promise<string | undefined> {
  const text = await readFile(panicLogPath(runDir), 'utf8').catch(() => '')
  return text === '' ? undefined : text.slice(0, maxPanicBytes)
}

/** A runtime that is a program on the host. */
export class CommandRuntime implements OciRuntime {
  readonly profile: RuntimeProfile
  readonly #options: CommandRuntimeOptions

  constructor (options: CommandRuntimeOptions) {
    this.profile = options.profile
    this.#options = options
  }

  create (places: ContainerPlaces, cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored> {
    return this.#create(places, cgroupProcsFiles, [], signal)
  }

  run (places: ContainerPlaces, cgroupProcsFiles: readonly string[], signal?: AbortSignal): Promise<Monitored> {
    return this.#create(places, cgroupProcsFiles, ['--run'], signal)
  }

  async #create (places: ContainerPlaces, cgroupProcsFiles: readonly string[], wrapperArgs: readonly string[], signal?: AbortSignal): Promise<Monitored> {
    const { panicLogFlag } = this.profile
    const panicArgs = panicLogFlag ? [`${panicLogFlag}=${panicLogPath(places.runDir)}`] : []
    const joined = this.profile.cgroups === 'joined' ? cgroupProcsFiles : []
    const runtime = [this.#options.joinCgroupPath, ...wrapperArgs, ...joined, '--', ...this.#options.startPrefix, this.#options.path, ...this.#globalArgs(), ...panicArgs] as const
    try {
      return await startMonitored({ ...places, containerId: places.id, conmonPath: this.#options.conmonPath, runtime }, signal)
    } catch (error) {
      throw refusalError(error, this.profile.name)
    }
  }

  async start (id: string, signal?: AbortSignal): Promise<void> {
    const [program = '', ...args] = [...this.#options.startPrefix, this.#options.path, ...this.#globalArgs(), 'start', id]
    const result = await runCommand(program, args, { timeoutMs: callTimeoutMs, ...(signal ? { signal } : {}) })
    if (result.exitCode !== 0) throw this.#failure('start', result)
  }

  async status (id: string): Promise<ContainerStatus | undefined> {
    const result = await this.#run(['state', id])
    if (result.exitCode !== 0) {
      if (saysUnknown(result.stderr)) return undefined
      throw this.#failure('state', result)
    }
    return (JSON.parse(result.stdout) as { status: ContainerStatus }).status
  }

  async kill (id: string, signal: string, options: { all?: boolean } = {}): Promise<void> {
    const result = await this.#run(['kill', ...(options.all ? ['--all'] : []), id, signal])
    if (saysCreated(result.stderr) && signal.endsWith('KILL')) return await this.#killUnstarted(id)
    if (result.exitCode !== 0 && !saysUnknown(result.stderr) && !saysEnded(result.stderr)) throw this.#failure('kill', result)
  }

  /** runsc signals nothing before the start; until then a container is one process of the host. */
  async #killUnstarted (id: string): Promise<void> {
    const { pid } = JSON.parse((await this.#must(['state', id])).stdout) as { pid: number }
    killProcess(pid)
  }

  async pause (id: string): Promise<void> {
    await this.#must(['pause', id])
  }

  async resume (id: string): Promise<void> {
    await this.#must(['resume', id])
  }

  async delete (id: string): Promise<void> {
    let result = await this.#run(['delete', id])
    // Where the monitor is gone too, a dead process counts as running until the host's init has reaped it.
    if (saysAlive(result)) await pollUntil(async () => !saysAlive(result = await this.#run(['delete', ...await this.#forceWhereDead(id), id])), reapedWithinMs)
    if (result.exitCode !== 0 && !saysUnknown(result.stderr)) throw this.#failure('delete', result)
  }

  /** runsc looks whether a container lives unless it was paused: one that was killed then counts as paused until it is told otherwise. */
  async #forceWhereDead (id: string): Promise<string[]> {
    const { exitCode, stdout } = await this.#run(['state', id])
    if (exitCode !== 0) return []
    const { status, pid } = JSON.parse(stdout) as { status: ContainerStatus, pid: number }
    return status === 'paused' && findProcess(pid) === undefined ? ['--force'] : []
  }

  async list (): Promise<string[]> {
    const result = await this.#must(['list', '--quiet'])
    return result.stdout.split('\n').filter(Boolean)
  }

  async exec (places: ExecPlaces, process: OciProcess, { pipeBytes }: ExecOptions = {}): Promise<AttachedProcess> {
    const args = await this.#writeExec(places, process)
    const child = startPiped(this.#options.path, { argv: [this.profile.name, ...args], env: cleanEnv, cwd: '/', isSessionLeader: false, pipeBytes })
    const classified = child.ended.then(({ exitCode, signalNumber }) => this.#classifyExecEnd(exitCode ?? 128 + (signalNumber ?? 0), errorLogPath(places)))
    return { child, ended: classified, hasStarted: () => hasStarted(this.#pidPath(places), classified) }
  }

  async terminalArgv (places: ExecPlaces, process: OciProcess, { cols, rows }: TerminalMeasure): Promise<string[]> {
    // runc passes the size of its own terminal on only after the process has started.
    return [this.#options.path, ...await this.#writeExec(places, { ...process, terminal: true, consoleSize: { height: rows, width: cols } })]
  }

  async terminalStarted (places: ExecPlaces, ended: Promise<number>): Promise<void> {
    const classified = ended.then(exitCode => this.#classifyExecEnd(exitCode, errorLogPath(places)))
    if (!await hasStarted(this.#pidPath(places), classified)) await classified
  }

  async innerPid (places: ExecPlaces): Promise<number | undefined> {
    const pid = await readPidFile(this.#pidPath(places))
    if (pid === undefined || this.profile.execPid.namespace === 'container') return pid
    // In each pid namespace that it is in, the innermost last (proc(5), status).
    const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '')
    const inner = /^NSpid:.*\s(\d+)$/m.exec(status)?.[1]
    return inner === undefined ? undefined : Number(inner)
  }

  /** Writes what shall run, and answers the arguments by which it does. */
  async #writeExec (places: ExecPlaces, process: OciProcess): Promise<string[]> {
    const specPath = join(places.runDir, 'process.json')
    await writeFile(specPath, JSON.stringify(process), { mode: 0o600 })
    return [...this.#globalArgs(), '--log', errorLogPath(places), '--log-format', 'json', 'exec', '--process', specPath, ...this.#execPidOptions(places), places.containerId]
  }

  async execMonitored (places: ExecPlaces, process: OciProcess, signal?: AbortSignal): Promise<Monitored> {
    const processSpecPath = join(places.dir, 'process.json')
    await writeFile(processSpecPath, JSON.stringify(process), { mode: 0o600 })
    const runtimeOptions = this.profile.execPid.namespace === 'container' ? this.#execPidOptions(places) : []
    try {
      return await startMonitored({
        ...places,
        bundleDir: places.dir,
        conmonPath: this.#options.conmonPath,
        runtime: [this.#options.path, ...this.#globalArgs()],
        exec: { id: places.execId, processSpecPath, runtimeOptions },
      }, signal)
    } catch (error) {
      throw refusalError(error, this.profile.name)
    }
  }

  async signalExec (places: ExecPlaces, signal: string, options: { isWaiting: boolean } = { isWaiting: true }): Promise<void> {
    const pid = await readPid(this.#pidPath(places), options.isWaiting ? pidFileRounds : 1)
    if (this.profile.execPid.namespace === 'host') {
      try { process.kill(pid, (signal.startsWith('SIG') ? signal : `SIG${signal}`) as NodeJS.Signals) } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
      }
      return
    }
    const result = await this.#run(['kill', '--pid', String(pid), places.containerId, signal])
    if (result.exitCode !== 0 && !saysUnknown(result.stderr) && !saysEnded(result.stderr)) throw this.#failure('kill', result)
  }

  #execPidOptions (places: ExecPlaces): string[] {
    return [this.profile.execPid.option, this.#pidPath(places)]
  }

  #pidPath (places: ExecPlaces): string {
    // conmon writes the host's pid to `pid` itself; the pid inside goes beside it.
    return join(places.runDir, this.profile.execPid.namespace === 'host' ? 'pid' : 'inner-pid')
  }

  /** A client's exit code says nothing certain when the runtime itself failed: its error log does. */
  async #classifyExecEnd (exitCode: number, errorPath: string): Promise<{ exitCode: number, signal?: string }> {
    const log = await readFile(errorPath, 'utf8').catch(() => '')
    await rm(errorPath, { force: true })
    const refusal = exitCode === 0 ? undefined : lastLoggedError(log)
    if (refusal !== undefined) throw refusalError(new RuntimeRefusal(refusal), this.profile.name)
    const signal = exitCode > 128 ? signalName(exitCode - 128) : undefined
    return signal ? { exitCode, signal } : { exitCode }
  }

  async #must (args: string[]): Promise<CommandResult> {
    const result = await this.#run(args)
    if (result.exitCode !== 0) throw this.#failure(args[0] ?? '', result)
    return result
  }

  #run (args: string[]): Promise<CommandResult> {
    return runCommand(this.#options.path, [...this.#globalArgs(), ...args], { timeoutMs: callTimeoutMs })
  }

  #globalArgs (): string[] {
    return ['--root', this.#options.root, ...this.profile.globalArgs]
  }

  #failure (verb: string, result: CommandResult): Error {
    return refusalError(new RuntimeRefusal(result.stderr.trim() || `exit code ${result.exitCode}`), `${this.profile.name} ${verb}`)
  }
}

/** Some inits look for dead children only every few seconds. */
const reapedWithinMs = 10_000

const pidFileDeadlineMs = 10_000

/** The client writes the pid file once the process has started; one that ended without a refusal had started too. */
async function hasStarted (pidPath: string, ended: Promise<unknown>): Promise<boolean> {
  let outcome: boolean | undefined
  ended.then(() => { outcome = true }, () => { outcome = false })
  await pollUntil(async () => outcome !== undefined || await access(pidPath).then(() => true, () => false), pidFileDeadlineMs)
  return outcome ?? true
}

const pidFileRounds = 100

/** The pid file appears once the process has started; a signal may come before that. */
async function readPid (path: string, rounds: number): Promise<number> {
  for (let round = 0; round < rounds; round++) {
    const pid = await readPidFile(path)
    if (pid !== undefined) return pid
    await delay(20)
  }
  throw new BerthError('unavailable', 'exec_not_started', 'the process has not started yet; try again')
}
