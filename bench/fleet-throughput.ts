/** How many tasks a second go through one gateway: submitted, claimed, started and settled; and through BullMQ, by as many processes. */
import { Queue } from 'bullmq'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import type { FleetPoolList } from '../src/schemas/fleet-gateway.ts'
import { RedisServer } from '../test/support/redis-server.ts'
import type { Teardown } from '../test/support/test-daemon.ts'
import { TestGateway } from '../test/support/test-gateway.ts'
import { WorkersProcess } from '../test/fleet/workers-process.ts'
import { BenchHost } from './bench-host.ts'
import { endChild } from './child.ts'
import { atLeast } from './claims.ts'
import { bullMqName, type BullMqTask } from './fleet-bullmq.ts'
import type { FleetBench } from './fleet.ts'
import { taskLike } from './tasks-queue.ts'
import type { TaskOutcome } from './tasks.ts'

const processes = 2
const concurrency = 32
const tasksPerRound = 6000
const maxRounds = 5
const pool = 'bench'
const hostTasksPerRound = 3000
const lookEveryMs = 20

/** How tasks are submitted: so many of one call, by so many callers at once. */
interface Way {
  batch: number
  atOnce: number
}

const ways = { batches: { batch: 100, atOnce: 4 }, singly: { batch: 1, atOnce: 64 } } satisfies Record<string, Way>

/** One round of so many tasks; answers how many a second were submitted, run and settled. */
type FleetRound = (count: number, way: Way) => Promise<number>

export async function measureFleetThroughput (bench: FleetBench): Promise<TaskOutcome> {
  const contestants = { ours: await openOurs(bench), other: await openBullMq(bench) }
  const hosts = await openHosts(bench)
  const byHosts: number[] = []
  const samples = { batches: { ours: [] as number[], other: [] as number[] }, singly: { ours: [] as number[], other: [] as number[] } }
  for (const name of ['ours', 'other'] as const) await contestants[name](tasksPerRound / 2, ways.batches)
  await hosts(hostTasksPerRound / 2, ways.batches)
  for (let round = 0; round < Math.min(bench.rounds, maxRounds); round++) {
    for (const way of ['batches', 'singly'] as const) {
      for (const name of round % 2 === 0 ? ['ours', 'other'] as const : ['other', 'ours'] as const) {
        bench.signal.throwIfAborted()
        samples[way][name].push(await contestants[name](tasksPerRound, ways[way]))
      }
    }
    byHosts.push(await hosts(hostTasksPerRound, ways.batches))
  }
  const claimOf = (way: 'batches' | 'singly', how: string) => ({
    claim: `tasks through one gateway, ${how}: submit, claim and settle`, unit: '/s' as const, ours: samples[way].ours, other: { name: 'BullMQ, without a gateway', values: samples[way].other },
  })
  return {
    claims: [
      { ...claimOf('batches', `${ways.batches.batch} by a call`), target: atLeast(2000) },
      claimOf('singly', 'one by a call'),
      { claim: `the same, ${ways.batches.batch} by a call, run by ${processes} hosts with all that a daemon keeps of tasks`, unit: '/s', ours: byHosts },
    ],
    notes: [
      `rate: tasks of ${JSON.stringify(taskLike(0)).length} bytes that are nothing, ${tasksPerRound} a round, run by ${processes} processes of ${concurrency} at once for both, on a Redis for each with fsync everysec; ` +
      'ours are POSTed to the gateway, claimed, started and settled by the queue of the fleet, and kept; those of BullMQ are added to Redis directly and deleted as they complete; hosts take deliveries into their own queues on disk, schedule them there, make nothing of a sandbox, and report',
    ],
  }
}

async function openOurs ({ teardown }: FleetBench): Promise<FleetRound> {
  const { redisUrl, gateway } = await openGateway(teardown)
  const crowd = Array.from({ length: processes }, (_, index) => new WorkersProcess(teardown, {
    names: [`hst_bench${index}`],
    redisUrl,
    pool,
    slots: concurrency,
    taskMs: 0,
    leaseMs: 30_000,
    gateway: { target: gateway.grpcTarget, tokenFile: gateway.tokenFile },
  }))
  await Promise.all(crowd.map(one => one.ready()))
  return makeRound(() => crowd.reduce((sum, { settled }) => sum + settled, 0), onMore => { for (const one of crowd) one.onSettled(onMore) }, submitterOf(gateway, teardown))
}

/** With their own queues on disk. They say nothing of what is settled: the gateway is asked. */
async function openHosts ({ dir, teardown }: FleetBench): Promise<FleetRound> {
  const { redisUrl, gateway } = await openGateway(teardown)
  for (let index = 0; index < processes; index++) {
    const host = await BenchHost.start({ dir: join(dir, `host${index}`), hostId: `hst_bench${index}`, redisUrl, pool })
    teardown.after(() => host.close())
  }
  let submitted = 0
  let settled = 0
  let onMore: () => void = () => {}
  const submit = submitterOf(gateway, teardown)
  let looking: Promise<void> | undefined
  const lookUntilDone = async () => {
    for (let open = Infinity; open > 0; await delay(lookEveryMs)) {
      const { body: { items } } = await gateway.request<FleetPoolList>('GET', '/v1/pools')
      const counts = items.find(one => one.pool === pool)
      open = counts === undefined ? 0 : counts.pending + counts.scheduled + counts.running
      settled = submitted - open
    }
    looking = undefined
    onMore()
  }
  return makeRound(() => settled, listener => { onMore = listener }, async indexes => {
    await submit(indexes)
    submitted += indexes.length
    looking ??= lookUntilDone()
  })
}

async function openGateway (teardown: Teardown): Promise<{ redisUrl: string, gateway: TestGateway }> {
  const { url: redisUrl } = await RedisServer.start(teardown, { args: ['--appendfsync', 'everysec'] })
  const gateway = await TestGateway.start(teardown, { redisUrl })
  await gateway.ready()
  return { redisUrl, gateway }
}

function submitterOf (gateway: TestGateway, teardown: Teardown): (indexes: readonly number[]) => Promise<void> {
  const client = new Pool(gateway.url, { connections: 64, pipelining: 1 })
  teardown.after(() => client.destroy())
  const headers = { authorization: `Bearer ${gateway.token}`, 'content-type': 'application/json' }
  return async indexes => {
    const tasks = indexes.map(bodyOf)
    const answer = await client.request({ method: 'POST', path: '/v1/tasks', headers, body: JSON.stringify(tasks.length === 1 ? tasks[0] : { tasks }) })
    const text = await answer.body.text()
    if (answer.statusCode !== 201) throw new Error(`the gateway answered ${answer.statusCode}: ${text}`)
  }
}

/** As it is used: workers in processes of their own. Nothing is kept of what has completed. */
async function openBullMq ({ teardown }: FleetBench): Promise<FleetRound> {
  const { port } = await RedisServer.start(teardown, { args: ['--appendfsync', 'everysec'] })
  const queue = new Queue(bullMqName, { connection: { host: '127.0.0.1', port, maxRetriesPerRequest: null }, defaultJobOptions: { removeOnComplete: true } })
  teardown.after(() => queue.close())
  await queue.waitUntilReady()
  const completed = new Map<number, number>()
  let onMore: () => void = () => {}
  for (let index = 0; index < processes; index++) {
    const child = fork(new URL('./fleet-bullmq.ts', import.meta.url), [JSON.stringify({ port, concurrency } satisfies BullMqTask)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    teardown.after(() => endChild(child, 'SIGTERM'))
    await once(child, 'message')
    child.on('message', (count: number) => {
      completed.set(index, count)
      onMore()
    })
  }
  const submit = async (indexes: readonly number[]) => {
    const [first] = indexes
    if (indexes.length === 1) await queue.add('task', bodyOf(first!))
    else await queue.addBulk(indexes.map(index => ({ name: 'task', data: bodyOf(index) })))
  }
  return makeRound(() => [...completed.values()].reduce((sum, count) => sum + count, 0), listener => { onMore = listener }, submit)
}

function makeRound (settled: () => number, watch: (onMore: () => void) => void, submit: (indexes: readonly number[]) => Promise<void>): FleetRound {
  return async (count, { batch, atOnce }) => {
    const wanted = settled() + count
    const { promise: done, resolve } = Promise.withResolvers<void>()
    watch(() => { if (settled() >= wanted) resolve() })
    const startedMs = performance.now()
    let next = 0
    const runLane = async () => {
      while (next < count) {
        const from = next
        next = Math.min(count, from + batch)
        await submit(Array.from({ length: next - from }, (_, index) => from + index))
      }
    }
    await Promise.all(Array.from({ length: atOnce }, runLane))
    await done
    return count / (performance.now() - startedMs) * 1000
  }
}

/** What is submitted: the same for both. */
function bodyOf (index: number) {
  const { requests: _requests, retry: _retry, ...task } = taskLike(index)
  return { ...task, pool, entrypoint: ['fake', '0', '0'], resources: { cpuMillis: 100, memoryBytes: 64 * 1024 ** 2 } }
}
