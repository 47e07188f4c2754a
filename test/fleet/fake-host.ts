/**
 * A host of a fleet with all that `berth serve` has of one, on its own queue in SQLite, and the fake runtime in the place of gVisor.
 *   fake-host.ts DIR HOST_ID REDIS_URL GATEWAY TOKEN_FILE POOL LEASE_MS
 * Writes `ready` to standard output, and `started DELIVERY TASK FENCE` for each sandbox that it makes.
 */
import { join } from 'node:path'
import pino from 'pino'
import { openTaskDatabase } from '../../src/services/database.ts'
import { openFleetQueue } from '../../src/services/fleet-queue/fleet-queue.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import { HostRoom } from '../../src/services/tasks/host-room.ts'
import { TaskScheduler } from '../../src/services/tasks/task-scheduler.ts'
import { openTaskStore } from '../../src/services/tasks/task-store.ts'
import { GatewayClient } from '../../src/worker/gateway-client.ts'
import { gatewayReports } from '../../src/worker/gateway-reports.ts'
import { Membership } from '../../src/worker/membership.ts'
import { TaskPuller } from '../../src/worker/task-puller.ts'
import { FakeSandboxes } from './fake-sandboxes.ts'

const [dir = '', hostId = '', url = '', target = '', tokenFile = '', pool = '', leaseText = ''] = process.argv.slice(2)
const leaseMs = Number(leaseText)
const logger = pino({ level: 'warn', base: null }, pino.destination({ dest: join(dir, 'host.log'), sync: true, append: true }))
const store = openTaskStore({ db: openTaskDatabase(join(dir, 'tasks.db')), options: { fairLabel: 'tenant', labelLimits: [] } })
const sandboxes = new FakeSandboxes(join(dir, 'sandboxes.jsonl'))
const room = new HostRoom({
  cpuOvercommit: 8,
  reservedMemoryBytes: 0,
  stateDir: dir,
  overheadBytes: 0,
  others: () => [],
  readKernel: async () => ({ availableMemoryBytes: Infinity, memoryPressurePercent: 0, freeDiskBytes: Infinity }),
})
const scheduler = new TaskScheduler({
  queue: store.queue, sandboxes: sandboxes.parts, room, owner: hostId, pools: [pool], leaseMs, maxStarting: 16, startLog: async () => '0:0', onChange: () => {}, logger,
})
const redis = await openRedis({ url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' }, { logger })
const fleet = openFleetQueue({ redis, fairLabel: 'tenant', labelLimits: [], onError: err => logger.warn({ err }, 'news were missed') })
const client = await GatewayClient.open({ target, workerId: hostId, tokenFile })
const puller = new TaskPuller({
  fleet: fleet.queue,
  local: store.deliveries,
  localQueue: store.queue,
  scheduler,
  room,
  owner: hostId,
  pools: [pool],
  labels: {},
  leaseMs,
  maxStarting: 16,
  gatewayReports: gatewayReports(client, logger),
  logger,
})
const membership = new Membership({
  client,
  hostId,
  facts: async () => ({
    hostname: hostId, pool, capacity: room.capacity, free: scheduler.free, version: 'fake', labels: {}, apiUrl: '', apiCa: '', sandboxes: sandboxes.running, tasks: scheduler.counts.running,
  }),
  mintApiToken: () => undefined,
  status: () => 'available',
  onWish: () => {},
  logger,
})
await scheduler.adopt()
scheduler.start()
puller.start()
membership.start()
process.stdout.write('ready\n')
