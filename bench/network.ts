/** Networks of sandboxes: what they cost a create, how they grow with their number, how fast bytes go. */
import { randomBytes } from 'node:crypto'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { findProgram } from '../src/host/command.ts'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { BerthDaemon } from './berth-daemon.ts'
import { runChild } from './child.ts'
import { daemonPoolSize, measureCreates, measureReadiness } from './network-daemon.ts'
import { measurePodmanNetwork } from './network-peers.ts'
import { makeLargeFile, makeNetworkImage, NetworkPlaces, node, outside } from './network-places.ts'
import { atMost, type Claim } from './claims.ts'
import type { SlotFigures, SlotTask } from './network-slots.ts'
import { measurePreview, measureTraffic } from './network-traffic.ts'
import { median } from './statistics.ts'

export interface NetworkBenchOptions {
  rounds: number
  dir: string
  stack: ResourceStack
  /** `podman` is left out where it is not installed. */
  programs: { runsc: string, podman: string | undefined }
  signal: AbortSignal
  progress: (text: string) => void
}

const apiPort = 8070
const manyPresent = [0, 200, 1000]
const slotsWithinMs = 10 * 60_000
/** Rounds that take seconds each. */
const slowRounds = 5

export async function measureNetworks (options: NetworkBenchOptions): Promise<Claim[]> {
  const { rounds, dir, stack, programs, signal, progress } = options
  if (!findProgram('iperf3')) throw new Error('networks are measured with iperf3; run: npm run setup -- --bench')
  const [served, imageDir] = [join(dir, 'served'), join(dir, 'image')]
  await mkdir(dir, { recursive: true })
  await makeLargeFile(join(served, 'large'))
  await makeNetworkImage(imageDir)
  const places = await NetworkPlaces.open(stack, served)
  progress('network: slots')
  const slots = await measureSlots({ places, dir: join(dir, 'slots'), stack, n: rounds })
  const daemon = new BerthDaemon(join(dir, 'daemon'), { BERTH_NETWORK_POOL_SIZE: String(daemonPoolSize), BERTH_NETWORK_RESOLVERS: outside.dns }, {
    command: places.enter(places.host),
    args: ['--configure-host', '--listen', `127.0.0.1:${apiPort}`],
  })
  stack.defer('the daemon with networks', () => daemon.close())
  await daemon.start()
  progress('network: creates and policies')
  const creates = await measureCreates(daemon, { n: rounds, signal })
  progress('network: traffic')
  const traffic = { daemon, places, imageDir, dir, runsc: programs.runsc, stack, n: Math.min(rounds, slowRounds), signal }
  const speeds = await measureTraffic(traffic)
  progress('network: previews')
  const previews = await measurePreview(traffic, apiPort)
  progress('network: start of the daemon')
  const readiness = await measureReadiness(daemon, Math.min(rounds, slowRounds))
  const peers = programs.podman ? await measurePodmanNetwork({ podman: programs.podman, runsc: programs.runsc, places, dir: join(dir, 'podman'), n: rounds, stack }) : []
  if (!programs.podman) progress('podman: not installed')
  const [alone] = creates
  return [
    ...creates,
    ...alone && peers.length > 0 ? [{ claim: 'network of a create, against podman', unit: 'ms', ours: alone.ours, other: { name: 'podman run, bridge less none', values: peers } } as const] : [],
    ...slots,
    ...speeds,
    ...previews,
    ...readiness,
  ]
}

/** In a process of its own, since it works in the namespace it is started in. */
async function measureSlots ({ places, dir, stack, n }: { places: NetworkPlaces, dir: string, stack: ResourceStack, n: number }): Promise<Claim[]> {
  await mkdir(dir, { recursive: true })
  const task: SlotTask = { hostId: randomBytes(8).toString('hex'), dir, resolver: outside.dns, present: manyPresent, n }
  const [program = '', ...args] = [...places.enter(places.host), node]
  const run = async (part: Partial<SlotTask>) => {
    const end = await runChild(program, [...args, new URL('./network-slots.ts', import.meta.url).pathname, JSON.stringify({ ...task, ...part })], { timeout: slotsWithinMs, stdio: ['ignore', 'pipe', 'inherit'] })
    if (end.exitCode !== 0) throw new Error(`the networks without sandboxes ended with ${end.exitCode}`)
    return end.stdout
  }
  stack.defer('networks without sandboxes', async () => { await run({ isReclaiming: true }) })
  const direct = await askDirectly(places, n)
  return claimsOf(JSON.parse(await run({})) as SlotFigures[], direct)
}

/** The name server outside, without ours in between. */
async function askDirectly (places: NetworkPlaces, n: number): Promise<number[]> {
  const names = Array.from({ length: n * 4 }, (_, i) => `direct${i}.example.test`)
  const [program = '', ...args] = [...places.enter(places.host), node, new URL('./network-client.ts', import.meta.url).pathname]
  const { exitCode, stdout, stderr } = await runChild(program, [...args, 'dns', JSON.stringify({ server: outside.dns, names })])
  if (exitCode !== 0) throw new Error(`the name server outside did not answer: ${stderr}`)
  return JSON.parse(stdout) as number[]
}

function claimsOf (figures: readonly SlotFigures[], direct: number[]): Claim[] {
  const none = figures[0]
  return figures.flatMap(figure => {
    const { present } = figure
    const claims: Claim[] = []
    // How a figure grows with the number of networks is its ratio.
    const add = (claim: string, pick: (figure: SlotFigures) => number[] | undefined, rest: Partial<Claim> = {}) => {
      const values = none && figure !== none ? pick(none) : undefined
      claims.push({ claim: `${claim}, ${present} present`, unit: 'ms', ours: pick(figure) ?? [], ...values && values.length > 0 && { other: { name: '0 present', values } }, ...rest })
    }
    add('network from the pool, alone', ({ setup }) => setup, { target: atMost(12) })
    add('network from the pool, 20 at once', ({ setupTogether }) => setupTogether, { target: atMost(20) })
    add('the same with rules of 18 entries', ({ setupRulesTogether }) => setupRulesTogether)
    for (const name of Object.keys(figure.change)) add(`policy, ${name}`, ({ change }) => change[name], { target: atMost(25) })
    add('end of a network', ({ tearDown }) => tearDown)
    add('end of 20 networks', ({ tearDownTogether }) => tearDownTogether)
    add('end of 20 networks with rules', ({ tearDownRulesTogether }) => tearDownRulesTogether)
    add('reconcile', ({ reconcile }) => reconcile, { ...present === 200 && { target: atMost(1000) } })
    add('reconcile → first policy in force', ({ reconcileAndServe }) => reconcileAndServe)
    add('name, asked of the name server outside', ({ dns }) => dns.names, { other: { name: 'asked directly', values: direct } })
    add('time that is added to a name, against the median of asking directly', ({ dns }) => dns.names.map(durationMs => durationMs - median(direct)))
    add('name, known', ({ dns }) => dns.known)
    claims.push({ claim: `memory of the network server, RSS, ${present} present`, unit: 'MB', ours: [figure.serverRss / 1024] })
    return claims
  })
}
