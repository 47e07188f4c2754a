/** The queue alone: how many tasks a second are pushed, claimed and settled, each step on disk before it is answered; ours and BullMQ. */
import { Queue, Worker } from 'bullmq'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { randomId } from '../src/lib/id.ts'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { openTaskDatabase } from '../src/services/database.ts'
import type { ClaimRequest } from '../src/services/tasks/task-queue.ts'
import type { TaskSpec } from '../src/services/tasks/task-record.ts'
import { openTaskStore } from '../src/services/tasks/task-store.ts'
import { atLeast } from './claims.ts'
import { RedisServer, type RedisDurability } from './redis-server.ts'
import type { TaskOutcome } from './tasks.ts'

export interface QueueBenchOptions {
  dir: string
  stack: ResourceStack
  signal: AbortSignal
}

const concurrency = 64
const tasksPerRound = 6000
const rounds = 5

/** One round of so many tasks; answers how many a second were pushed, claimed and settled. */
type QueueRound = (count: number) => Promise<number>

export async function measureQueue ({ dir, stack, signal }: QueueBenchOptions): Promise<TaskOutcome> {
  await mkdir(dir, { recursive: true })
  const contestants = {
    ours: openOurs(join(dir, 'tasks.db'), stack),
    always: await openBullMq(join(dir, 'always'), 'always', stack),
    everysec: await openBullMq(join(dir, 'everysec'), 'everysec', stack),
  }
  const names = Object.keys(contestants) as Array<keyof typeof contestants>
  const samples: Record<keyof typeof contestants, number[]> = { ours: [], always: [], everysec: [] }
  for (const name of names) await contestants[name](tasksPerRound / 4)
  for (let round = 0; round < rounds; round++) {
    // The first differs from round to round, so that no one always follows the same other.
    for (const name of [...names.slice(round % names.length), ...names.slice(0, round % names.length)]) {
      signal.throwIfAborted()
      samples[name].push(await contestants[name](tasksPerRound))
    }
  }
  const what = `queue alone, ${concurrency} at once: push, claim and settle`
  return {
    claims: [
      { claim: what, unit: '/s', ours: samples.ours, other: { name: 'BullMQ, Redis with fsync always', values: samples.always }, target: atLeast(3000) },
      { claim: `${what}, against what may lose a second`, unit: '/s', ours: samples.ours, other: { name: 'BullMQ, Redis with fsync everysec', values: samples.everysec } },
    ],
    notes: [`the queue alone has tasks of ${JSON.stringify(taskLike(0)).length} bytes`],
  }
}

/** Each lane pushes a task, claims one, whichever is due, and settles that. */
function openOurs (path: string, stack: ResourceStack): QueueRound {
  const { queue, close } = openTaskStore({ db: openTaskDatabase(path), options: { fairLabel: 'tenant', labelLimits: [] } })
  stack.defer('the queue of tasks', close)
  const plenty = { cpuMillis: 1e9, memoryBytes: 1e15 }
  const request: ClaimRequest = { owner: 'bench', pools: ['default'], limit: 1, leaseMs: 60_000, room: plenty, capacity: plenty }
  return async count => {
    const startedMs = performance.now()
    await inLanes(count, async index => {
      await queue.push([{ id: randomId('tsk'), spec: taskLike(index), delayMs: 0 }])
      const [claim] = await queue.claim(request)
      if (!claim) throw new Error('a task was pushed, and none could be claimed')
      await queue.settle(claim, { status: 'complete', end: { reason: 'exited', at: new Date().toISOString(), exitCode: 0 }, isRetryable: false })
    })
    return count / (performance.now() - startedMs) * 1000
  }
}

/** As it is used: a worker with so much concurrency, and as many who push. Nothing is kept of what has completed. */
async function openBullMq (dir: string, durability: RedisDurability, stack: ResourceStack): Promise<QueueRound> {
  const redis = await stack.acquire(`redis with fsync ${durability}`, () => RedisServer.start(dir, durability), server => server.close())
  const connection = { path: redis.socketPath, maxRetriesPerRequest: null }
  const queue = new Queue('bench', { connection, defaultJobOptions: { removeOnComplete: true } })
  let onCompleted: () => void = () => {}
  const worker = new Worker('bench', async () => null, { connection, concurrency })
  worker.on('completed', () => onCompleted())
  stack.defer(`BullMQ with fsync ${durability}`, async () => {
    await worker.close()
    await queue.close()
  })
  await Promise.all([queue.waitUntilReady(), worker.waitUntilReady()])
  return async count => {
    const completed = Promise.withResolvers<void>()
    let rest = count
    onCompleted = () => { if (--rest === 0) completed.resolve() }
    const startedMs = performance.now()
    await inLanes(count, async index => { await queue.add('task', taskLike(index)) })
    await completed.promise
    return count / (performance.now() - startedMs) * 1000
  }
}

/** Does work so many times, as often at once as there are lanes. */
async function inLanes (count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const runLane = async () => { while (next < count) await work(next++) }
  await Promise.all(Array.from({ length: concurrency }, runLane))
}

/** What is queued: about as much for both. */
export function taskLike (index: number): TaskSpec {
  return {
    image: 'berth/base',
    entrypoint: ['sh', '-c', `echo ${index}`],
    env: { INDEX: String(index) },
    resources: { cpuMillis: 2000, memoryBytes: 2 * 1024 ** 3, pids: 512 },
    requests: { cpuMillis: 500, memoryBytes: 256 * 1024 ** 2 },
    labels: { team: 'bench', index: String(index) },
    pool: 'default',
    priority: 0,
    maxAttempts: 1,
    retry: { backoffMs: 1000, maxBackoffMs: 300_000 },
    outputs: [],
  }
}
