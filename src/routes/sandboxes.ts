/** Sandboxes over REST. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import {
  Sandbox, SandboxCreate, SandboxPage, SandboxStatus, SandboxStop, SandboxUpdate,
  type SandboxStatus as Status,
} from '../schemas/sandbox.ts'
import { SandboxId, Words, noNul, pattern } from '../schemas/wire.ts'
import { errorResponses, imageProblems } from './http-errors.ts'
import { parseLabels } from './query.ts'
import { clientSignal } from './streaming.ts'

export interface SandboxFilter {
  status?: Status[]
  labels?: Record<string, string>
  image?: string
  runtime?: string
  includeDeleted?: boolean
  limit: number
  cursor?: string
}

export interface SandboxWait {
  timeoutMs: number
  signal: AbortSignal
  until?: 'stopped' | 'running'
}

/** What these routes need of the sandbox service. */
export interface Sandboxes {
  create: (input: SandboxCreate, options: { idempotencyKey?: string }) => Promise<Sandbox>
  list: (filter: SandboxFilter) => SandboxPage
  get: (id: string) => Sandbox
  update: (id: string, update: SandboxUpdate) => Promise<Sandbox>
  start: (id: string) => Promise<Sandbox>
  stop: (id: string, options: { force: boolean, graceMs: number }) => Promise<Sandbox>
  pause: (id: string) => Promise<Sandbox>
  resume: (id: string) => Promise<Sandbox>
  wait: (id: string, options: SandboxWait) => Promise<Sandbox>
  remove: (id: string, options: { force: boolean }) => Promise<void>
}

export interface SandboxRouteOptions {
  sandboxes: Sandboxes
  closing: AbortSignal
}

const defaultGraceMs = 10_000
export const maxWaitMs = 24 * 3600 * 1000

export const WaitTimeout = Type.Integer({ minimum: 0, maximum: maxWaitMs, default: maxWaitMs, description: 'Answer 504 when it has not happened after this long, in milliseconds' })
export const Limit = Type.Integer({ minimum: 1, maximum: 1000, default: 100, description: 'Items on a page' })
export const Cursor = Type.Optional(Type.String({ maxLength: 512, description: 'nextCursor of the page before' }))

const Params = Type.Object({ id: SandboxId }, { additionalProperties: false })

const ListQuery = Type.Object({
  limit: Limit,
  cursor: Cursor,
  status: Type.Optional(Type.Array(SandboxStatus, { description: 'One of these; repeat it or separate by commas' })),
  label: Type.Optional(Type.Array(Type.String({ maxLength: 512, pattern: pattern('^[^=]+=', 'must be name=value') }), { maxItems: 64, description: 'name=value; repeat it to ask for several labels at once' })),
  image: Type.Optional(Type.String({ maxLength: 1024, pattern: noNul, description: 'Image reference as it was given' })),
  runtime: Type.Optional(Type.String({ maxLength: 64, pattern: noNul })),
  deleted: Type.Optional(Type.Boolean({ description: 'Deleted ones too, as long as their records are kept' })),
}, { additionalProperties: false })

const tags = ['sandboxes']
const sandbox = (description: string) => ref(Sandbox, { description })

export const sandboxRoutes: FastifyPluginAsyncTypebox<SandboxRouteOptions> = async (app, { sandboxes, closing }) => {
  app.post('/sandboxes', {
    config: { secretFields: ['registryCredentials'] },
    schema: {
      operationId: 'createSandbox',
      summary: 'Create a sandbox and start it',
      description: 'Answers when the sandbox runs (or, with start false, is set up); `timings` says how long each step took. Without an entrypoint it idles, ready for execs.',
      tags,
      body: ref(SandboxCreate),
      response: {
        201: { ...sandbox('The sandbox'), headers: { Location: { type: 'string', description: 'Path of the sandbox' } } },
        ...errorResponses(409, 413, 415, 429, 504),
        ...imageProblems,
      },
    },
  }, async (request, reply) => {
    const claim = request.idempotent
    // The service keeps the key with the sandbox, so that a crash before the answer makes no second one.
    const created = await sandboxes.create(request.body, { idempotencyKey: claim && `${claim.tokenId}/${claim.key}` })
    return reply.code(201).header('location', `/v1/sandboxes/${created.id}`).send(created)
  })

  app.get('/sandboxes', {
    // The native serialiser: a page of hundreds takes it half the time, and it needs no warming up. The service answers exactly the schema's shape.
    serializerCompiler: () => page => JSON.stringify(page),
    schema: { operationId: 'listSandboxes', summary: 'List sandboxes', tags, querystring: ListQuery, response: { 200: ref(SandboxPage, { description: 'A page of sandboxes' }), ...errorResponses() } },
  }, async request => {
    const { label, deleted, ...filter } = request.query
    return sandboxes.list({ ...filter, ...(label && { labels: parseLabels(label) }), ...(deleted !== undefined && { includeDeleted: deleted }) })
  })

  app.get('/sandboxes/:id', {
    schema: { operationId: 'getSandbox', summary: 'Get a sandbox', tags, params: Params, response: { 200: sandbox('The sandbox'), ...errorResponses(404) } },
  }, async request => sandboxes.get(request.params.id))

  app.patch('/sandboxes/:id', {
    schema: {
      operationId: 'updateSandbox',
      summary: 'Replace the labels, or extend the deadline',
      tags,
      params: Params,
      body: ref(SandboxUpdate),
      response: { 200: sandbox('The sandbox as it is after the change'), ...errorResponses(404, 409, 413, 415) },
    },
  }, async request => sandboxes.update(request.params.id, request.body))

  app.delete('/sandboxes/:id', {
    schema: {
      operationId: 'deleteSandbox',
      summary: 'Delete a sandbox and everything it holds',
      description: 'Its record stays readable for a time under ?deleted=true.',
      tags,
      params: Params,
      querystring: Type.Object({ force: Type.Boolean({ default: false, description: 'Also when it runs: it is killed first' }) }, { additionalProperties: false }),
      response: { 204: Type.Null({ description: 'It is gone' }), ...errorResponses(404, 409) },
    },
  }, async (request, reply) => {
    await sandboxes.remove(request.params.id, { force: request.query.force })
    return reply.code(204).send(null)
  })

  const action = (name: string, summary: string) => ({
    operationId: `${name}Sandbox`, summary, tags, params: Params, response: { 200: sandbox('The sandbox as it is after the change'), ...errorResponses(404, 409, 504) },
  })
  app.post('/sandboxes/:id/start', { schema: action('start', 'Start a sandbox that was only created, or one that has ended, on the files it left') },
    async request => sandboxes.start(request.params.id))
  app.post('/sandboxes/:id/pause', { schema: action('pause', 'Freeze every process of a sandbox; its deadlines stand still') },
    async request => sandboxes.pause(request.params.id))
  app.post('/sandboxes/:id/resume', { schema: action('resume', 'Let a paused sandbox go on') },
    async request => sandboxes.resume(request.params.id))
  app.post('/sandboxes/:id/stop', {
    config: { hasOptionalBody: true },
    schema: { ...action('stop', 'Stop a sandbox: SIGTERM, a time of grace, SIGKILL'), body: ref(SandboxStop) },
  }, async request => {
    const { force = false, graceMs = defaultGraceMs } = request.body
    return sandboxes.stop(request.params.id, { force, graceMs })
  })

  app.get('/sandboxes/:id/wait', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'waitSandbox',
      summary: 'Wait until a sandbox has stopped',
      tags,
      params: Params,
      querystring: Type.Object({
        timeoutMs: WaitTimeout,
        until: Words(['stopped', 'running'], { default: 'stopped' }),
      }, { additionalProperties: false }),
      response: { 200: sandbox('The sandbox; `end` says why it stopped'), ...errorResponses(404, 409, 499, 504) },
    },
  }, async (request, reply) => sandboxes.wait(request.params.id, { ...request.query, signal: clientSignal(reply, closing) }))
}
