import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { TaskQueue } from '../services/tasks/task-queue.ts'
import type { Workers } from './worker-record.ts'
import { statusOf } from './worker-routes.ts'

export interface GatewayMetricsOptions {
  workers: Pick<Workers, 'list'>
  queue: Pick<TaskQueue, 'stats'>
  isRedisConnected: () => boolean
}

export interface GatewayMetrics {
  registry: Registry
  observeCall: (method: string, statusName: string, durationMs: number) => void
}

/** Measurements of a gateway, for Prometheus. Those of the fleet are the same at every gateway: ask one, or take the largest. HTTP adds its own. */
export function createGatewayMetrics ({ workers, queue, isRedisConnected }: GatewayMetricsOptions): GatewayMetrics {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  const calls = new Histogram({
    name: 'berth_gateway_grpc_call_duration_seconds',
    help: 'Time to answer a call of a worker',
    labelNames: ['method', 'status'],
    buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers,
  })
  const gauge = (name: string, help: string, labelNames: string[], collect: (own: Gauge) => Promise<void> | void): void => {
    // The registry keeps it; it is computed when it is read. What cannot be known is left out, and breaks nothing else.
    // eslint-disable-next-line no-new
    new Gauge({
      name,
      help,
      labelNames,
      registers,
      async collect () {
        this.reset()
        await Promise.resolve(collect(this)).catch(() => {})
      },
    })
  }
  gauge('berth_gateway_redis_connected', 'Whether Redis is connected', [], own => { own.set(isRedisConnected() ? 1 : 0) })
  gauge('berth_fleet_workers', 'Workers by pool and status', ['pool', 'status'], async own => {
    if (isRedisConnected()) for (const worker of await workers.list()) own.inc({ pool: worker.pool, status: statusOf(worker) })
  })
  gauge('berth_fleet_tasks', 'Tasks in the queue of the fleet by pool and state', ['pool', 'state'], async own => {
    if (!isRedisConnected()) return
    for (const { pool, delayed, pending, scheduled, running, deadLetters } of await queue.stats()) {
      for (const [state, count] of Object.entries({ delayed, pending, scheduled, running, dead_letter: deadLetters })) own.set({ pool, state }, count)
    }
  })
  return {
    registry,
    observeCall: (method, statusName, durationMs) => { calls.observe({ method, status: statusName }, durationMs / 1000) },
  }
}
