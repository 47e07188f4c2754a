/** What makes a Fastify server one of ours, whatever it serves: ids of requests, strict schemas, headers of every answer, and an end that comes to an end. */
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { LogController, type FastifyBaseLogger, type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { BerthError } from '../errors.ts'
import { answerSerializers } from './answer-serializers.ts'
import { answerClientError, answerError } from './http-errors.ts'
import { coerceQuery, type QuerySchema } from './query.ts'

export interface HttpLimits {
  bodyBytes: number
  /** URL and headers together. */
  headBytes: number
  /** How long a client may take to send the head of a request, and again for its body. */
  requestTimeoutMs: number
}

export const defaultHttpLimits: Readonly<HttpLimits> = Object.freeze({ bodyBytes: 16 * 1024 ** 2, headBytes: 16 * 1024, requestTimeoutMs: 120_000 })

/** PEM of a certificate and its key, and of the authorities whose clients alone are let in. */
export interface ServerCertificates {
  cert: Buffer
  key: Buffer
  clientCa?: Buffer
}

export interface HttpServerOptions {
  logger: FastifyBaseLogger
  limits: HttpLimits
  /** Aborted when the process ends. */
  closing: AbortSignal
  /** Whether a request that asks for an upgrade gets one; without it none does. */
  shouldUpgrade?: (request: IncomingMessage) => boolean
  /** The path that the router sees. */
  rewriteUrl?: (request: IncomingMessage) => string
  /** Without it the server speaks plain HTTP. */
  certificates?: ServerCertificates | undefined
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** A request without a body counts as one with `{}`. */
    hasOptionalBody?: boolean
  }
}

type AjvPlugin = Extract<NonNullable<NonNullable<FastifyServerOptions['ajv']>['plugins']>[number], (...args: never[]) => unknown>

/** A server without routes. It listens nowhere yet. */
export function createHttpServer ({ logger, limits, closing, shouldUpgrade = () => false, rewriteUrl, certificates }: HttpServerOptions): FastifyInstance {
  const errorOptions = { closing, bodyBytes: limits.bodyBytes }
  // Of the head alone: what goes through to a program or a worker may take as long as it likes.
  const transport = { maxHeaderSize: limits.headBytes, headersTimeout: limits.requestTimeoutMs, shouldUpgradeCallback: shouldUpgrade }
  const options: FastifyServerOptions<Server> = {
    loggerInstance: logger,
    // One line of our own for each answer says more than Fastify's two.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: limits.bodyBytes,
    rewriteUrl: request => rewriteUrl?.(request as IncomingMessage) ?? request.url ?? '/',
    return503OnClosing: false,
    genReqId: requestId,
    routerOptions: { maxParamLength: 1024 },
    frameworkErrors: (error, request, reply) => void answerError(error, request, reply.header('x-request-id', request.id), errorOptions),
    clientErrorHandler: (error, socket) => answerClientError(error, socket as Socket, () => requestId()),
    schemaController: { compilersFactory: { buildSerializer: answerSerializers() } },
    ajv: {
      // One finding is enough, and looking for all lets a body be made that takes long to check.
      customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: true, allErrors: false, strict: true, verbose: true },
      plugins: [addTotalBytes, addDependentRequired],
    },
  }
  const server = certificates
    ? Fastify({ ...options, https: { ...transport, ...tlsOf(certificates) } } as FastifyServerOptions<Server>)
    : Fastify({ ...options, http: transport })
  return server.withTypeProvider<TypeBoxTypeProvider>() as unknown as FastifyInstance
}

function tlsOf ({ cert, key, clientCa }: ServerCertificates) {
  return { cert, key, ...(clientCa ? { ca: clientCa, requestCert: true, rejectUnauthorized: true } : {}) }
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
export function addManners (app: FastifyInstance): void {
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

export interface ClosingOptions {
  /** Aborted by `close()`. */
  ending: AbortController
  /** Aborted with it, or before. */
  closing: AbortSignal
  /** What requests and streams that it cuts off are told. */
  reason: () => BerthError
}

/**
 * Lets close() come to an end: streams and waits are told, new requests are refused, and connections
 * are closed when their answer is out (Node's server closes only those that are idle when it begins).
 */
export function addClosing (app: FastifyInstance, { ending, closing, reason }: ClosingOptions): void {
  app.addHook('preClose', async () => ending.abort(reason()))
  app.addHook('onRequest', async () => {
    if (closing.aborted) throw reason()
  })
  app.addHook('onSend', async (_request, reply) => {
    if (closing.aborted) reply.header('connection', 'close')
  })
  app.addHook('onResponse', async request => {
    if (closing.aborted) request.raw.socket?.end?.()
  })
}
