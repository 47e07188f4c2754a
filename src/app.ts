/** The HTTP face: lists the doors, who may pass them, and how errors are told. Knows no kernel and no process. */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Registry } from 'prom-client'
import { BerthError } from './errors.ts'
import { addAuthentication, type TokenVerifier } from './routes/authentication.ts'
import { addBodyDeadline } from './routes/body-deadline.ts'
import { consoleRoutes } from './routes/console.ts'
import { eventRoutes, type Events } from './routes/events.ts'
import { execRoutes, type Execs } from './routes/execs.ts'
import { fileRoutes, type Files } from './routes/files.ts'
import { hostRoutes, type HostRouteOptions } from './routes/host.ts'
import { addErrorAnswers, answerClientError, answerError, hostStopping } from './routes/http-errors.ts'
import { addHttpMetrics } from './routes/http-metrics.ts'
import { addIdempotency, type IdempotencyKeys } from './routes/idempotency.ts'
import { imageRoutes, type Images } from './routes/images.ts'
import { addJsonBodies } from './routes/json-body.ts'
import { logRoutes, type LogRouteOptions } from './routes/logs.ts'
import { networkRoutes, type Decisions, type NetworkedSandboxes, type NetworkRouteOptions, type Ports } from './routes/network.ts'
import { addOpenapi } from './routes/openapi-document.ts'
import { probeRoutes, type ProbeRouteOptions } from './routes/probes.ts'
import { addAllMethods, previewRoutes, type PreviewGate } from './routes/preview.ts'
import { coerceQuery, type QuerySchema } from './routes/query.ts'
import { sandboxRoutes, type Sandboxes } from './routes/sandboxes.ts'
import { sandboxTokenRoutes, type SandboxTokens } from './routes/sandbox-tokens.ts'
import { taskRoutes, type Tasks } from './routes/tasks.ts'
import { terminalRoutes } from './routes/terminals.ts'
import { ticketRoutes, type Tickets } from './routes/tickets.ts'
import { usageRoutes, type Usages } from './routes/usage.ts'
import { componentSchemas } from './schemas/components.ts'
import type { Terminals } from './services/terminals/terminal-types.ts'
import { defaultSocketLimits } from './ws/json-socket.ts'
import { logTailRoutes } from './ws/log-tail.ts'
import type { SocketAccess } from './ws/socket-access.ts'
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

export interface AppLimits {
  bodyBytes: number
  /** URL and headers together. */
  headBytes: number
  /** How long a client may take to send the head of a request, and again for its body. */
  requestTimeoutMs: number
  heartbeatMs: number
  /** A follower that takes nothing for this long while something waits for it is cut off. */
  followerStallMs: number
}

export const defaultLimits: Readonly<AppLimits> = Object.freeze({
  bodyBytes: 16 * 1024 ** 2,
  headBytes: 16 * 1024,
  requestTimeoutMs: 120_000,
  heartbeatMs: 15_000,
  followerStallMs: defaultSocketLimits.stallMs,
})

export interface AppOptions {
  services: AppServices
  logger: FastifyBaseLogger
  version: string
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
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** A request without a body counts as one with `{}`. */
    hasOptionalBody?: boolean
  }
}

type AjvPlugin = Extract<NonNullable<NonNullable<FastifyServerOptions['ajv']>['plugins']>[number], (...args: never[]) => unknown>

/** Builds the HTTP face. It listens nowhere yet. */
export function buildApp (options: AppOptions): FastifyInstance {
  const { services, version } = options
  const limits = { ...defaultLimits, ...options.limits }
  const ending = new AbortController()
  const closing = options.closing ? AbortSignal.any([options.closing, ending.signal]) : ending.signal
  const streams = { closing, heartbeatMs: limits.heartbeatMs, stallMs: limits.followerStallMs }
  const isTrusted = options.isTrusted ?? (() => false)
  const upgrades = options.upgrades ?? new UpgradeKeeper({ previews: options.previews })
  const attached = { closing: options.forcing ?? closing, heartbeatMs: limits.heartbeatMs }
  const app = createServer(options, upgrades, limits, closing)
  if (options.previews) addAllMethods(app)
  addUpgrades(app, upgrades)

  addHttpMetrics(app, services.metrics)
  addManners(app)
  addClosing(app, ending, closing)
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
  const sockets = { upgrades, access: { tokens, tickets, isTrusted }, limits: { ...defaultSocketLimits, stallMs: limits.followerStallMs }, closing }
  void app.register(logTailRoutes, { prefix, logSources, logs, sockets })
  void app.register(terminalAttachRoutes, { prefix, terminals, sockets })
  void app.register(eventRoutes, { prefix, events, streams })
  void app.register(hostRoutes, { prefix, host })
  void app.register(probeRoutes, { host, metrics })
  void app.register(consoleRoutes)
  return app
}

function createServer ({ logger, previews }: AppOptions, upgrades: UpgradeKeeper, limits: AppLimits, closing: AbortSignal): FastifyInstance {
  const errorOptions = { closing, bodyBytes: limits.bodyBytes }
  return Fastify({
    loggerInstance: logger,
    // One line of our own for each answer says more than Fastify's two.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: limits.bodyBytes,
    // Of the head alone: what goes to a preview may take as long as it likes.
    http: { maxHeaderSize: limits.headBytes, headersTimeout: limits.requestTimeoutMs, shouldUpgradeCallback: request => upgrades.shouldUpgrade(request) },
    rewriteUrl: request => previews?.rewriteUrl(request as IncomingMessage) ?? request.url ?? '/',
    return503OnClosing: false,
    genReqId: requestId,
    routerOptions: { maxParamLength: 1024 },
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply.header('x-request-id', request.id), errorOptions),
    clientErrorHandler: (error, socket) => answerClientError(error, socket as Socket, () => requestId()),
    ajv: {
      // One finding is enough, and looking for all lets a body be made that takes long to check.
      customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: true, allErrors: false, strict: true, verbose: true },
      plugins: [addTotalBytes, addDependentRequired],
    },
  }).withTypeProvider<TypeBoxTypeProvider>() as unknown as FastifyInstance
}

/** Previews and sockets want upgrades; and a program in a sandbox says for itself whether it wants a body that waits for leave. */
function addUpgrades (app: FastifyInstance, upgrades: UpgradeKeeper): void {
  app.server.on('upgrade', (request, socket, head) => upgrades.handleUpgrade(request, socket, head, app.routing))
  app.server.on('checkContinue', (request, response) => upgrades.handleContinue(request, response, app.routing))
}

/** The client's own id for a request when it is sane, else a random one. */
function requestId (request?: Pick<IncomingMessage, 'headers'>): string {
  const given = request?.headers['x-request-id']
  return typeof given === 'string' && /^[A-Za-z0-9._-]{1,64}$/.test(given) ? given : randomUUID()
}

/** The keyword `x-maxTotalBytes`: bounds the UTF-8 bytes of all strings of a list, or names and values of a map. */
const addTotalBytes: AjvPlugin = ajv => ajv.addKeyword({
  keyword: 'x-maxTotalBytes',
  type: ['array', 'object'],
  schemaType: 'number',
  validate: (limit: number, value: Record<string, unknown> | unknown[]) => {
    const texts = Array.isArray(value) ? value : Object.entries(value).flat()
    return texts.reduce<number>((sum, text) => sum + Buffer.byteLength(String(text)), 0) <= limit
  },
  errors: false,
})

/** The keyword `dependentRequired` of later drafts, which OpenAPI 3.1 speaks, in the words of the draft that the validator knows. */
const addDependentRequired: AjvPlugin = ajv => ajv.addKeyword({
  keyword: 'dependentRequired',
  type: 'object',
  schemaType: 'object',
  macro: (dependencies: Record<string, string[]>) => ({ dependencies }),
})

/** Headers of every answer, and what a request's parts become before their schemas see them. */
function addManners (app: FastifyInstance): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.headers({ 'x-request-id': request.id, 'x-content-type-options': 'nosniff' })
    if (!request.url.startsWith('/docs')) reply.header('cache-control', 'no-store')
  })
  app.addHook('preValidation', async request => {
    const schema = request.routeOptions.schema?.querystring as QuerySchema | undefined
    if (schema) coerceQuery(schema, request.query as Record<string, unknown>)
    const takesBody = request.routeOptions.schema?.body !== undefined
    if (request.body !== undefined) return takesBody ? undefined : refuseContent(request.body)
    if (!takesBody) return
    if (!request.routeOptions.config?.hasOptionalBody) throw new BerthError('invalid_argument', 'body_missing', 'a body is needed: a JSON object, with Content-Type: application/json')
    request.body = {}
  })
  app.addHook('onResponse', async (request, reply) => {
    request.log.debug({ method: request.method, route: request.routeOptions.url, status: reply.statusCode, durationMs: Math.round(reply.elapsedTime) }, 'request answered')
  })
}

/** A body that a route does not look at would be dropped silently; only an empty one may be. */
function refuseContent (body: unknown): void {
  if (typeof body === 'object' && body !== null && Object.keys(body).length === 0) return
  throw new BerthError('invalid_argument', 'body_not_taken', 'this request takes no body; options go into the query')
}

/**
 * Lets close() come to an end: streams and waits are told, new requests are refused, and connections
 * are closed when their answer is out (Node's server closes only those that are idle when it begins).
 */
function addClosing (app: FastifyInstance, ending: AbortController, closing: AbortSignal): void {
  app.addHook('preClose', async () => ending.abort(hostStopping()))
  app.addHook('onRequest', async () => {
    if (closing.aborted) throw hostStopping()
  })
  app.addHook('onSend', async (_request, reply) => {
    if (closing.aborted) reply.header('connection', 'close')
  })
  app.addHook('onResponse', async request => {
    if (closing.aborted) request.raw.socket?.end?.()
  })
}
