import { readContainerPid, readExitCode, readMonitorPid } from '../../host/conmon.ts'
import { isAlive, type ProcessIdentity } from '../../host/process.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { SandboxPlaces } from './sandbox-places.ts'

/** A runtime that was at work when its daemon was killed ends by itself: with a container, or without. */
const startDeadlineMs = 60_000

/**
 * Whether a start whose daemon was killed came to a container, and who monitors it; undefined where it did not.
 * The monitor writes the container's pid once the program has been started, and the exit code when it has ended.
 * After a restart of the host nothing tells any more, and a program that may have run counts as one that did.
 */
export async function findStarted (places: SandboxPlaces, id: string, facts: { hasHostRestarted: boolean }): Promise<{ monitor?: ProcessIdentity } | undefined> {
  if (facts.hasHostRestarted) return {}
  const monitor = await readMonitorPid(places.runDir)
  const hasEnded = async () => await readExitCode(places.exitDir, id) !== undefined
  const isDecided = async () => await hasEnded() || !monitor || !isAlive(monitor) || await readContainerPid(places.runDir) !== undefined
  await pollUntil(isDecided, startDeadlineMs)
  if (await hasEnded()) return monitor ? { monitor } : {}
  return monitor && isAlive(monitor) && await readContainerPid(places.runDir) !== undefined ? { monitor } : undefined
}
