import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import type { PoolCounts } from './task-queue.ts'
import type { TaskRecord } from './task-record.ts'

export interface TaskMetrics {
  /** A task has been claimed, started, or reported on. */
  observe: (task: TaskRecord) => void
}

/** Metrics of tasks. None has a label by task or by what clients call theirs. */
export function createTaskMetrics (registry: Registry, options: { counts: () => Promise<PoolCounts[]> }): TaskMetrics {
  // The registry keeps it; it is computed when it is read.
  // eslint-disable-next-line no-new
  new Gauge({
    name: 'berth_tasks',
    help: 'Tasks that have not ended, by pool and status, and dead letters',
    labelNames: ['pool', 'status'],
    registers: [registry],
    async collect () {
      this.reset()
      for (const { pool, oldestPendingAt: _, deadLetters, ...counts } of await options.counts()) {
        for (const [status, count] of Object.entries({ ...counts, dead_letter: deadLetters })) this.set({ pool, status }, count)
      }
    },
  })
  const attempts = new Counter({
    name: 'berth_task_attempts_total',
    help: 'Attempts of tasks that have ended, by status and reason',
    labelNames: ['status', 'reason'],
    registers: [registry],
  })
  const waits = new Histogram({
    name: 'berth_task_wait_seconds',
    help: 'From when a task could have been begun until it was claimed',
    buckets: [0.01, 0.1, 0.5, 1, 5, 30, 120, 600, 3600],
    registers: [registry],
  })
  return {
    observe (task) {
      const last = task.attempts.at(-1)
      if (!last) return
      if (last.status === 'scheduled') waits.observe(Math.max(0, Date.parse(last.claimedAt) - Date.parse(task.availableAt)) / 1000)
      else if (last.endedAt !== undefined) attempts.inc({ status: last.status, reason: last.end?.reason ?? '' })
    },
  }
}
