/**
 * A host of a fleet with all that a daemon has of its tasks, and sandboxes that are nothing: `fleet-host.ts JSON`, a FleetHostTask, as a
 * child with a channel. Takes a FleetHostWish for each task that it is to queue by itself; tells of each sandbox as soon as it is asked for.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import pino from 'pino'
import { openTaskDatabase } from '../src/services/database.ts'
import { openFleetQueue } from '../src/services/fleet-queue/fleet-queue.ts'
import { openRedis } from '../src/services/redis/redis-connection.ts'
import { HostRoom } from '../src/services/tasks/host-room.ts'
import type { NewTask } from '../src/services/tasks/task-record.ts'
import { TaskScheduler } from '../src/services/tasks/task-scheduler.ts'
import { openTaskStore } from '../src/services/tasks/task-store.ts'
import { TaskPuller } from '../src/worker/task-puller.ts'
import { FakeSandboxes } from '../test/fleet/fake-sandboxes.ts'
import { monotonicMs } from './statistics.ts'

export interface FleetHostTask {
  dir: string
  hostId: string
  redisUrl: string
  pool: string
}

export type FleetHostWish = NewTask

/** Times by the clock that all processes share. */
export type FleetHostNews = { kind: 'ready' } | { kind: 'queued', id: string, askedMs: number, answeredMs: number } | { kind: 'begun', id: string, atMs: number }

const { dir, hostId, redisUrl, pool } = JSON.parse(process.argv[2] ?? '') as FleetHostTask
const leaseMs = 30_000
mkdirSync(dir, { recursive: true })
const tell = (news: FleetHostNews) => { process.send?.(news) }
const logger = pino({ level: 'warn', base: null }, pino.destination(2))
const store = openTaskStore({ db: openTaskDatabase(join(dir, 'tasks.db')), options: { fairLabel: 'tenant', labelLimits: [] } })
const sandboxes = new FakeSandboxes(join(dir, 'sandboxes.jsonl')).parts
const parts = {
  ...sandboxes,
  createForTask: (...call: Parameters<typeof sandboxes.createForTask>) => {
    tell({ kind: 'begun', id: call[1].id, atMs: monotonicMs() })
    return sandboxes.createForTask(...call)
  },
} as typeof sandboxes
const room = new HostRoom({
  cpuOvercommit: 32,
  reservedMemoryBytes: 0,
  stateDir: dir,
  overheadBytes: 0,
  others: () => [],
  readKernel: async () => ({ availableMemoryBytes: Infinity, memoryPressurePercent: 0, freeDiskBytes: Infinity }),
})
const scheduler = new TaskScheduler({
  queue: store.queue, sandboxes: parts, room, owner: hostId, pools: [pool], leaseMs, maxStarting: 16, startLog: async () => '0:0', onChange: () => {}, logger,
})
const redis = await openRedis({ url: redisUrl, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' }, { logger })
const fleet = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [], pools: [pool] })
const puller = new TaskPuller({
  fleet: fleet.queue, local: store.deliveries, localQueue: store.queue, scheduler, room, owner: hostId, pools: [pool], labels: {}, leaseMs, maxStarting: 16, logger,
})
process.on('message', (task: FleetHostWish) => { void queue(task) })
process.once('disconnect', () => process.exit(0))
await scheduler.adopt()
scheduler.start()
puller.start()
tell({ kind: 'ready' })

async function queue (task: NewTask): Promise<void> {
  const askedMs = monotonicMs()
  await store.queue.push([task])
  tell({ kind: 'queued', id: task.id, askedMs, answeredMs: monotonicMs() })
}
