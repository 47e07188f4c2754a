/** The keeper of the image server: a process that does nothing but hold what the next server needs when one dies (libexec/image-keeper). */
import { readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { BerthError } from '../errors.ts'
import { pollUntil } from '../lib/poll.ts'
import { cleanEnv } from './command.ts'
import { findProcess, isAlive, killProcess, readPidFile, signalProcess, type ProcessIdentity } from './process.ts'
import { openServerLog } from './server-process.ts'
import { startProgram } from './spawn.ts'

/** What a server exits with when its mount is gone for good: its keeper ends too. Everything else is a death that is made good. */
export const connectionGoneExitCode = 42

export interface ImageKeeperOptions {
  /** libexec/image-keeper */
  keeperPath: string
  /** Of the keeper: holds its pid file, and names it among processes. */
  dir: string
  /** The server, by its path; it gets the number of the start behind its arguments, /dev/fuse as fd 3 and, where there is a tmpfs, memory as fd 4. */
  command: readonly string[]
  /** Both output streams are appended; what earlier ones wrote moves to `<logPath>.1` when it has grown large. */
  logPath: string
  /** Descriptors that become fd 3 and 4 of the keeper, where a server hands on what it was given. */
  inheritedFds?: readonly number[]
}

const startTimeoutMs = 10_000
// The keeper gives its server 5 s.
const endTimeoutMs = 10_000

/**
 * Starts a keeper, which leads a session of its own and outlives this process.
 *
 * @throws BerthError unavailable `image_server_unavailable` when it does not come up.
 */
export async function startImageKeeper ({ keeperPath, dir, command, logPath, inheritedFds = [] }: ImageKeeperOptions): Promise<ProcessIdentity> {
  await rm(join(dir, 'keeper.pid'), { force: true })
  const log = await openServerLog(logPath)
  try {
    // Blocking calls of many kinds share libuv's pool, and some wait for each other.
    const env = { ...cleanEnv, UV_THREADPOOL_SIZE: '16' }
    const program = startProgram(keeperPath, { argv: [keeperPath, dir, ...command], env, cwd: '/', stdio: [null, log.fd, log.fd, ...inheritedFds], isSessionLeader: true })
    let hasEnded = false
    void program.ended.then(() => { hasEnded = true })
    await pollUntil(async () => hasEnded || await readPidFile(join(dir, 'keeper.pid')) !== undefined, startTimeoutMs)
    const keeper = await findImageKeeper(dir)
    if (keeper) return keeper
    program.kill('SIGKILL')
    throw new BerthError('unavailable', 'image_server_unavailable', 'the image server of this host could not be started; its log says why')
  } finally {
    await log.close()
  }
}

/** The keeper that a directory names, or undefined when there is none. Its command line tells it from a process that got its pid since. */
export async function findImageKeeper (dir: string): Promise<ProcessIdentity | undefined> {
  const pid = await readPidFile(join(dir, 'keeper.pid'))
  const identity = pid === undefined ? undefined : findProcess(pid)
  return identity && isKeeperOf(identity.pid, dir) ? identity : undefined
}

/** Ends a keeper and its server: politely first, then all of its session's processes. One that is gone is fine. */
export async function endImageKeeper (identity: ProcessIdentity): Promise<void> {
  signalProcess(identity, 'SIGTERM')
  if (await pollUntil(async () => !isAlive(identity), endTimeoutMs)) return
  // It leads the process group that its servers are in.
  if (isAlive(identity)) killProcess(-identity.pid)
}

function isKeeperOf (pid: number, dir: string): boolean {
  try {
    const argv = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0')
    return argv.some((argument, index) => basename(argument) === 'image-keeper' && argv[index + 1] === dir)
  } catch {
    return false
  }
}
