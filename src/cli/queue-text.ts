import type { QueueStatus } from '../schemas/task.ts'
import { formatTable } from './table.ts'
import { describeSize, describeSpan } from './units.ts'

const reasons: Record<NonNullable<QueueStatus['heldBack']>, string> = {
  memory_pressure: 'the memory of the host is under pressure',
  memory_low: 'the host has little memory left',
  disk_low: 'the host has little disk left',
  stopping: 'the daemon is ending',
}

/** The queue for people. */
export function formatQueue ({ pools, capacity, free, heldBack }: QueueStatus): string {
  const rows = pools.map(pool => [
    pool.pool + (pool.isServed ? '' : ' (not served here)'),
    ...[pool.delayed, pool.pending, pool.scheduled, pool.running, pool.deadLetters].map(String),
    pool.oldestPendingMs === undefined ? '-' : describeSpan(pool.oldestPendingMs),
  ])
  const cores = (millis: number) => String(millis / 1000)
  return formatTable(['POOL', 'DELAYED', 'PENDING', 'SCHEDULED', 'RUNNING', 'DEAD LETTERS', 'OLDEST WAITS'], rows) +
    `\nFree: ${cores(free.cpuMillis)} of ${cores(capacity.cpuMillis)} cores, ${describeSize(free.memoryBytes)} of ${describeSize(capacity.memoryBytes)}\n` +
    (heldBack ? `Nothing is begun at the moment: ${reasons[heldBack]}\n` : '')
}
