/** This host in a fleet, as the configuration wants it: what it speaks to, what it takes from there, and how it leaves. */
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { Config } from '../config.ts'
import { BerthError } from '../errors.ts'
import { ResourceStack } from '../lib/resource-stack.ts'
import type { HostGateway, HostQueue } from '../schemas/host.ts'
import type { HostDrain } from '../services/host/host-drain.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import type { SandboxManager } from '../services/sandboxes/sandbox-manager.ts'
import { liveStatuses } from '../services/sandboxes/sandbox-status.ts'
import type { TokenStore } from '../services/tokens/token-store.ts'
import type { GatewayClient } from '../worker/gateway-client.ts'
import type { Membership } from '../worker/membership.ts'
import type { TaskPuller } from '../worker/task-puller.ts'
import type { WiredTasks } from './wire-tasks.ts'

/** What a host of a fleet is connected to; each only where the configuration names it, and loaded only then. */
export interface FleetConnections {
  redis?: RedisConnection
  gateway?: GatewayClient
}

export interface FleetWiring extends FleetConnections {
  config: Config
  hostId: string
  version: string
  logger: Logger
  tasks: WiredTasks
  sandboxes: Pick<SandboxManager, 'all'>
  tokens: TokenStore
  drain: HostDrain
}

export interface WiredFleet {
  /** What GET /v1/host shows of it. */
  facts: { gateway?: () => HostGateway, queue?: () => HostQueue }
  /** Joins, and begins to take tasks. Waits for nobody. */
  start: () => void
  /** For good: what runs may come to its end within the time, the rest is given back; then the gateway is told. */
  leave: () => Promise<void>
  close: () => Promise<void>
}

const tokenName = 'gateway'
/** How long a program of a task has to end by itself once its host has no more time. */
const stopGraceMs = 10_000
const flushMs = 20_000
const lookEveryMs = 100

/** Opens the connections; neither Redis nor the gateway need be there. */
export async function openFleetConnections (config: Config, hostId: string, logger: Logger, stack: ResourceStack): Promise<FleetConnections> {
  const connections: FleetConnections = {}
  // Who only reclaims takes nothing more; addresses are given back.
  if (config.redis !== '' && !config.reclaimAndExit) {
    const { openRedis } = await import('../services/redis/redis-connection.ts')
    const { redis: url, redisPrefix: prefix, redisPasswordFile: passwordFile, redisCaFile: caFile, redisCertFile: certFile, redisKeyFile: keyFile } = config
    connections.redis = await stack.acquire('redis', async () => await openRedis({ url, prefix, passwordFile, caFile, certFile, keyFile }, { logger }).catch((cause: unknown) => {
      throw new BerthError('invalid_argument', 'invalid_config', `BERTH_REDIS: ${(cause as Error).message}`, { cause })
    }), opened => opened.close())
  }
  if (config.gateway !== '') {
    const { GatewayClient } = await import('../worker/gateway-client.ts')
    const { gateway: target, gatewayTokenFile: tokenFile, gatewayCaFile: caFile, gatewayCertFile: certFile, gatewayKeyFile: keyFile } = config
    connections.gateway = await stack.acquire('gateway client', () => GatewayClient.open({
      target, workerId: hostId, tokenFile, ...(caFile === '' ? {} : { caFile }), ...(certFile === '' ? {} : { certFile, keyFile }),
    }), client => client.close())
  }
  return connections
}

export async function wireFleet (wiring: FleetWiring): Promise<WiredFleet> {
  const { config, tasks, drain, redis, tokens, logger } = wiring
  const stack = new ResourceStack()
  const membership = await wireMembership(wiring, stack)
  const pull = await wirePull(wiring, stack)
  const puller = pull?.puller
  if (!membership) tokens.endNamed(tokenName)
  drain.onChange(isDraining => {
    membership?.setStatus(isDraining ? 'draining' : 'available')
    if (!isDraining) return puller?.undrain()
    puller?.drain()
    puller?.giveBack().catch((error: unknown) => logger.error({ err: error }, 'tasks that wait on this host could not be given back to the fleet'))
  })
  return {
    facts: {
      ...(membership && { gateway: () => membership.state }),
      ...(redis && { queue: () => ({ isConnected: redis.isReady, pool: config.pool }) }),
    },
    start () {
      if (drain.isDraining) puller?.drain()
      pull?.start()
      membership?.start()
    },
    async leave () {
      if (!membership && !puller) return
      membership?.setStatus('draining')
      puller?.drain()
      tasks.scheduler.drain()
      await puller?.giveBack()
      const until = Date.now() + config.shutdownTimeoutMs
      while (tasks.scheduler.counts.running > 0 && Date.now() < until) await delay(lookEveryMs)
      await tasks.scheduler.stopAll(stopGraceMs)
      await puller?.giveBack()
      if (puller && !await puller.flush(flushMs)) logger.warn('the fleet could not be told of every task before this daemon ends; the next one tells it')
      await membership?.deregister()
      tokens.endNamed(tokenName)
    },
    async close () {
      for (const { name, error } of await stack.release()) logger.error({ part: name, err: error }, 'a part of the fleet did not end cleanly')
    },
  }
}

async function wireMembership ({ config, hostId, version, logger, tasks, sandboxes, tokens, drain, gateway }: FleetWiring, stack: ResourceStack): Promise<Membership | undefined> {
  if (!gateway) return undefined
  const { Membership } = await import('../worker/membership.ts')
  const apiCa = config.advertiseCaFile === '' ? '' : await readAuthorities(config.advertiseCaFile)
  return await stack.acquire('membership', async () => new Membership({
    client: gateway,
    hostId,
    facts: async () => ({
      hostname: hostname(),
      pool: config.pool,
      capacity: tasks.room.capacity,
      free: tasks.scheduler.free,
      version,
      labels: Object.fromEntries(config.workerLabels),
      apiUrl: config.advertise,
      apiCa,
      sandboxes: sandboxes.all().filter(({ status }) => liveStatuses.includes(status)).length,
      tasks: tasks.scheduler.counts.running,
    }),
    mintApiToken: () => config.advertise === '' ? undefined : tokens.mintNamed(tokenName),
    status: () => drain.isDraining ? 'draining' : 'available',
    lastWish: drain.wishNumber,
    onWish: async (wish, wishNumber) => { await drain[wish]({ wishNumber }) },
    logger,
  }), membership => membership.close())
}

async function readAuthorities (path: string): Promise<string> {
  return await readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new BerthError('invalid_argument', 'invalid_config', `BERTH_ADVERTISE_CA_FILE: it cannot be read (${cause.code})`, { cause })
  })
}

/** What takes tasks: those of the fleet's queue, and those that foreign producers put beside it. */
async function wirePull ({ config, hostId, logger, tasks, redis, gateway }: FleetWiring, stack: ResourceStack): Promise<{ puller: TaskPuller, start: () => void } | undefined> {
  if (!redis) return undefined
  const [{ openFleetQueue }, { WireIntake }, { UntoldEnds }, { WireReports }, { subscribeCancels }, { taskIdOf }, { TaskPuller }, { gatewayReports }] = await Promise.all([
    import('../services/fleet-queue/fleet-queue.ts'),
    import('../services/fleet-wire/wire-intake.ts'),
    import('../services/fleet-wire/untold-ends.ts'),
    import('../services/fleet-wire/wire-reports.ts'),
    import('../services/fleet-wire/wire-cancels.ts'),
    import('../services/fleet-wire/wire-keys.ts'),
    import('../worker/task-puller.ts'),
    import('../worker/gateway-reports.ts'),
  ])
  const fleet = await stack.acquire('fleet queue', async () => openFleetQueue({
    redis,
    pools: [config.pool],
    fairLabel: config.taskFairLabel,
    labelLimits: config.taskLabelLimits,
    retentionMs: config.taskRetentionMs,
    onError: error => logger.warn({ err: error }, 'news of the queue of the fleet may have been missed'),
  }), opened => opened.close())
  const reports = new WireReports({ redis })
  const facts = { workerId: hostId }
  const puller = await stack.acquire('puller', async () => new TaskPuller({
    fleet: fleet.queue,
    local: tasks.deliveries,
    localQueue: tasks.queue,
    scheduler: tasks.scheduler,
    room: tasks.room,
    owner: hostId,
    pools: [config.pool],
    labels: Object.fromEntries(config.workerLabels),
    leaseMs: config.taskLeaseMs,
    maxStarting: config.maxConcurrentStarts,
    beforePush: tasks.checkSpec,
    defaultOutputs: config.taskOutputs,
    onChange: delivery => tasks.manager.onChange(delivery),
    onTaken: delivery => reports.scheduled(delivery, facts),
    onStarted: delivery => reports.started(delivery, facts),
    onEnded: (delivery, settled) => reports.ended(settled ?? delivery, facts),
    ...(gateway && { gatewayReports: gatewayReports(gateway, logger) }),
    logger,
  }), opened => opened.close())
  const untold = new UntoldEnds({ redis, table: fleet.table, reports, logger })
  const intake = await stack.acquire('intake of foreign tasks', async () => new WireIntake({ redis, queue: fleet.queue, pools: [config.pool], reports, untold, logger }), opened => opened.close())
  // Whoever has the task hears of it by the queue, and tells its end; one that nobody has ends there.
  const onCancel = (externalId: string) => {
    fleet.queue.cancel(taskIdOf(externalId)).then(async record => { if (record.endedAt !== undefined) await untold.tellOf(record) }).catch((error: unknown) => {
      if (!(error instanceof BerthError && error.kind === 'not_found')) logger.warn({ externalId, err: error }, 'a task of a foreign producer could not be cancelled')
    })
  }
  return {
    puller,
    start () {
      puller.start()
      intake.start()
      const cancels = subscribeCancels({ redis, logger, onCancel })
      stack.defer('cancels of foreign producers', () => cancels.close())
    },
  }
}
