/** What a simulation of a fleet has shown, as a table. */
import { loadavg } from 'node:os'
import { median, quantile } from '../../bench/statistics.ts'
import type { SimulationResult } from './fleet-simulation.ts'

const MiB = 1024 ** 2

export function printSimulation (result: SimulationResult): void {
  const { broken, waitsMs, claimsMs, emptyClaimsMs, heartbeatsMs, submitsMs, gateway, redis } = result
  const tenth = Math.floor(claimsMs.length / 10)
  console.table({
    'tasks settled': result.settled,
    'tasks a second': Math.round(result.tasksPerSecond),
    'delivered more than once': result.redelivered,
    'ms until all were registered': Math.round(result.registeredMs),
    'ms from due until claimed': spread(waitsMs),
    'ms of a claim': spread(claimsMs),
    'ms of a claim, first tenth': spread(claimsMs.slice(0, tenth)),
    'ms of a claim, last tenth': spread(claimsMs.slice(-tenth)),
    'claims, and those in vain': `${claimsMs.length}, ${emptyClaimsMs.length}`,
    'ms of a claim in vain': spread(emptyClaimsMs),
    'ms of a heartbeat': spread(heartbeatsMs),
    'ms of a batch of tasks': spread(submitsMs),
    'heartbeats, and those missed': `${heartbeatsMs.length}, ${result.missedHeartbeats}`,
    'workers taken for lost': result.lostWorkers,
    'calls of the queue that failed': result.failures,
    'gateway: MiB at the most, CPU s': `${Math.round(gateway.peakBytes / MiB)}, ${gateway.cpuSeconds.toFixed(1)}`,
    'Redis: MiB at the most, of data, CPU s': `${Math.round(redis.peakBytes / MiB)}, ${Math.round(result.redisMemoryBytes / MiB)}, ${redis.cpuSeconds.toFixed(1)}`,
    'load of the machine': loadavg().map(load => load.toFixed(1)).join(' '),
    broken: broken.length,
  })
  for (const line of broken.slice(0, 50)) console.log(`BROKEN ${line}`)
}

function spread (values: readonly number[]): string {
  return `p50 ${median(values).toFixed(1)}, p99 ${quantile(values, 0.99).toFixed(1)}`
}
