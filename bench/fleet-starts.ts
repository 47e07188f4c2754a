/** From the wish for a task to the moment at which its host begins to make the sandbox: by way of a gateway and Redis, and on the host itself. */
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Task } from '../src/schemas/task.ts'
import { deliveryId } from '../src/services/tasks/delivery-id.ts'
import { RedisServer } from '../test/support/redis-server.ts'
import { TestGateway } from '../test/support/test-gateway.ts'
import { BenchHost, type Start } from './bench-host.ts'
import { atMost } from './claims.ts'
import type { FleetBench } from './fleet.ts'
import { median, monotonicMs, quantile } from './statistics.ts'
import { taskLike } from './tasks-queue.ts'
import type { TaskOutcome } from './tasks.ts'

const starts = 200
const warmUpStarts = 20
/** Everybody is asleep when the next one comes. */
const pauseMs = 20

export async function measureStarts ({ dir, teardown, signal }: FleetBench): Promise<TaskOutcome> {
  const redis = await RedisServer.start(teardown, { args: ['--appendfsync', 'everysec'] })
  const gateway = await TestGateway.start(teardown, { redisUrl: redis.url })
  await gateway.ready()
  const host = await BenchHost.start({ dir: join(dir, 'host'), hostId: 'hst_bench', redisUrl: redis.url, pool: 'bench' })
  teardown.after(() => host.close())
  const { retry: _retry, requests: _requests, ...body } = specOf(0)
  const byGateway = async (): Promise<Start> => {
    const askedMs = monotonicMs()
    const { status, body: task, text } = await gateway.request<Task>('POST', '/v1/tasks', body)
    const answeredMs = monotonicMs()
    if (status !== 201) throw new Error(`the gateway answered ${status}: ${text}`)
    const begunMs = await host.begun(deliveryId({ taskId: task.id, fence: 1 }))
    return { askedMs: begunMs - askedMs, answeredMs: begunMs - answeredMs }
  }
  const samples = { fleet: [] as Start[], local: [] as Start[] }
  for (let index = -warmUpStarts; index < starts; index++) {
    signal.throwIfAborted()
    const measure = { fleet: byGateway, local: () => host.startByItself(specOf(0)) }
    for (const name of index % 2 === 0 ? ['fleet', 'local'] as const : ['local', 'fleet'] as const) {
      await delay(pauseMs * (0.5 + Math.random()))
      const start = await measure[name]()
      if (index >= 0) samples[name].push(start)
    }
  }
  return toOutcome(samples)
}

function toOutcome ({ fleet, local }: { fleet: Start[], local: Start[] }): TaskOutcome {
  const of = (list: readonly Start[], since: keyof Start) => list.map(start => start[since])
  const added = fleet.map((start, index) => start.askedMs - local[index]!.askedMs)
  const tail = quantile(of(fleet, 'askedMs'), 0.99)
  return {
    claims: [
      { claim: 'task → its sandbox is begun, added by gateway and Redis', unit: 'ms', ours: added, target: atMost(10) },
      { claim: 'task → its sandbox is begun', unit: 'ms', ours: of(fleet, 'askedMs'), other: { name: 'the queue of the host alone', values: of(local, 'askedMs') } },
      { claim: 'answer to the POST → its sandbox is begun', unit: 'ms', ours: of(fleet, 'answeredMs'), other: { name: 'the queue of the host alone', values: of(local, 'answeredMs') } },
    ],
    notes: [
      `start: the host is the same for both and makes nothing of a sandbox; a task of the fleet is a POST to the gateway, one of the host a call within its process; by way of the gateway 99 of 100 were begun within ${tail.toFixed(1)} ms (half within ${median(of(fleet, 'askedMs')).toFixed(1)})`,
    ],
  }
}

function specOf (index: number) {
  return { ...taskLike(index), pool: 'bench', entrypoint: ['fake', '1', '0'], requests: { cpuMillis: 100, memoryBytes: 64 * 1024 ** 2 } }
}
