import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { StepTiming } from '../schemas/sandbox.ts'
import type { SandboxManager } from './sandboxes/sandbox-manager.ts'

export interface Metrics {
  registry: Registry
  observeSetUp: (timings: readonly StepTiming[]) => void
  countSandboxes: (sandboxes: SandboxManager) => void
}

/** The daemon's metrics, for Prometheus: its own process, sandboxes by status, set-up steps. HTTP adds its own. */
export function createMetrics (): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const setUp = new Histogram({
    name: 'berth_sandbox_setup_step_seconds',
    help: 'Duration of each set-up step of a sandbox',
    labelNames: ['step'],
    buckets: [0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20, 60],
    registers: [registry],
  })
  return {
    registry,
    observeSetUp (timings) {
      for (const { step, durationMs } of timings) setUp.observe({ step }, durationMs / 1000)
    },
    countSandboxes (sandboxes) {
      // The registry keeps it; it is computed when it is read.
      // eslint-disable-next-line no-new
      new Gauge({
        name: 'berth_sandboxes',
        help: 'Sandboxes by status, without deleted ones',
        labelNames: ['status'],
        registers: [registry],
        collect () {
          this.reset()
          for (const [status, count] of Object.entries(sandboxes.countByStatus())) this.set({ status }, count)
        },
      })
    },
  }
}
