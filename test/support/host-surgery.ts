/** What accidents do to a host, done to one test daemon's part of it: reads and ends its processes by pid, never by name. */
import { readFile, rm, readdir, writeFile } from 'node:fs/promises'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { setTimeout as delay } from 'node:timers/promises'
import { findLeftovers } from './leftovers.ts'
import type { TestDaemon } from './test-daemon.ts'

const run = promisify(execFile)
const patienceMs = 60_000

/** Looks until it is so. */
export async function eventually (isSo: () => Promise<boolean> | boolean, what: string, withinMs = patienceMs): Promise<void> {
  const until = Date.now() + withinMs
  while (!await isSo()) {
    if (Date.now() > until) throw new Error(`it never came true: ${what}`)
    await delay(50)
  }
}

/** The monitor's pid, from the sandbox's record. */
export async function monitorPid (daemon: TestDaemon, id: string): Promise<number> {
  const record = JSON.parse(await readFile(recordPath(daemon, id), 'utf8')) as { monitor: { pid: number } }
  return record.monitor.pid
}

/** The pid of the runtime's own process: for gVisor its kernel, the sentry. */
export async function runtimePid (daemon: TestDaemon, id: string): Promise<number> {
  return Number(await readFile(join(daemon.runDir, 'sandboxes', id, 'pid'), 'latin1'))
}

export function recordPath (daemon: TestDaemon, id: string): string {
  return join(daemon.stateDir, 'sandboxes', id, 'sandbox.json')
}

export function isRunning (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/**
 * What a reboot does, with the daemon down: every process ends at once, control groups and the run directory are gone.
 * Mounts go too, unless they are to stay (then it is as if somebody had emptied the run directory by hand);
 * a run directory that stays is of another boot.
 */
export async function simulateReboot (daemon: TestDaemon, options: { areMountsKept: boolean, isRunDirKept: boolean }): Promise<void> {
  const leftovers = await findLeftovers(daemon)
  const words = leftovers.map(line => line.split(' '))
  const cgroups = words.filter(([kind]) => kind === 'cgroup').map(([, path = '']) => path)
  const ofCgroups = await Promise.all(cgroups.map(async path => (await readFile(join(path, 'cgroup.procs'), 'latin1').catch(() => '')).split('\n').filter(Boolean)))
  // Monitors first, so that none of them sees its container end and writes that down.
  const pids = [...words.filter(([kind]) => kind === 'process').map(([, pid = '']) => pid), ...ofCgroups.flat()].map(Number)
  const isMonitor = await Promise.all(pids.map(async pid => (await readFile(`/proc/${pid}/comm`, 'latin1').catch(() => '')).startsWith('conmon')))
  for (const pid of [...pids.filter((_pid, index) => isMonitor[index]), ...pids.filter((_pid, index) => !isMonitor[index])]) {
    try { process.kill(pid, 'SIGKILL') } catch { /* ended with another */ }
  }
  await eventually(async () => (await findLeftovers(daemon)).every(line => !line.startsWith('process ')), 'all processes have ended')
  for (const path of cgroups) {
    await eventually(() => run('rmdir', [path]).then(() => true, async () => !(await findLeftovers(daemon)).includes(`cgroup ${path}`)), `${path} is removed`)
  }
  for (const [kind = '', name = ''] of words) await removeNetwork(kind, name)
  if (!options.areMountsKept) {
    for (const [kind, path = ''] of words.toReversed()) if (kind === 'mount') await run('umount', [path])
  }
  if (options.isRunDirKept) return await writeFile(join(daemon.runDir, 'boot'), 'another boot\n')
  for (const name of await readdir(daemon.runDir)) await rm(join(daemon.runDir, name), { recursive: true })
}

/** A line of findNetworks, split. Links go with their namespaces. */
async function removeNetwork (kind: string, name: string): Promise<void> {
  if (kind === 'netns') await run('ip', ['netns', 'delete', name])
  if (kind === 'table') await run('nft', ['delete', 'table', 'inet', name])
  if (kind === 'address') await run('ip', ['address', 'delete', name, 'dev', 'lo'])
}
