/** What sandboxes leave on a host when something goes wrong: for assertions that nothing is left. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Mounts and processes that name a directory, and cgroups that name a host id. */
export async function findLeftovers (owner: { dir: string, hostId: string }): Promise<string[]> {
  const [mounts, cgroups, processes] = await Promise.all([findMounts(owner.dir), findCgroups(owner.hostId), findProcesses(owner.dir)])
  return [...mounts.map(mount => `mount ${mount}`), ...cgroups.map(cgroup => `cgroup ${cgroup}`), ...processes.map(process => `process ${process}`)]
}

async function findMounts (dir: string): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')
  return lines.map(line => line.split(' ')[4] ?? '').filter(point => point === dir || point.startsWith(`${dir}/`))
}

async function findCgroups (hostId: string): Promise<string[]> {
  if (hostId === '') return []
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n')
    .filter(line => / - cgroup2? /.test(line))
    .map(line => line.split(' ')[4] ?? '')
  const found: string[] = []
  for (const mount of mounts) {
    const parent = join(mount, 'berth', hostId)
    const entries = await readdir(parent, { withFileTypes: true }).catch(() => [])
    found.push(...entries.filter(entry => entry.isDirectory()).map(entry => join(parent, entry.name)))
  }
  return found
}

async function findProcesses (dir: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter(name => /^\d+$/.test(name))
  const lines = await Promise.all(pids.map(async pid => `${pid} ${(await readFile(`/proc/${pid}/cmdline`, 'latin1').catch(() => '')).replaceAll('\0', ' ')}`))
  return lines.filter(line => line.includes(`${dir}/`))
}
