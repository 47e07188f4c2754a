/**
 * conmon, the monitor of podman and CRI-O: one small process per container or exec that outlives the daemon,
 * writes its output to a log and its exit code to a file (conmon(8); the sync pipe and the ctl fifo as in conmon's sources, version 2.1).
 */
import { closeSync, watch } from 'node:fs'
import { constants, open, readFile } from 'node:fs/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { BerthError } from '../errors.ts'
import { cleanEnv } from './command.ts'
import { makePipe } from './libc.ts'
import { findProcess, readPidFile, type ProcessIdentity } from './process.ts'
import { startProgram } from './spawn.ts'

export interface MonitorSpec {
  conmonPath: string
  containerId: string
  /** The runtime as conmon shall call it: program and the arguments before the verb. */
  runtime: readonly [string, ...string[]]
  /** Where conmon makes its fifos; for a container also where config.json lies. */
  bundleDir: string
  /** Pid files; gone after a reboot. */
  runDir: string
  /** The exit code appears here as a file named after the container. */
  exitDir: string
  logPath: string
  exec?: { id: string, processSpecPath: string, runtimeOptions: readonly string[] }
}

export interface Monitored {
  monitor: ProcessIdentity
  /** Host pid of what the runtime started (runsc: of its own process). */
  pid: number
}

/** The runtime refused: its own words, for a classifier in the runtime's file. */
export class RuntimeRefusal extends Error {
  constructor (message: string) {
    super(message)
    this.name = 'RuntimeRefusal'
  }
}

/**
 * Starts conmon and waits for its word that the runtime has done its part.
 * conmon itself belongs to nobody's process tree: it goes on when this daemon ends.
 *
 * @throws RuntimeRefusal with the runtime's message.
 */
export async function startMonitored (spec: MonitorSpec, signal?: AbortSignal): Promise<Monitored> {
  const sync = makePipe()
  try {
    startProgram(spec.conmonPath, {
      argv: ['conmon', ...conmonArgs(spec)],
      env: { ...cleanEnv, _OCI_SYNCPIPE: '3' },
      cwd: '/',
      // The reading end too: conmon would die of a report that nobody can read any more, and take the exit code with it.
      stdio: [null, null, null, sync.writeFd, sync.readFd],
      isSessionLeader: true,
    })
  } catch (cause) {
    closeSync(sync.readFd)
    throw new BerthError('unavailable', 'program_not_found', 'conmon could not be started on this host; run: berth doctor', { cause })
  } finally {
    closeSync(sync.writeFd)
  }
  const answer = parseSyncReport(await readFirstLine(new Socket({ fd: sync.readFd, readable: true, writable: false }), signal))
  const monitorPid = Number(await readFile(join(spec.runDir, 'conmon.pid'), 'latin1'))
  const monitor = findProcess(monitorPid) ?? { pid: monitorPid, startTicks: '' }
  return { monitor, pid: answer }
}

function conmonArgs (spec: MonitorSpec): string[] {
  const [runtime, ...runtimeArgs] = spec.runtime
  const args = [
    '--api-version', '1',
    '-c', spec.containerId,
    '-u', spec.exec?.id ?? spec.containerId,
    '-n', spec.exec?.id ?? spec.containerId,
    '-r', runtime,
    ...runtimeArgs.map(arg => `--runtime-arg=${arg}`),
    '-b', spec.bundleDir,
    '-p', join(spec.runDir, 'pid'),
    '-P', join(spec.runDir, 'conmon.pid'),
    '--exit-dir', spec.exitDir,
    '-l', `k8s-file:${spec.logPath}`,
    '--full-attach',
    // An fsync of every log at its end takes seconds on a busy disk; what is written survives any process.
    '--no-sync-log',
  ]
  if (spec.exec) {
    args.push('-e', '--exec-process-spec', spec.exec.processSpecPath, ...spec.exec.runtimeOptions.map(option => `--runtime-opt=${option}`))
  }
  return args
}

/** The first message on the sync pipe: `{"data": <pid>}`, or a negative number with the runtime's message. */
export function parseSyncReport (line: string): number {
  let report: { data?: number, message?: string }
  try {
    report = JSON.parse(line) as typeof report
  } catch (cause) {
    throw new Error('conmon ended before it reported a process', { cause })
  }
  if (typeof report.data !== 'number' || report.data < 0) throw new RuntimeRefusal((report.message ?? '').trim())
  return report.data
}

const maxReportBytes = 64 * 1024

function readFirstLine (pipe: Readable, signal?: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const finish = (settle: () => void) => {
      signal?.removeEventListener('abort', onAbort)
      // Destroyed only on abort: conmon reports the end of an exec on the same pipe and treats a reader that left as no reader.
      pipe.removeAllListeners()
      pipe.on('error', () => {})
      pipe.destroy()
      settle()
    }
    const onAbort = () => finish(() => reject(new Error('conmon was not waited for', { cause: signal?.reason })))
    signal?.addEventListener('abort', onAbort)
    pipe.setEncoding('utf8')
    pipe.on('data', (chunk: string) => {
      text += chunk
      if (text.includes('\n') || text.length > maxReportBytes) finish(() => resolve(text.split('\n')[0] ?? ''))
    })
    pipe.on('end', () => finish(() => resolve(text)))
    pipe.on('error', error => finish(() => reject(error)))
  })
}

/** The exit code that conmon left, or undefined while there is none. conmon writes it by rename, whole or not at all. */
export async function readExitCode (exitDir: string, containerId: string): Promise<number | undefined> {
  try {
    const text = await readFile(join(exitDir, containerId), 'latin1')
    return /^\d{1,3}$/.test(text.trim()) ? Number(text) : undefined
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Calls back whenever something changes in an exit directory; answers how to stop. */
export function watchExit (exitDir: string, onChange: () => void): () => void {
  const watcher = watch(exitDir, { persistent: false }, onChange)
  watcher.on('error', () => {})
  return () => watcher.close()
}

/** The monitor's pid as it wrote it, for a sandbox whose record does not have it yet. */
export async function readMonitorPid (runDir: string): Promise<ProcessIdentity | undefined> {
  const pid = await readPidFile(join(runDir, 'conmon.pid'))
  return pid === undefined ? undefined : findProcess(pid)
}

/** The pid that the runtime started (runsc: its sandbox process), or undefined while there is none. */
export function readContainerPid (runDir: string): Promise<number | undefined> {
  return readPidFile(join(runDir, 'pid'))
}

const reopenLogs = '2 0 0\n'

/** Asks the monitor to open its log file anew (after a rename). Answers false when no monitor listens. */
export async function reopenLog (bundleDir: string): Promise<boolean> {
  try {
    const fifo = await open(join(bundleDir, 'ctl'), constants.O_WRONLY | constants.O_NONBLOCK)
    try {
      await fifo.write(reopenLogs)
      return true
    } finally {
      await fifo.close()
    }
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENXIO' || code === 'ENOENT') return false
    throw error
  }
}
