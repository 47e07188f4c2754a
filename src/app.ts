/** The HTTP face: lists the doors, who may pass them, and how errors are told. Knows no kernel and no process. */
import type { Socket } from 'node:net'
import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import type { Registry } from 'prom-client'
import { addAuthentication, type TokenVerifier } from './routes/authentication.ts'
import { addBodyDeadline } from './routes/body-deadline.ts'
import { consoleRoutes } from './routes/console.ts'
import { eventRoutes, type Events } from './routes/events.ts'
import { execRoutes, type Execs } from './routes/execs.ts'
import { fileRoutes, type Files } from './routes/files.ts'
import { hostRoutes, type HostRouteOptions } from './routes/host.ts'
import { addErrorAnswers, hostStopping } from './routes/http-errors.ts'
import { addHttpMetrics } from './routes/http-metrics.ts'
import { addHttpTraces } from './routes/http-traces.ts'
import { addClosing, addManners, createHttpServer, defaultHttpLimits, type HttpLimits, type HttpServerOptions } from './routes/http-server.ts'
import { addIdempotency, type IdempotencyKeys } from './routes/idempotency.ts'
import { imageRoutes, type Images } from './routes/images.ts'
import { addJsonBodies } from './routes/json-body.ts'
import { logRoutes, type LogRouteOptions } from './routes/logs.ts'
import { networkRoutes, type Decisions, type NetworkedSandboxes, type NetworkRouteOptions, type Ports } from './routes/network.ts'
import { addOpenapi } from './routes/openapi-document.ts'
import { probeRoutes, type ProbeRouteOptions } from './routes/probes.ts'
import { addAllMethods, previewRoutes, type PreviewGate } from './routes/preview.ts'
import { sandboxRoutes, type Sandboxes } from './routes/sandboxes.ts'
import { sandboxTokenRoutes, type SandboxTokens } from './routes/sandbox-tokens.ts'
import { noTracing, type Tracing } from './services/tracing/tracing.ts'
import { taskRoutes, type Tasks } from './routes/tasks.ts'
import { terminalRoutes } from './routes/terminals.ts'
import { ticketRoutes, type Tickets } from './routes/tickets.ts'
import { usageRoutes, type Usages } from './routes/usage.ts'
import { componentSchemas } from './schemas/components.ts'
import type { Terminals } from './services/terminals/terminal-types.ts'
import { defaultSocketLimits } from './ws/json-socket.ts'
import { logTailRoutes } from './ws/log-tail.ts'
import { hostSocketDoor, type SocketAccess } from './ws/socket-access.ts'
import { terminalAttachRoutes } from './ws/terminal-attach.ts'
import { UpgradeKeeper } from './ws/upgrade-keeper.ts'

export interface AppServices {
  sandboxes: Sandboxes & NetworkedSandboxes
  usages: Usages
  execs: Execs
  terminals: Terminals
  files: Files
  tasks: Tasks
  images: Images
  decisions: Decisions
  ports: Ports
  network: NetworkRouteOptions['traffic']
  logSources: LogRouteOptions['logSources']
  logs: LogRouteOptions['logs']
  events: Events
  host: HostRouteOptions['host'] & ProbeRouteOptions['host']
  tokens: TokenVerifier & SandboxTokens
  tickets: Tickets & SocketAccess['tickets']
  idempotency: IdempotencyKeys
  metrics: Registry
}

export interface AppLimits extends HttpLimits {
  heartbeatMs: number
  /** A follower that takes nothing for this long while something waits for it is cut off. */
  followerStallMs: number
}

export const defaultLimits: Readonly<AppLimits> = Object.freeze({
  ...defaultHttpLimits,
  heartbeatMs: 15_000,
  followerStallMs: defaultSocketLimits.stallMs,
})

export interface AppOptions {
  services: AppServices
  logger: FastifyBaseLogger
  version: string
  tracing?: Tracing
  limits?: Partial<AppLimits>
  /** Whether a connection needs no token (the unix socket). */
  isTrusted?: (socket: Socket) => boolean
  /** Ends streams and waits when aborted; `app.close()` ends them too. */
  closing?: AbortSignal
  /** Ends attached execs when aborted: the grace of a daemon that ends is over. Without it they end with the streams. */
  forcing?: AbortSignal
  /** Ports of sandboxes; without it there are none to be seen. */
  previews?: PreviewGate
  /** Tells upgrades apart, here and at the other doors; it must know the previews. */
  upgrades?: UpgradeKeeper
  /** Without it the API speaks plain HTTP. */
  certificates?: HttpServerOptions['certificates']
}

/** Builds the HTTP face. It listens nowhere yet. */
export function buildApp (options: AppOptions): FastifyInstance {
  const { services, version } = options
  const limits = { ...defaultLimits, ...options.limits }
  const ending = new AbortController()
  const closing = options.closing ? AbortSignal.any([options.closing, ending.signal]) : ending.signal
  const streams = { closing, heartbeatMs: limits.heartbeatMs, stallMs: limits.followerStallMs }
  const isTrusted = options.isTrusted ?? (() => false)
  const upgrades = options.upgrades ?? new UpgradeKeeper({ passing: options.previews })
  const attached = { closing: options.forcing ?? closing, heartbeatMs: limits.heartbeatMs }
  const app = createHttpServer({
    logger: options.logger,
    limits,
    closing,
    certificates: options.certificates,
    shouldUpgrade: request => upgrades.shouldUpgrade(request),
    ...(options.previews ? { rewriteUrl: request => options.previews!.rewriteUrl(request) } : {}),
  })
  if (options.previews) addAllMethods(app)
  addUpgrades(app, upgrades)

  addHttpMetrics(app, services.metrics)
  addHttpTraces(app, options.tracing ?? noTracing)
  addManners(app)
  addClosing(app, { ending, closing, reason: hostStopping })
  addErrorAnswers(app, { closing, bodyBytes: limits.bodyBytes })
  addAuthentication(app, { tokens: services.tokens, isTrusted })
  addBodyDeadline(app, limits.requestTimeoutMs)
  addJsonBodies(app)
  addIdempotency(app, services.idempotency)
  addOpenapi(app, { version })
  for (const schema of componentSchemas()) app.addSchema(schema)

  const { sandboxes, execs, terminals, tasks, images, decisions, ports, network, logSources, logs, events, host, metrics, tokens, tickets } = services
  const prefix = '/v1'
  void app.register(sandboxRoutes, { prefix, sandboxes, closing })
  void app.register(usageRoutes, { prefix, usages: services.usages })
  void app.register(execRoutes, { prefix, execs, streams, attached })
  void app.register(terminalRoutes, { prefix, terminals })
  void app.register(fileRoutes, { prefix, files: services.files, streams, attached, leaves: upgrades, stallMs: limits.followerStallMs })
  void app.register(taskRoutes, { prefix, tasks, closing })
  void app.register(networkRoutes, { prefix, sandboxes, decisions, ports, traffic: network, streams })
  void app.register(sandboxTokenRoutes, { prefix, tokens, sandboxes })
  void app.register(ticketRoutes, { prefix, tickets, sandboxes, tasks, terminals })
  if (options.previews) void app.register(previewRoutes, { gate: options.previews })
  void app.register(imageRoutes, { prefix, images, streams })
  void app.register(logRoutes, { prefix, logSources, logs, streams })
  const sockets = { upgrades, door: hostSocketDoor({ tokens, tickets, isTrusted }), limits: { ...defaultSocketLimits, stallMs: limits.followerStallMs }, closing }
  void app.register(logTailRoutes, { prefix, logSources, logs, sockets })
  void app.register(terminalAttachRoutes, { prefix, terminals, sockets })
  void app.register(eventRoutes, { prefix, events, streams })
  void app.register(hostRoutes, { prefix, host })
  void app.register(probeRoutes, { host, metrics })
  void app.register(consoleRoutes)
  return app
}

/** Previews and sockets want upgrades; and a program in a sandbox says for itself whether it wants a body that waits for leave. */
function addUpgrades (app: FastifyInstance, upgrades: UpgradeKeeper): void {
  app.server.on('upgrade', (request, socket, head) => upgrades.handleUpgrade(request, socket, head, app.routing))
  app.server.on('checkContinue', (request, response) => upgrades.handleContinue(request, response, app.routing))
}
