/** What sandboxes leave on a host when something goes wrong: for assertions that nothing is left. */
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { tagOf } from '../../src/services/network/network-plan.ts'

const run = promisify(execFile)

/** Mounts and processes that name a directory; cgroups and parts of networks that name a host id. */
export async function findLeftovers (owner: { dir: string, hostId: string }): Promise<string[]> {
  const [mounts, cgroups, processes, networks] = await Promise.all([
    findMounts(owner.dir), findCgroups(owner.hostId), findProcesses(owner.dir), findNetworks(owner.hostId),
  ])
  return [
    ...mounts.map(mount => `mount ${mount}`), ...cgroups.map(cgroup => `cgroup ${cgroup}`), ...processes.map(process => `process ${process}`),
    ...networks,
  ]
}

/** Network namespaces, links, a table of the packet filter, and addresses: `netns NAME`, `link NAME`, `table NAME`, `address CIDR`. */
export async function findNetworks (hostId: string): Promise<string[]> {
  if (hostId === '') return []
  const tag = tagOf(hostId)
  const [namespaces, links, tables, addresses] = await Promise.all([
    readdir('/run/netns').catch(() => []),
    readdir('/sys/class/net'),
    run('nft', ['list', 'tables']).then(({ stdout }) => stdout.split('\n').map(line => line.split(' ').at(-1) ?? '')),
    run('ip', ['-j', 'address', 'show', 'dev', 'lo']).then(({ stdout }) => JSON.parse(stdout) as Array<{ addr_info: Array<{ label?: string, local: string, prefixlen: number }> }>),
  ])
  const ownAddresses = addresses.flatMap(({ addr_info: infos }) => infos).filter(({ label }) => label === `lo:${tag}`)
  return [
    ...namespaces.filter(name => name.startsWith(`berth-${tag}-`)).map(name => `netns ${name}`),
    ...links.filter(name => name.startsWith(`bv${tag}`)).map(name => `link ${name}`),
    ...tables.filter(name => name === `berth_${tag}`).map(name => `table ${name}`),
    ...ownAddresses.map(({ local, prefixlen }) => `address ${local}/${prefixlen}`),
  ]
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
