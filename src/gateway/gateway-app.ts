/** The HTTP face of a gateway: lists the doors, who may pass them, and how errors are told. */
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Registry } from 'prom-client'
import { BerthError } from '../errors.ts'
import { addBodyDeadline } from '../routes/body-deadline.ts'
import { addErrorAnswers } from '../routes/http-errors.ts'
import { addHttpMetrics } from '../routes/http-metrics.ts'
import { addHttpTraces } from '../routes/http-traces.ts'
import { addClosing, addManners, createHttpServer, defaultHttpLimits, type HttpLimits, type ServerCertificates } from '../routes/http-server.ts'
import { addIdempotency, type IdempotencyKeys } from '../routes/idempotency.ts'
import { addJsonBodies } from '../routes/json-body.ts'
import { addOpenapi } from '../routes/openapi-document.ts'
import { probeRoutes, type ProbeRouteOptions } from '../routes/probes.ts'
import { componentSchemas } from '../schemas/components.ts'
import { defaultSocketLimits } from '../ws/json-socket.ts'
import { UpgradeKeeper } from '../ws/upgrade-keeper.ts'
import { addFleetAuthentication, principalOf } from './fleet-authentication.ts'
import type { FleetAddresses } from './fleet-addresses.ts'
import { FleetRates } from './fleet-rates.ts'
import { fleetSocketDoor } from './fleet-socket-door.ts'
import { fleetTokenRoutes } from './fleet-token-routes.ts'
import type { FleetTokens } from './fleet-tokens.ts'
import { gatewayFace, gatewaySchemas } from './gateway-document.ts'
import { gatewayRoutes, type GatewayRouteOptions } from './gateway-routes.ts'
import { gatewayLogRoutes, type GatewayLogRouteOptions } from './logs/gateway-log-routes.ts'
import { gatewayLogTailRoutes } from './logs/gateway-log-tail.ts'
import { poolRoutes, type PoolRouteOptions } from './pool-routes.ts'
import type { ProxyDoor } from './proxy/proxy-door.ts'
import type { WorkerLinks } from './proxy/worker-links.ts'
import { workerProxyRoutes } from './proxy/worker-proxy-routes.ts'
import { WorkerProxy } from './proxy/worker-proxy.ts'
import { gatewaySandboxRoutes, type GatewaySandboxRouteOptions } from './sandboxes/gateway-sandbox-routes.ts'
import type { FleetTasks } from './tasks/fleet-tasks.ts'
import { gatewayTaskRoutes } from './tasks/gateway-task-routes.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import { noTracing, type Tracing } from '../services/tracing/tracing.ts'
import { addTokenVigil } from './token-vigil.ts'
import { workerRoutes } from './worker-routes.ts'
import type { Workers } from './worker-record.ts'

export interface GatewayServices {
  redis: RedisConnection
  tokens: FleetTokens
  workers: Workers
  addresses: Pick<FleetAddresses, 'releaseOf'>
  tasks: FleetTasks
  queue: PoolRouteOptions['queue']
  logs: GatewayLogRouteOptions['logs']
  links: WorkerLinks
  sandboxes: Pick<GatewaySandboxRouteOptions, 'index' | 'placer' | 'lookup'>
  gateway: GatewayRouteOptions & { readiness: ProbeRouteOptions['host']['readiness'] }
  idempotency: IdempotencyKeys
  metrics: Registry
}

export interface GatewayAppOptions {
  services: GatewayServices
  logger: FastifyBaseLogger
  version: string
  tracing?: Tracing
  /** Requests per second and token; 0 is no limit. */
  rateLimit: number
  /** Tells the requests for hosts apart, where they come in. */
  door: ProxyDoor
  limits?: Partial<HttpLimits>
  heartbeatMs?: number
  certificates?: ServerCertificates | undefined
  /** Ends streams and waits when aborted; `app.close()` ends them too. */
  closing?: AbortSignal
  /** Ends what is passed on to hosts when aborted: the grace of a gateway that ends is over. */
  forcing?: AbortSignal
}

/** What requests that the end of a gateway interrupts are told. */
export function gatewayStopping (): BerthError {
  return new BerthError('unavailable', 'gateway_stopping', 'the gateway is shutting down; another one of the fleet serves you, or this one when it is back')
}

/** Builds the HTTP face of a gateway. It listens nowhere yet. */
export function buildGatewayApp (options: GatewayAppOptions): FastifyInstance {
  const { services, logger, version, door, certificates, heartbeatMs = 15_000 } = options
  const limits = { ...defaultHttpLimits, ...options.limits }
  const ending = new AbortController()
  const closing = options.closing ? AbortSignal.any([options.closing, ending.signal]) : ending.signal
  const streams = { closing, heartbeatMs, stallMs: defaultSocketLimits.stallMs }
  const upgrades = new UpgradeKeeper({ passing: door })
  const app = createHttpServer({ logger, limits, closing, certificates, shouldUpgrade: request => upgrades.shouldUpgrade(request) })
  app.server.on('upgrade', (request, socket, head) => upgrades.handleUpgrade(request, socket, head, app.routing))
  app.server.on('checkContinue', (request, response) => upgrades.handleContinue(request, response, app.routing))

  addHttpMetrics(app, services.metrics)
  addHttpTraces(app, options.tracing ?? noTracing)
  addManners(app)
  addClosing(app, { ending, closing, reason: gatewayStopping })
  addErrorAnswers(app, { closing, bodyBytes: limits.bodyBytes })
  const rates = new FleetRates({ redis: services.redis, perSecond: options.rateLimit })
  rates.addTo(app)
  addTokenVigil(app, services.tokens)
  addFleetAuthentication(app, {
    tokens: services.tokens,
    onKnown: request => rates.count(request),
    onUnknown: async request => await rates.countFailure(request),
  })
  addBodyDeadline(app, limits.requestTimeoutMs)
  addJsonBodies(app)
  addIdempotency(app, services.idempotency, request => principalOf(request).id)
  addOpenapi(app, { version, face: gatewayFace })
  for (const schema of componentSchemas(gatewaySchemas)) app.addSchema(schema)

  const { workers, addresses, tokens, tasks, queue, logs, links, gateway, metrics } = services
  const proxy = new WorkerProxy({ links, tokens, door, closing, forcing: options.forcing })
  const prefix = '/v1'
  void app.register(gatewayTaskRoutes, { prefix, tasks, closing })
  void app.register(gatewayLogRoutes, { prefix, tasks, logs, streams })
  void app.register(gatewayLogTailRoutes, { prefix, tasks, logs, sockets: { upgrades, door: fleetSocketDoor(tokens), limits: defaultSocketLimits, closing } })
  void app.register(gatewaySandboxRoutes, { prefix, proxy, links, principalOf, ...services.sandboxes })
  void app.register(workerRoutes, { prefix, workers, addresses })
  void app.register(workerProxyRoutes, { prefix, proxy })
  void app.register(poolRoutes, { prefix, workers, queue })
  void app.register(fleetTokenRoutes, { prefix, tokens })
  void app.register(gatewayRoutes, { prefix, describe: gateway.describe })
  void app.register(probeRoutes, { host: gateway, metrics, words: { name: 'gateway', ability: 'serve the fleet' } })
  return app
}
