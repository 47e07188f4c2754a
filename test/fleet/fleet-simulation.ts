/**
 * A large fleet: one real gateway, one real Redis, and workers without sandboxes (simulated-worker.ts) in a few processes. By hand:
 * `bin/node24 test/fleet/run.ts simulate`.
 *
 * Workers of a process share the connection for commands; each has its own for news, its own to the gateway, its own registration.
 */
import type { FleetPoolList } from '../../src/schemas/fleet-gateway.ts'
import type { Task } from '../../src/schemas/task.ts'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import type { TaskRecord } from '../../src/services/tasks/task-record.ts'
import { RedisServer } from '../support/redis-server.ts'
import type { Teardown } from '../support/test-daemon.ts'
import { TestGateway } from '../support/test-gateway.ts'
import { fakeEntrypoint } from './fake-sandboxes.ts'
import { ProcessWatch, type ProcessFigures } from './process-watch.ts'
import { taskRequests, type WorkerFigures } from './simulated-worker.ts'
import { WorkersProcess } from './workers-process.ts'

export interface SimulationOptions {
  workers: number
  tasks: number
  /** In which the workers are. */
  processes?: number
  slots?: number
  taskMs?: number
  leaseMs?: number
  /** Tasks of one POST. */
  batch?: number
  /** Batches under way at once. */
  atOnce?: number
  /** Tasks a second that are submitted; absent: as many as can be. */
  rate?: number
  onEvent?: (text: string) => void
}

export interface SimulationResult {
  /** What is not as it must be. */
  broken: string[]
  settled: number
  redelivered: number
  tasksPerSecond: number
  registeredMs: number
  /** Milliseconds, in the order in which they happened in each process. */
  waitsMs: number[]
  claimsMs: number[]
  emptyClaimsMs: number[]
  heartbeatsMs: number[]
  submitsMs: number[]
  failures: number
  missedHeartbeats: number
  lostWorkers: number
  /** Since all workers belong to the fleet until it had nothing more to do. */
  gateway: ProcessFigures
  redis: ProcessFigures
  redisMemoryBytes: number
}

const pool = 'simulated'
const doneWithinMs = 1_800_000
const lookEveryMs = 5000

export async function runFleetSimulation (t: Teardown, options: SimulationOptions): Promise<SimulationResult> {
  const { workers, tasks, processes = 2, slots = 4, taskMs = 50, leaseMs = 30_000, onEvent = () => {} } = options
  const redis = await RedisServer.start(t, { args: ['--appendfsync', 'everysec'] })
  const gateway = await TestGateway.start(t, { redisUrl: redis.url })
  await gateway.ready()
  const names = Array.from({ length: workers }, (_, index) => `hst_simulated${index}`)
  const startedMs = performance.now()
  const crowd = Array.from({ length: processes }, (_, index) => new WorkersProcess(t, {
    names: names.filter((_, at) => at % processes === index),
    redisUrl: redis.url,
    pool,
    slots,
    taskMs,
    leaseMs,
    gateway: { target: gateway.grpcTarget, tokenFile: gateway.tokenFile },
  }))
  await Promise.all(crowd.map(one => one.ready()))
  const registeredMs = performance.now() - startedMs
  onEvent(`${workers} workers have registered`)
  const watches = { gateway: new ProcessWatch(t, gateway.pid), redis: new ProcessWatch(t, redis.pid!) }
  const lost = watchWorkers(t, gateway)
  const done = untilSettled(crowd, tasks)
  done.catch(() => {})
  const begunMs = performance.now()
  const { ids, submitsMs } = await submit(gateway, options)
  onEvent(`${ids.size} tasks were taken within ${Math.round(performance.now() - begunMs)} ms`)
  await done
  const durationMs = performance.now() - begunMs
  onEvent(`${tasks} tasks have been run within ${Math.round(durationMs)} ms`)
  const used = { gateway: watches.gateway.stop(), redis: watches.redis.stop() }
  const lostWorkers = Math.max(await lost.stop(), workers - await availableWorkers(gateway))
  const figures = await Promise.all(crowd.map(one => one.finish()))
  const { records, memoryBytes } = await audit(redis.url)
  const all = <Name extends 'claims' | 'emptyClaims' | 'heartbeats' | 'deliveries'>(name: Name): WorkerFigures[Name] => figures.flatMap(one => one[name] as never[]) as WorkerFigures[Name]
  const deliveries = all('deliveries')
  return {
    broken: [...findBroken(ids, deliveries, records), ...lostWorkers > 0 ? [`${lostWorkers} workers were taken for lost`] : []],
    settled: records.filter(({ status }) => status === 'complete').length,
    redelivered: records.filter(({ attempts }) => attempts.length > 1).length,
    tasksPerSecond: tasks / durationMs * 1000,
    registeredMs,
    waitsMs: deliveries.map(([, , waitMs]) => waitMs),
    claimsMs: all('claims'),
    emptyClaimsMs: all('emptyClaims'),
    heartbeatsMs: all('heartbeats'),
    submitsMs,
    failures: sum(figures.map(one => one.failures)),
    missedHeartbeats: sum(figures.map(one => one.missedHeartbeats)),
    lostWorkers,
    ...used,
    redisMemoryBytes: memoryBytes,
  }
}

async function submit (gateway: TestGateway, { tasks, batch = 1000, atOnce = 2, rate }: SimulationOptions): Promise<{ ids: Set<string>, submitsMs: number[] }> {
  const ids = new Set<string>()
  const submitsMs: number[] = []
  const startedMs = performance.now()
  const task = { image: 'berth/base', pool, entrypoint: fakeEntrypoint(0, 0), resources: taskRequests }
  let next = 0
  const runLane = async () => {
    while (next < tasks) {
      const from = next
      const count = Math.min(batch, tasks - from)
      next += count
      if (rate !== undefined) await pass(from / rate * 1000 - (performance.now() - startedMs))
      const sentMs = performance.now()
      const body = { tasks: Array.from({ length: count }, (_, index) => ({ ...task, labels: { tenant: `t${(from + index) % 10}`, number: String(from + index) } })) }
      const answer = await gateway.request<{ items: Task[] }>('POST', '/v1/tasks', body)
      if (answer.status !== 201) throw new Error(`a batch of tasks was answered with ${answer.status}: ${answer.text}`)
      submitsMs.push(performance.now() - sentMs)
      for (const { id } of answer.body.items) ids.add(id)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, runLane))
  return { ids, submitsMs }
}

/** @throws Error when it takes too long. */
function untilSettled (crowd: readonly WorkersProcess[], tasks: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  const timer = setTimeout(() => { reject(new Error(`only ${sum(crowd.map(one => one.settled))} of ${tasks} tasks were settled within ${doneWithinMs} ms`)) }, doneWithinMs)
  for (const one of crowd) {
    one.onSettled(() => {
      if (sum(crowd.map(({ settled }) => settled)) < tasks) return
      clearTimeout(timer)
      resolve()
    })
  }
  return promise
}

async function availableWorkers (gateway: TestGateway): Promise<number> {
  const { body } = await gateway.request<FleetPoolList>('GET', '/v1/pools')
  return body.items.find(one => one.pool === pool)?.workers.available ?? 0
}

/** Looks from time to time at how many workers the gateway takes for lost; `stop` answers the most there were. */
function watchWorkers (t: Teardown, gateway: TestGateway): { stop: () => Promise<number> } {
  let most = 0
  let looking = Promise.resolve()
  const look = async () => {
    const { body } = await gateway.request<FleetPoolList>('GET', '/v1/pools')
    most = Math.max(most, body.items.find(one => one.pool === pool)?.workers.lost ?? 0)
  }
  const timer = setInterval(() => { looking = looking.then(look).catch(() => {}) }, lookEveryMs)
  const stop = async () => {
    clearInterval(timer)
    await looking
    return most
  }
  t.after(async () => { await stop() })
  return { stop }
}

async function audit (url: string): Promise<{ records: TaskRecord[], memoryBytes: number }> {
  const redis = await openRedis({ url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  const { table, close } = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [] })
  const memory = await redis.run(client => client.info('memory'))
  const records: TaskRecord[] = []
  for (let cursor: string | undefined; ;) {
    const page = await table.list({ limit: 1000, ...cursor !== undefined && { cursor } })
    records.push(...page.records)
    if (page.nextCursor === undefined) break
    cursor = page.nextCursor
  }
  await close()
  await redis.close()
  return { records, memoryBytes: Number(/used_memory_peak:(\d+)/.exec(memory)![1]) }
}

function findBroken (ids: ReadonlySet<string>, deliveries: WorkerFigures['deliveries'], records: readonly TaskRecord[]): string[] {
  const broken: string[] = []
  const settled = new Map<string, number>()
  for (const [id] of deliveries) settled.set(id, (settled.get(id) ?? 0) + 1)
  for (const [id, count] of settled) if (count !== 1) broken.push(`${id} was settled ${count} times`)
  const known = new Set(records.map(({ id }) => id))
  for (const id of ids) if (!known.has(id)) broken.push(`${id} is lost`)
  for (const { id, status } of records) {
    if (!ids.has(id)) broken.push(`${id} was queued by nobody`)
    if (!settled.has(id)) broken.push(`${id} was not settled`)
    if (status !== 'complete') broken.push(`${id} is ${status}`)
  }
  return broken
}

function sum (values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

async function pass (ms: number): Promise<void> {
  if (ms > 0) await new Promise(resolve => { setTimeout(resolve, ms) })
}
