/** How fast bytes go: from a sandbox to the outside and back, against runsc by hand; through the proxy; and by the preview. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { ExecResult } from '../src/schemas/exec.ts'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { BareRunsc } from './bare-runsc.ts'
import { readTemplate, type BerthDaemon } from './berth-daemon.ts'
import { mustRun } from './child.ts'
import { mustBe } from './contestant.ts'
import { largeFileMebibytes, node, outside, type NetworkPlaces } from './network-places.ts'
import { atLeastRatio, atMost, type Claim } from './claims.ts'

export interface TrafficOptions {
  daemon: BerthDaemon
  places: NetworkPlaces
  /** With what makeNetworkImage puts into it. */
  imageDir: string
  dir: string
  runsc: string
  stack: ResourceStack
  n: number
  signal: AbortSignal
}

const pagePort = 8080
const filePort = 8081
const proxiedName = 'large.example.test'
const seconds = 2

export async function measureTraffic (options: TrafficOptions): Promise<Claim[]> {
  const { daemon, places, imageDir, dir, runsc, stack, n, signal } = options
  const image = `dir:${imageDir}`
  const resources = { cpuMillis: 2000 }
  const idle = await readTemplate(daemon, undefined, { image, resources })
  const bare = await stack.acquire('bare runsc with a network', async () => new BareRunsc({ dir: join(dir, 'bare-network'), path: runsc, echo: idle, idle, netnsPath: `/run/netns/${places.inner}` }), made => made.close())
  await places.readdressInner()
  const bareId = await bare.startIdle()
  const { id } = await daemon.create({ image, resources, network: { egress: 'internet' } })
  const inOurs = async (argv: string[]) => await runInside(daemon, id, argv)
  const inBare = async (argv: string[]) => await bare.exec(bareId, argv)
  const speeds = { up: { ours: [] as number[], bare: [] as number[] }, down: { ours: [] as number[], bare: [] as number[] } }
  for (let round = -1; round < n; round++) {
    for (const direction of ['up', 'down'] as const) {
      for (const [name, run] of round % 2 === 0 ? [['ours', inOurs], ['bare', inBare]] as const : [['bare', inBare], ['ours', inOurs]] as const) {
        signal.throwIfAborted()
        const speed = readSpeed(await run(['iperf3', '--client', outside.web, '--time', String(seconds), '--json', ...direction === 'down' ? ['--reverse'] : []]))
        if (round >= 0) speeds[direction][name].push(speed)
      }
    }
  }
  await bare.remove(bareId)
  await daemon.remove(id)
  const bareOf = (values: number[]) => ({ name: 'bare runsc, NAT by hand', values })
  return [
    { claim: 'TCP from a sandbox to the outside', unit: 'Mbit/s', ours: speeds.up.ours, other: bareOf(speeds.up.bare), target: atLeastRatio(0.9) },
    { claim: 'TCP from the outside to a sandbox', unit: 'Mbit/s', ours: speeds.down.ours, other: bareOf(speeds.down.bare), target: atLeastRatio(0.9) },
    ...await measureProxy(options, image),
  ]
}

/** The same file, by address past the proxy, and by a name that only the proxy lets through. */
async function measureProxy ({ daemon, n, signal }: TrafficOptions, image: string): Promise<Claim[]> {
  const direct = await daemon.create({ image, network: { egress: 'internet' } })
  const proxied = await daemon.create({ image, network: { egress: { allow: [proxiedName] } } })
  const speeds = { direct: [] as number[], proxied: [] as number[] }
  for (let round = -1; round < n; round++) {
    for (const [name, { id }, host] of [['direct', direct, outside.web], ['proxied', proxied, proxiedName]] as const) {
      signal.throwIfAborted()
      // By the clock inside, in hundredths of a second; wget fails when less comes than was announced.
      const said = await runInside(daemon, id, ['sh', '-c', `read before _ < /proc/uptime && wget -q -O /dev/null http://${host}/large && read after _ < /proc/uptime && echo $before $after`])
      const [before = NaN, after = NaN] = said.split(' ').map(Number)
      if (round >= 0) speeds[name].push(largeFileMebibytes * 1024 ** 2 * 8 / 1e6 / (after - before))
    }
  }
  for (const { id } of [direct, proxied]) await daemon.remove(id)
  return [{ claim: 'HTTP download by a domain rule, through the proxy', unit: 'Mbit/s', ours: speeds.proxied, other: { name: 'the same past the proxy', values: speeds.direct } }]
}

/** A program in a sandbox, seen from its host: by its address, and by the daemon's preview. */
export async function measurePreview ({ daemon, places, imageDir, n, signal }: TrafficOptions, apiPort: number): Promise<Claim[]> {
  const sandbox = await daemon.create({ image: `dir:${imageDir}`, resources: { cpuMillis: 2000 } })
  const { id, network: { ipv4 = '' } } = sandbox
  for (const argv of [['httpd', '-f', '-p', String(filePort), '-h', '/www'], ['node', '/network-page.ts', String(pagePort)]]) await daemon.request('POST', `/v1/sandboxes/${id}/execs`, 201, { argv, detach: true })
  const token = (await readFile(join(daemon.stateDir, 'admin.token'), 'latin1')).trim()
  const headers = { authorization: `Bearer ${token}` }
  const urls = (port: number, path: string) => [`http://${ipv4}:${port}/${path}`, `http://127.0.0.1:${apiPort}/v1/sandboxes/${id}/ports/${port}/${path}`] as const
  const inHost = async (...argv: string[]) => (await mustRun('nsenter', [`--net=/run/netns/${places.host}`, ...argv])).stdout
  const curl = ['curl', '--silent', '--show-error', '--fail', '--retry', '50', '--retry-connrefused', '--retry-delay', '0', '--output', '/dev/null', '--header', `authorization: Bearer ${token}`, '--write-out', '%{size_download} %{speed_download}']
  await inHost(...curl, urls(pagePort, '')[0])
  const speeds: [number[], number[]] = [[], []]
  for (let round = -1; round < n; round++) {
    for (const index of round % 2 === 0 ? [0, 1] as const : [1, 0] as const) {
      signal.throwIfAborted()
      const [bytes, bytesPerSecond] = (await inHost(...curl, urls(filePort, 'large')[index])).split(' ').map(Number)
      mustBe('the size of what was downloaded', bytes, largeFileMebibytes * 1024 ** 2)
      if (round >= 0) speeds[index].push((bytesPerSecond ?? NaN) / 1e6)
    }
  }
  const task = { targets: urls(pagePort, '').map((url, index) => ({ url, headers: index === 0 ? {} : headers })), n: n * 20 }
  const client = new URL('./network-client.ts', import.meta.url).pathname
  const [direct = [], previewed = []] = JSON.parse(await inHost(node, client, 'http', JSON.stringify(task))) as number[][]
  await daemon.remove(id)
  return [
    { claim: 'download by the preview proxy', unit: 'MB/s', ours: speeds[1], other: { name: 'by the address of the sandbox', values: speeds[0] }, target: atLeastRatio(0.5) },
    { claim: 'small page by the preview proxy', unit: 'ms', ours: previewed, other: { name: 'by the address of the sandbox', values: direct } },
    { claim: 'small page, time that the preview proxy adds', unit: 'ms', ours: previewed.map((durationMs, index) => durationMs - (direct[index] ?? NaN)), target: atMost(1) },
  ]
}

async function runInside (daemon: BerthDaemon, id: string, argv: string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await daemon.request<ExecResult>('POST', `/v1/sandboxes/${id}/execs?wait=true`, 200, { argv })
  if (exitCode !== 0) throw new Error(`${argv.join(' ')} ended with ${exitCode} in a sandbox: ${stderr}${stdout}`)
  return stdout
}

/** Megabits a second that arrived, as iperf3 says. */
function readSpeed (text: string): number {
  return (JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } }).end.sum_received.bits_per_second / 1e6
}
