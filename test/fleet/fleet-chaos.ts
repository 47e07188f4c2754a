/**
 * A fleet under everything: its processes are killed at random, Redis among them, and its nodes parted from each other, while tasks are
 * submitted, run and cancelled. By hand: `bin/node24 test/fleet/run.ts chaos`.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { TaskRecord } from '../../src/services/tasks/task-record.ts'
import { pick, seededRandom, type Random } from '../kill-loop/random.ts'
import type { Teardown } from '../support/test-daemon.ts'
import { fakeEntrypoint } from './fake-sandboxes.ts'
import { check, readStarts, type Expectation, type Verdict } from './fleet-checks.ts'
import type { Order } from './fleet-client.ts'
import { FleetNodes } from './fleet-nodes.ts'
import { FleetWorld } from './fleet-world.ts'

export interface ChaosOptions {
  seed: number
  tasks: number
  /** Of them, run by gVisor. */
  realTasks: number
  /** How long processes are killed and nodes parted, in milliseconds. */
  chaosMs: number
  leaseMs?: number
  onEvent?: (text: string) => void
}

export interface ChaosResult extends Verdict {
  kills: Record<string, number>
  partitions: number
  durationMs: number
}

const gateways = ['gateway1', 'gateway2', 'gateway3']
const fakeHosts = ['fake1', 'fake2', 'fake3', 'fake4', 'fake5', 'fake6']
const realHosts = ['real1', 'real2']
const settledWithinMs = 120_000

export async function runFleetChaos (t: Teardown, { seed, tasks, realTasks, chaosMs, leaseMs = 4000, onEvent = () => {} }: ChaosOptions): Promise<ChaosResult> {
  const startedAt = performance.now()
  const random = seededRandom(seed)
  const parts = newestFirst(t)
  const dir = await mkdtemp(join(tmpdir(), 'berth-fleet-'))
  parts.after(() => rm(dir, { recursive: true, force: true }))
  const world = await FleetWorld.make(parts, ['redis', 'client', ...gateways, ...fakeHosts, ...realHosts])
  const nodes = await FleetNodes.start(parts, { world, dir, gateways, fakeHosts, realHosts, leaseMs })
  const { orders, expectations } = makeOrders(random, { tasks, realTasks })
  const submitting = nodes.client(['submit', nodes.tokenFile, nodes.urls.join(',')], orders.map(order => `${JSON.stringify(order)}\n`).join(''))
  submitting.catch(() => {})
  const { kills, partitions } = await disturb({ world, nodes, random, chaosMs, leaseMs, onEvent })
  onEvent('everything is joined again')
  const expected = new Map<string, Expectation>()
  for (const line of await submitting) {
    const { key, id } = JSON.parse(line) as { key: string, id: string }
    expected.set(id, expectations.get(key)!)
  }
  onEvent(`${expected.size} tasks were taken`)
  const records = await untilSettled(nodes, onEvent)
  const verdict = check(expected, records, await readStarts(nodes, fakeHosts))
  return { ...verdict, kills, partitions, durationMs: performance.now() - startedAt }
}

/** What stands on something else is released before it: processes before their network. */
function newestFirst (t: Teardown): Teardown {
  const releases: Array<() => Promise<void>> = []
  t.after(async () => { for (const release of releases.reverse()) await release() })
  return { after: release => { releases.push(release) } }
}

function makeOrders (random: Random, { tasks, realTasks }: { tasks: number, realTasks: number }): { orders: Order[], expectations: Map<string, Expectation> } {
  const expectations = new Map<string, Expectation>()
  const orders = Array.from({ length: tasks }, (_, index): Order => {
    const key = `order-${index}`
    // Spread over the whole run.
    const isReal = Math.floor((index + 1) * realTasks / tasks) > Math.floor(index * realTasks / tasks)
    const draw = between(random, 0, 99)
    const exitCode = draw < 15 ? 1 + draw : 0
    const isLong = draw >= 90
    const isCancelled = draw >= 86 && draw < 90
    const ms = isLong ? between(random, 2000, 7000) : between(random, 20, 400)
    expectations.set(key, { exitCode, isCancelled })
    return {
      key,
      body: {
        image: 'berth/base',
        pool: isReal ? 'real' : 'fake',
        entrypoint: isReal ? ['sh', '-c', `sleep ${ms / 1000}; exit ${exitCode}`] : fakeEntrypoint(ms, exitCode),
        resources: { cpuMillis: 100, memoryBytes: 64 * 1024 ** 2 },
        labels: { tenant: `t${index % 5}` },
        priority: index % 7 === 0 ? 5 : 0,
      },
      ...isCancelled && { cancelAfterMs: between(random, 0, 300) },
    }
  })
  return { orders, expectations }
}

const between = (random: Random, least: number, most: number): number => least + Math.floor(random() * (most - least + 1))

interface Disturbance {
  world: FleetWorld
  nodes: FleetNodes
  random: Random
  chaosMs: number
  leaseMs: number
  onEvent: (text: string) => void
}

async function disturb ({ world, nodes, random, chaosMs, leaseMs, onEvent }: Disturbance): Promise<{ kills: Record<string, number>, partitions: number }> {
  const kills: Record<string, number> = {}
  const away = new Set<string>()
  const mending: Array<Promise<void>> = []
  let partitions = 0
  const kill = async (name: string, awayMs: number) => {
    if (away.has(name)) return
    away.add(name)
    const kind = name.replace(/\d+$/, '')
    kills[kind] = (kills[kind] ?? 0) + 1
    onEvent(`${name} is killed, for ${awayMs} ms`)
    await nodes.find(name).kill()
    await delay(awayMs)
    await nodes.find(name).start()
    away.delete(name)
  }
  const part = async (a: string, b: string, ms: number) => {
    if (a === b) return
    partitions++
    onEvent(`${a} and ${b} are parted for ${ms} ms`)
    await world.part(a, b)
    await delay(ms)
    await world.join(a, b)
  }
  const everyone = [...gateways, ...fakeHosts, ...realHosts]
  const begin = (work: Promise<void>) => {
    // It is thrown when all of them are waited for.
    work.catch(() => {})
    mending.push(work)
  }
  for (const until = performance.now() + chaosMs; performance.now() < until; await delay(between(random, 200, 900))) {
    const draw = between(random, 0, 99)
    if (draw < 15) begin(kill(pick(random, gateways), between(random, 0, 3000)))
    else if (draw < 40) begin(kill(pick(random, fakeHosts), between(random, 0, 2 * leaseMs)))
    else if (draw < 47) begin(kill(pick(random, realHosts), between(random, 0, 2000)))
    else if (draw < 55) begin(kill('redis', between(random, 0, 3000)))
    else begin(part(pick(random, everyone), pick(random, draw < 85 ? ['redis'] : gateways), between(random, 200, 2 * leaseMs)))
  }
  await Promise.all(mending)
  await world.joinAll()
  return { kills, partitions }
}

async function untilSettled (nodes: FleetNodes, onEvent: (text: string) => void): Promise<TaskRecord[]> {
  for (const until = Date.now() + settledWithinMs; ; await delay(1000)) {
    const records = (await nodes.client(['audit', nodes.redisUrl])).map(line => JSON.parse(line) as TaskRecord)
    const open = records.filter(({ endedAt }) => endedAt === undefined)
    if (open.length === 0 || Date.now() > until) return records
    onEvent(`${open.length} tasks are not settled`)
  }
}
