import type { Command } from 'commander'
import type { Host } from '../schemas/host.ts'
import { ConnectionError } from './connection-error.ts'
import { addDrainCommands } from './drain-commands.ts'
import type { Shell } from './shell.ts'
import { formatTable } from './table.ts'
import { describeSize, describeSpan } from './units.ts'

interface Flags {
  json?: boolean
}

export function addHostCommands (program: Command, shell: Shell, act: (work: Promise<number>) => Promise<void>): void {
  const host = program.command('host').alias('info').summary('show the host: versions, runtimes, capacity, usage').description('Shows the host: versions, runtimes, capacity and usage.')
    .option('--json', 'print JSON')
    .action((flags: Flags) => act(showHost(shell, flags)))
  host.command('status').summary('the same').description('Shows the host, as berth host does.')
    .option('--json', 'print JSON')
    .action((flags: Flags) => act(showHost(shell, flags)))
  addDrainCommands(host, shell, act)
  program.command('version').summary('show the versions of this program and of the daemon').description('Shows the versions of this program and of the daemon.')
    .option('--json', 'print JSON')
    .action((flags: Flags) => act(showVersion(shell, flags)))
}

async function showHost (shell: Shell, flags: Flags): Promise<number> {
  const host = await shell.client().request<Host>('GET', '/v1/host')
  await (flags.json ? shell.output.json(host) : shell.output.out(formatHost(host)))
  return 0
}

function formatHost (host: Host): string {
  const { usage, capacity } = host
  const counts = Object.entries(usage.sandboxes).filter(([, count]) => count > 0).map(([status, count]) => `${count} ${status}`)
  const facts = [
    ['Host', `${host.hostname} (${host.id})`],
    ['Status', `${host.status}, up ${describeSpan(Date.now() - Date.parse(host.startedAt))}, pid ${host.pid}`],
    ...formatDrain(host),
    ...formatFleet(host),
    ['Versions', `berth ${host.version}, node ${host.node}, kernel ${host.kernel}, cgroup v${host.cgroupVersion}`],
    ['Sandboxes', counts.length > 0 ? counts.join(', ') : 'none'],
    ['CPU', `${capacity.cpuMillis / 1000} cores, ${usage.requestedCpuMillis / 1000} promised, load ${usage.loadAverage.map(load => load.toFixed(2)).join(' ')}`],
    ['Memory', `${describeSize(capacity.memoryBytes)}, ${describeSize(usage.requestedMemoryBytes)} promised, ${describeSize(usage.memoryBytes)} in use`],
    ['Disk', `${describeSize(capacity.diskBytes)}, ${describeSize(usage.diskBytes)} in use`],
  ]
  const runtimes = host.runtimes.map(({ name, version, platform, path, isDefault }) => [name, version, platform ?? '-', path, isDefault ? 'default' : ''])
  return facts.map(([name, value]) => `${`${name}:`.padEnd(11)}${value}\n`).join('') + '\n' +
    formatTable(['RUNTIME', 'VERSION', 'PLATFORM', 'PATH', ''], runtimes)
}

function formatDrain ({ drain }: Host): string[][] {
  if (!drain) return []
  const since = `for ${describeSpan(Date.now() - Date.parse(drain.since))}`
  if (drain.stopAt === undefined) return [['Drained', since]]
  const leftMs = Date.parse(drain.stopAt) - Date.now()
  return [['Drained', `${since}, ${leftMs > 0 ? `stops its tasks in ${describeSpan(leftMs)}` : 'its tasks are stopped'}`]]
}

function formatFleet ({ gateway, queue }: Host): string[][] {
  const facts: string[][] = []
  if (gateway) {
    const { target, isConnected, workerId, lastHeartbeatAt, problem } = gateway
    const heard = lastHeartbeatAt === undefined ? '' : `, heartbeat ${describeSpan(Date.now() - Date.parse(lastHeartbeatAt))} ago`
    facts.push(['Gateway', `${target}, ${isConnected ? `connected as ${workerId}` : `not connected${problem === undefined ? '' : `: ${problem}`}`}${heard}`])
  }
  if (queue) facts.push(['Queue', `pool ${queue.pool}, ${queue.isConnected ? 'connected' : 'not connected'}`])
  return facts
}

/** A daemon that does not run is an answer here, not a failure. */
async function showVersion (shell: Shell, flags: Flags): Promise<number> {
  const client = { version: shell.context.version, node: process.versions.node }
  let server: { version: string, node: string, kernel: string, runtimes: Host['runtimes'] } | null = null
  let problem: string | undefined
  try {
    const { version, node, kernel, runtimes } = await shell.client().request<Host>('GET', '/v1/host')
    server = { version, node, kernel, runtimes }
  } catch (error) {
    if (!(error instanceof ConnectionError)) throw error
    problem = error.message
  }
  if (flags.json) await shell.output.json({ client, server })
  else {
    await shell.output.line(`Client: berth ${client.version} (node ${client.node})`)
    await shell.output.line(server ? `Server: berth ${server.version} (node ${server.node}, kernel ${server.kernel})` : `Server: ${problem}`)
    for (const runtime of server?.runtimes ?? []) await shell.output.line(`  ${runtime.name} ${runtime.version}${runtime.isDefault ? ' (default)' : ''}`)
  }
  return 0
}
