/** Pools of a fleet over REST: what their workers have, and what waits for them. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { errorResponses } from '../routes/http-errors.ts'
import { ref } from '../schemas/components.ts'
import { FleetPoolList, type FleetPool } from '../schemas/fleet-gateway.ts'
import type { PoolCounts, Room, TaskQueue } from '../services/tasks/task-queue.ts'
import { principalOf } from './fleet-authentication.ts'
import type { WorkerRecord, Workers } from './worker-record.ts'
import { statusOf } from './worker-routes.ts'

export interface PoolRouteOptions {
  workers: Pick<Workers, 'list'>
  queue: Pick<TaskQueue, 'stats'>
}

export const poolRoutes: FastifyPluginAsyncTypebox<PoolRouteOptions> = async (app, { workers, queue }) => {
  app.get('/pools', {
    schema: {
      operationId: 'listPools',
      summary: 'List the pools: their workers, room and queues',
      tags: ['pools'],
      response: { 200: ref(FleetPoolList, { description: 'All pools that have workers or tasks' }), ...errorResponses() },
    },
  }, async request => {
    const { pools } = principalOf(request)
    const [known, counts] = await Promise.all([workers.list(pools ? { pools } : {}), queue.stats()])
    const byPool = Map.groupBy(known, ({ pool }) => pool)
    const names = new Set([...byPool.keys(), ...counts.map(({ pool }) => pool)])
    const visible = [...names].filter(name => pools === undefined || pools.includes(name)).sort()
    return { items: visible.map(name => describePool(name, byPool.get(name) ?? [], counts.find(({ pool }) => pool === name))) }
  })
}

function describePool (pool: string, workers: readonly WorkerRecord[], counts: PoolCounts | undefined): FleetPool {
  const here = { available: 0, draining: 0, lost: 0 }
  for (const worker of workers) here[statusOf(worker)]++
  const { delayed = 0, pending = 0, scheduled = 0, running = 0, deadLetters = 0, oldestPendingAt } = counts ?? {}
  return {
    pool,
    workers: here,
    capacity: sum(workers.filter(({ isLost }) => !isLost).map(({ capacity }) => capacity)),
    free: sum(workers.filter(worker => statusOf(worker) === 'available').map(({ free }) => free)),
    delayed,
    pending,
    scheduled,
    running,
    deadLetters,
    ...oldestPendingAt === undefined ? {} : { oldestPendingMs: Math.max(0, Math.round(Date.now() - oldestPendingAt)) },
  }
}

function sum (rooms: readonly Room[]): Room {
  const total = { cpuMillis: 0, memoryBytes: 0 }
  for (const { cpuMillis, memoryBytes } of rooms) {
    total.cpuMillis += cpuMillis
    total.memoryBytes += memoryBytes
  }
  return total
}
