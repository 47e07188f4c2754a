/** A server of the daemon that outlives it: `… <script>.ts SETTINGS DIR`, found again by its command line. */
import { readdirSync } from 'node:fs'
import { open, rename, stat, type FileHandle } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { pollUntil } from '../lib/poll.ts'
import { cleanEnv } from './command.ts'
import { findProcess, isAlive, killProcess, readArguments, readPidFile, signalProcess, type ProcessIdentity } from './process.ts'
import { startProgram } from './spawn.ts'

export interface ServerProcess {
  identity: ProcessIdentity
  /** As it was started with them. */
  settings: string
}

const maxLogBytes = 4 * 1024 * 1024
const endTimeoutMs = 5000

/** Opens the log of a server to append to it; what earlier ones wrote moves to `<logPath>.1` when it has grown large. */
export async function openServerLog (logPath: string): Promise<FileHandle> {
  const logged = await stat(logPath).catch(() => undefined)
  if (logged && logged.size > maxLogBytes) await rename(logPath, `${logPath}.1`)
  return await open(logPath, 'a', 0o600)
}

export interface ServerProcessOptions {
  /** The program by its path, its arguments, and the script; SETTINGS and DIR come behind. */
  command: readonly string[]
  settings: string
  /** The server's own, named by no other process as its last argument. */
  dir: string
  /** Gets both output streams. */
  logPath: string
}

/** Starts a server, which leads a session of its own and outlives this process. Throws an Error with `code` when it cannot be executed. */
export async function startServerProcess ({ command, settings, dir, logPath }: ServerProcessOptions): Promise<ServerProcess | undefined> {
  const log = await openServerLog(logPath)
  try {
    const argv = [...command, settings, dir]
    const { pid } = startProgram(argv[0] ?? '', { argv, env: cleanEnv, cwd: '/', stdio: [null, log.fd, log.fd], isSessionLeader: true })
    const identity = findProcess(pid)
    return identity && { identity, settings }
  } finally {
    await log.close()
  }
}

/** The server of a directory by its pid file, `<dir>/pid`, or undefined; its command line tells it from a process that got its pid since. */
export async function findServerProcess (script: string, dir: string): Promise<ServerProcess | undefined> {
  const pid = await readPidFile(join(dir, 'pid'))
  return pid === undefined ? undefined : serverOf(pid, script, dir)
}

/** All servers of a directory, one that has not written its pid file too; looks at every process of the host. */
export function findServerProcesses (script: string, dir: string): ServerProcess[] {
  return readdirSync('/proc').filter(name => /^\d+$/.test(name)).flatMap(name => serverOf(Number(name), script, dir) ?? [])
}

/** Ends a server: politely first. One that is gone is fine. */
export async function endServerProcess (identity: ProcessIdentity): Promise<void> {
  signalProcess(identity, 'SIGTERM')
  if (await pollUntil(async () => !isAlive(identity), endTimeoutMs)) return
  if (isAlive(identity)) killProcess(identity.pid)
  await pollUntil(async () => !isAlive(identity), endTimeoutMs)
}

function serverOf (pid: number, script: string, dir: string): ServerProcess | undefined {
  const identity = findProcess(pid)
  const [path = '', settings = '', ownDir] = readArguments(pid).slice(0, -1).slice(-3)
  return identity && basename(path) === script && ownDir === dir ? { identity, settings } : undefined
}
