/** Why a terminal has ended, and how its program is ended inside. */
import { mkdir, rm } from 'node:fs/promises'
import { signalName } from '../../host/command.ts'
import type { ExecPlaces, OciRuntime } from '../../host/oci-runtime.ts'
import { buildProcess, initMountPoint } from '../../host/oci-spec.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { TerminalEnd, TerminalEndReason } from '../../schemas/terminal.ts'
import type { PtyEnd } from './server/pty-protocol.ts'

export interface EndFacts {
  /** ISO 8601. */
  at: string
  /** As the pty-host tells it; absent where it died before it could. */
  end?: PtyEnd | undefined
  /** Why it was being ended by us, if it was. */
  ending?: TerminalEndReason | undefined
  hasHostRestarted: boolean
  /** It has, or it is being stopped. */
  hasSandboxEnded: boolean
}

/** What a runtime's client says when its sandbox went away under it. */
const lostSandboxCode = 128

export function classifyTerminalEnd ({ at, end, ending, hasHostRestarted, hasSandboxEnded }: EndFacts): TerminalEnd {
  const unseen = hasHostRestarted ? 'host_restarted' : 'pty_host_lost'
  const reason = ending ?? (hasSandboxEnded && !hasHostRestarted ? 'sandbox_ended' : end ? 'exited' : unseen)
  // One that a signal ended is the runtime's client: what became of the program nobody saw.
  const exitCode = end?.exitCode
  if (exitCode === undefined || end?.signalNumber || (exitCode === lostSandboxCode && hasSandboxEnded)) return { reason, at: end?.at ?? at }
  const signal = exitCode > 128 ? signalName(exitCode - 128) : undefined
  return { reason, at: end?.at ?? at, exitCode, ...(signal ? { signal } : {}) }
}

/** Whether an end may be that of the sandbox, which is seen a moment later. */
export function mayBeSandboxEnd ({ exitCode, signalNumber }: PtyEnd): boolean {
  return Boolean(signalNumber) || exitCode === undefined || exitCode >= lostSandboxCode
}

// The session is the fourth field behind the name, which may hold anything (proc(5), stat).
const killAllOf = `session=$1
for dir in /proc/[0-9]*; do
  read -r stat < "$dir/stat" || continue
  set -- \${stat##*) }
  [ "$4" = "$session" ] && kill -KILL "\${dir#/proc/}"
done 2> /dev/null`

/**
 * SIGKILLs the program of a terminal, and all in its session: jobs of a shell that outlive it. A helper on the read-only init mount does it from
 * inside, where the session is known; the program itself, where that cannot be. What has begun a session of its own is no part of the terminal any more.
 */
export async function killSession (runtime: OciRuntime, places: ExecPlaces): Promise<void> {
  const session = await runtime.innerPid(places)
  if (session !== undefined) await killInside(runtime, places, session)
  await runtime.signalExec(places, 'KILL', { isWaiting: false }).catch(() => { /* it never started, or has ended */ })
}

async function killInside (runtime: OciRuntime, places: ExecPlaces, session: number): Promise<void> {
  // The terminal's own directory may go as soon as its program is dead.
  const killer: ExecPlaces = { ...places, execId: `${places.execId}-killer`, runDir: `${places.runDir}-killer` }
  const process = buildProcess({
    argv: [`${initMountPoint}/busybox`, 'sh', '-c', killAllOf, 'sh', String(session)],
    env: {},
    cwd: '/',
    user: { uid: 0, gid: 0, additionalGids: [] },
    pids: helperPids,
  })
  await mkdir(killer.runDir, { recursive: true })
  try {
    const { child, ended } = await runtime.exec(killer, process)
    child.stdout.resume()
    child.stderr.resume()
    child.stdin.end()
    // In a sandbox that is paused it does nothing before that goes on.
    await raceWithDelay(killerDeadlineMs, [ended])
    child.kill('SIGKILL')
  } catch { /* the sandbox has no room for the helper, or has ended */ } finally {
    await rm(killer.runDir, { recursive: true, force: true })
  }
}

const helperPids = 4096
const killerDeadlineMs = 5000
