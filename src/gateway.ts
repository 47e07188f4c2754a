/** The wiring of a gateway: every part in order into one resource stack. It keeps nothing: all is in Redis. */
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import type { Server as HttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { dirname } from 'node:path'
import type { Logger } from 'pino'
import { BerthError } from './errors.ts'
import type { GatewayConfig } from './gateway-config.ts'
import { FleetAddresses } from './gateway/fleet-addresses.ts'
import { FleetIdempotency } from './gateway/fleet-idempotency.ts'
import { FleetTokens } from './gateway/fleet-tokens.ts'
import { buildGatewayApp, gatewayStopping } from './gateway/gateway-app.ts'
import { createGatewayMetrics } from './gateway/gateway-metrics.ts'
import { FleetLogs } from './gateway/logs/fleet-logs.ts'
import { FleetOutputBuffer } from './gateway/logs/fleet-output-buffer.ts'
import { HostLogClient } from './gateway/logs/host-log-client.ts'
import { ProxyDoor } from './gateway/proxy/proxy-door.ts'
import { WorkerLinks } from './gateway/proxy/worker-links.ts'
import { RedisPlacementKeys } from './gateway/sandboxes/placement-keys.ts'
import { RedisSandboxIndex } from './gateway/sandboxes/sandbox-index.ts'
import { SandboxLookup } from './gateway/sandboxes/sandbox-lookup.ts'
import { SandboxPlacer } from './gateway/sandboxes/sandbox-placer.ts'
import { SecretSealer } from './gateway/sealed-secret.ts'
import { FleetTasks } from './gateway/tasks/fleet-tasks.ts'
import { TaskPruner } from './gateway/tasks/task-pruner.ts'
import { WorkerMethods } from './gateway/worker-methods.ts'
import type { Workers } from './gateway/worker-record.ts'
import { WorkerRegistry } from './gateway/worker-registry.ts'
import { WorkerService } from './gateway/worker-service.ts'
import { withDeadline } from './lib/deadline.ts'
import { randomId } from './lib/id.ts'
import { ResourceStack } from './lib/resource-stack.ts'
import { readCertificate, renewCertificate } from './routes/tls-certificate.ts'
import type { Readiness } from './schemas/host.ts'
import { openFleetQueue } from './services/fleet-queue/fleet-queue.ts'
import { FleetLogBuffer } from './services/fleet-wire/fleet-log-buffer.ts'
import { UntoldEnds } from './services/fleet-wire/untold-ends.ts'
import { WireReports } from './services/fleet-wire/wire-reports.ts'
import { openRedis } from './services/redis/redis-connection.ts'
import type { RedisConnection } from './services/redis/redis-types.ts'
import { readTokenFile, writeTokenFile } from './services/tokens/token-file.ts'
import type { Tracing } from './services/tracing/tracing.ts'

export interface GatewayOptions {
  config: GatewayConfig
  logger: Logger
  version: string
  tracing?: Tracing
}

export interface RunningGateway {
  /** Of REST. */
  url: string
  /** HOST:PORT of gRPC. */
  grpcTarget: string
  close: () => Promise<void>
}

const pingWithinMs = 2000
const pruneEveryMs = 60_000

/**
 * Starts a gateway, whether Redis is there or not: it is ready when Redis is.
 * @throws BerthError invalid_argument `invalid_config` where a file cannot be used.
 */
export async function startGateway (options: GatewayOptions): Promise<RunningGateway> {
  const stack = new ResourceStack({ releaseDeadlineMs: options.config.shutdownGraceMs + 30_000 })
  try {
    return await build(options, stack)
  } catch (error) {
    await stack.release()
    throw error
  }
}

async function build ({ config, logger, version, tracing }: GatewayOptions, stack: ResourceStack): Promise<RunningGateway> {
  const files = { certFile: config.tlsCertFile, keyFile: config.tlsKeyFile, clientCaFile: config.tlsClientCaFile }
  const certificates = files.certFile === '' ? undefined : await readCertificate(files)
  // Hosts show certificates where they are asked for; people with a browser have none.
  const publicCertificates = certificates && { cert: certificates.cert, key: certificates.key }
  const adminToken = ensureAdminToken(config.tokenFile, logger)
  const id = randomId('gtw')
  const redis = await stack.acquire('redis', () => openRedis(redisSettings(config), { logger }), opened => opened.close())
  const { queue, table, close } = openFleetQueue({
    redis,
    fairLabel: config.taskFairLabel,
    labelLimits: config.taskLabelLimits,
    retentionMs: config.taskRetentionMs,
    onError: error => logger.warn({ err: error }, 'the queue of the fleet could not be looked after'),
  })
  stack.defer('queue', close)

  const tokens = new FleetTokens({ redis, adminToken })
  const workers = new WorkerRegistry({ redis, sealer: new SecretSealer(adminToken) })
  const addresses = new FleetAddresses({ redis, pool: config.ipv4Pool })
  const idempotency = await stack.acquire('idempotency', () => new FleetIdempotency({ redis, instanceId: id }), keys => keys.close())
  const metrics = createGatewayMetrics({ workers, queue, isRedisConnected: () => redis.isReady })
  const untold = new UntoldEnds({ redis, table, reports: new WireReports({ redis }), logger })
  const links = await stack.acquire('links', () => new WorkerLinks({ workers }), opened => opened.close())
  const hosts = await stack.acquire('log client', () => new HostLogClient({ workers }), client => client.close())
  const buffer = await stack.acquire('log buffer', () => new FleetLogBuffer({ redis }), opened => opened.close())
  const tasks = new FleetTasks({ queue, table, workers, reportEnd: record => untold.tellOf(record), dropOutput: taskKey => buffer.drop(taskKey) })
  const index = new RedisSandboxIndex(redis)
  const roomy: Pick<Workers, 'list' | 'reserve'> = { list: filter => workers.listLately(filter), reserve: (workerId, room) => workers.reserve(workerId, room) }
  const placer = new SandboxPlacer({ workers: roomy, links, index, keys: new RedisPlacementKeys(redis) })

  const closing = new AbortController()
  const forcing = new AbortController()
  const app = buildGatewayApp({
    services: {
      redis,
      tokens,
      workers,
      addresses,
      tasks,
      queue,
      logs: new FleetLogs({ table, hosts, buffer: new FleetOutputBuffer(buffer) }),
      links,
      sandboxes: { index, placer, lookup: new SandboxLookup({ index, links }) },
      gateway: { describe: () => ({ id, version, isRedisConnected: redis.isReady }), readiness: () => readinessOf(redis) },
      idempotency,
      metrics: metrics.registry,
    },
    logger,
    version,
    ...(tracing ? { tracing } : {}),
    rateLimit: config.rateLimit,
    door: new ProxyDoor(),
    certificates: publicCertificates,
    closing: closing.signal,
    forcing: forcing.signal,
  })
  const service = new WorkerService({
    calls: new WorkerMethods({ workers, addresses, tasks: table, tokens, logger }),
    tokens,
    logger,
    onAnswered: (method, statusName, durationMs) => metrics.observeCall(method, statusName, durationMs),
    certificates,
  })
  const grpcTarget = await stack.acquire('grpc', () => service.listen(config.grpcListen), () => service.close(config.shutdownGraceMs))
  await stack.acquire('http', () => app.listen(config.listen), () => closeApp(app, config.shutdownGraceMs, forcing))
  if (certificates) {
    const onError = (error: unknown) => { logger.warn({ err: error }, 'the certificate could not be read again') }
    stack.defer('certificate', renewCertificate(app.server as HttpsServer, { ...files, clientCaFile: '' }, publicCertificates!, onError))
  }
  const onPruneError = (err: unknown) => { logger.warn({ err }, 'ended tasks could not be forgotten') }
  // Hosts tell ends sooner, where there are any.
  const pruner = new TaskPruner({ table, before: () => untold.tell(), isReady: () => redis.isReady, onError: onPruneError, everyMs: pruneEveryMs })
  stack.defer('pruner', () => pruner.close())
  stack.defer('streams', () => closing.abort(gatewayStopping()))
  return {
    url: urlOf(app.server.address() as AddressInfo, certificates !== undefined),
    grpcTarget,
    async close () {
      for (const { name, error } of await stack.release()) logger.error({ part: name, err: error }, 'a part of the gateway did not end cleanly')
    },
  }
}

async function readinessOf (redis: RedisConnection): Promise<Readiness> {
  try {
    if (!redis.isReady) throw new BerthError('unavailable', 'redis_unavailable', 'Redis is not connected')
    await withDeadline(pingWithinMs, 'a ping of Redis', () => redis.run(client => client.ping()))
    return { ready: true, problems: [] }
  } catch (error) {
    return { ready: false, problems: [`${error instanceof BerthError ? error.message : 'Redis does not answer'}; see BERTH_REDIS, and the log of the gateway`] }
  }
}

/** The token of the file, which is made when there is none. It lies there before anything is sealed with it. */
function ensureAdminToken (path: string, logger: Logger): string {
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
    const present = readTokenFile(path)
    if (present !== undefined) return present
    const made = `berth_${randomBytes(32).toString('base64url')}`
    writeTokenFile(path, made)
    logger.info({ tokenPath: path }, 'an admin token was made')
    return made
  } catch (error) {
    if (error instanceof BerthError) throw error
    throw invalidFile('--token-file', error)
  }
}

function invalidFile (setting: string, error: unknown): BerthError {
  return new BerthError('invalid_argument', 'invalid_config', `${setting}: it cannot be used (${(error as NodeJS.ErrnoException).code ?? 'not what it should be'})`, { cause: error })
}

function redisSettings ({ redis, redisPrefix, redisPasswordFile, redisCaFile, redisCertFile, redisKeyFile }: GatewayConfig) {
  return { url: redis, prefix: redisPrefix, passwordFile: redisPasswordFile, caFile: redisCaFile, certFile: redisCertFile, keyFile: redisKeyFile }
}

/** Lets requests under way come to their end, within the grace; then what is passed on to hosts is cut off. */
async function closeApp (app: { close: () => Promise<unknown> }, graceMs: number, forcing: AbortController): Promise<void> {
  const timer = setTimeout(() => forcing.abort(gatewayStopping()), graceMs)
  try {
    await app.close()
  } finally {
    clearTimeout(timer)
  }
}

function urlOf ({ address, port }: AddressInfo, isSecure: boolean): string {
  return `${isSecure ? 'https' : 'http'}://${address.includes(':') ? `[${address}]` : address}:${port}`
}
