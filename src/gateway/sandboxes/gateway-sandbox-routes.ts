/** Sandboxes of a fleet over REST: made somewhere in a pool, and reached by their id wherever they are. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../../errors.ts'
import { errorResponses, imageProblems } from '../../routes/http-errors.ts'
import { parseLabels } from '../../routes/query.ts'
import { Cursor, Limit } from '../../routes/sandboxes.ts'
import { ref } from '../../schemas/components.ts'
import { FleetSandboxCreate } from '../../schemas/fleet.ts'
import { FleetSandboxPage } from '../../schemas/fleet-sandbox.ts'
import { Sandbox, SandboxStatus } from '../../schemas/sandbox.ts'
import { PoolName } from '../../schemas/task.ts'
import { Ticket, TicketCreate } from '../../schemas/ticket.ts'
import { pattern } from '../../schemas/wire.ts'
import { sandboxPlace } from '../proxy/proxy-path.ts'
import { checkPool, checkProxied } from '../proxy/proxy-permissions.ts'
import { askWorker } from '../proxy/worker-calls.ts'
import type { WorkerLinks } from '../proxy/worker-links.ts'
import type { WorkerProxy } from '../proxy/worker-proxy.ts'
import { workerRefuses } from '../proxy/worker-problems.ts'
import type { FleetPrincipal } from '../worker-record.ts'
import type { SandboxIndex } from './sandbox-index.ts'
import type { SandboxLookup } from './sandbox-lookup.ts'
import type { SandboxPlacer } from './sandbox-placer.ts'

export interface GatewaySandboxRouteOptions {
  proxy: WorkerProxy
  links: WorkerLinks
  /** Who asks; called once authentication has let the request in. */
  principalOf: (request: FastifyRequest) => FleetPrincipal
  index: SandboxIndex
  placer: Pick<SandboxPlacer, 'create'>
  lookup: Pick<SandboxLookup, 'list'>
}

// A list is of all pools where none is named.
const { default: _, ...AnyPool } = PoolName

const ListQuery = Type.Object({
  limit: Limit,
  cursor: Cursor,
  pool: Type.Optional(AnyPool as typeof PoolName),
  status: Type.Optional(Type.Array(SandboxStatus, { description: 'One of these; repeat it or separate by commas' })),
  label: Type.Optional(Type.Array(Type.String({ maxLength: 512, pattern: pattern('^[^=]+=', 'must be name=value') }), { maxItems: 64, description: 'name=value; repeat it to ask for several labels at once' })),
}, { additionalProperties: false })

const tags = ['sandboxes']
const ticketTimeoutMs = 10_000

const createDescription = `As on a host, which is chosen by pool, hostLabels and free room; the answer's X-Berth-Worker names it. 503 \`no_room\` says what is missing.

503 \`placement_unsure\`: a host was asked and has not answered. A repeat with the same Idempotency-Key (details.idempotencyKey where the request had none) goes to the same host, and gets the
same sandbox.`

/** To be registered with the prefix `/v1`. */
export const gatewaySandboxRoutes: FastifyPluginAsyncTypebox<GatewaySandboxRouteOptions> = async (app, options) => {
  // The prefix is applied already.
  const parts = { ...options, prefix: '' }
  void app.register(passedOn, parts)
  void app.register(answeredHere, parts)
}

/** Everything about one sandbox is its host's to answer. */
const passedOn: FastifyPluginAsync<GatewaySandboxRouteOptions> = async (app, { proxy, index }) => {
  // Here, and not in a handler: what comes between would read the body.
  app.addHook('onRequest', async (request, reply) => {
    const place = sandboxPlace(request.raw.url ?? '/')
    const isWhole = place.segments.length === 3
    await proxy.pass(request, reply, {
      place,
      find: async () => (await placed(index, place.id)).workerId,
      onAnswer: status => {
        // What is gone from its host need not be found any more.
        const isGone = isWhole && (status === 404 || (request.method === 'DELETE' && status < 300))
        if (isGone) index.drop(place.id).catch((error: unknown) => request.log.warn({ err: error, sandboxId: place.id }, 'sandbox could not be taken off the index'))
      },
    })
  })
  const passing = { config: { isPublic: true }, schema: { hide: true } }
  app.all('/sandboxes/:id', passing, async () => {})
  app.all('/sandboxes/:id/*', passing, async () => {})
}

const answeredHere: FastifyPluginAsyncTypebox<GatewaySandboxRouteOptions> = async (app, { links, principalOf, index, placer, lookup }) => {
  // The same table as for what is passed on: these are paths of a host's, too.
  app.addHook('onRequest', async request => {
    const segments = request.url.split('?', 1)[0]!.slice(1).split('/')
    checkProxied(principalOf(request), { method: request.method, segments, query: new URLSearchParams(), isUpgrade: false })
  })
  // Keys are honoured here, where it is known what a repeat must do.
  const config = { answersSecret: true }

  app.post('/sandboxes', {
    config,
    schema: {
      operationId: 'createFleetSandbox',
      summary: 'Create a sandbox on a host of a pool',
      description: createDescription,
      tags,
      body: ref(FleetSandboxCreate),
      response: {
        201: { ...ref(Sandbox, { description: 'The sandbox' }), headers: { Location: { type: 'string', description: 'Path of the sandbox' }, 'X-Berth-Worker': { type: 'string', description: 'Worker that it is on' } } },
        ...errorResponses(409, 413, 415, 429, 504),
        ...imageProblems,
      },
    },
  }, async (request, reply) => {
    const { workerId, status, body, isReplayed } = await placer.create({ principal: principalOf(request), create: request.body, key: keyOf(request), requestId: request.id })
    if (status === 201) reply.header('location', `/v1/sandboxes/${(JSON.parse(body) as Sandbox).id}`)
    if (isReplayed) reply.header('idempotency-replayed', 'true')
    return tell(reply, workerId, status, body)
  })

  app.get('/sandboxes', {
    config,
    // The native serialiser: the facts come from hosts, in their schema's shape.
    serializerCompiler: () => page => JSON.stringify(page),
    schema: {
      operationId: 'listFleetSandboxes',
      summary: 'List the sandboxes that were made by way of a gateway',
      description: 'Newest first. A page may hold fewer than it could: what does not pass the filter is left out of it, and what a host did not tell within two seconds.',
      tags,
      querystring: ListQuery,
      response: { 200: ref(FleetSandboxPage, { description: 'A page of sandboxes' }), ...errorResponses() },
    },
  }, async request => {
    const { pool, label, ...filter } = request.query
    const principal = principalOf(request)
    if (pool !== undefined) checkPool(principal, pool)
    return await lookup.list({ ...filter, pools: pool === undefined ? principal.pools : [pool], ...(label && { labels: parseLabels(label) }) })
  })

  app.post('/tickets', {
    config,
    schema: {
      operationId: 'createFleetTicket',
      summary: 'Make a ticket for a sandbox: it lets in once, within seconds',
      description: 'The ticket is its host\'s own, for the logs of the sandbox or one of its terminals; it is good below /v1/sandboxes/{id} here. No Idempotency-Key is honoured here.',
      tags: ['tokens'],
      body: ref(TicketCreate),
      response: { 201: ref(Ticket, { description: 'The ticket' }), ...errorResponses(404, 413, 415, 429) },
    },
  }, async (request, reply) => {
    const { sandboxId, scope } = request.body
    if (sandboxId === undefined) throw new BerthError('invalid_argument', 'missing_field', 'sandboxId is required: a gateway makes tickets for sandboxes', { details: { field: 'sandboxId' } })
    if (scope === 'preview') {
      throw new BerthError('invalid_argument', 'invalid_field', 'scope must not be preview here: previews by ticket need cookies, which a gateway does not pass on; send the token, or ask the host itself', { details: { field: 'scope' } })
    }
    const { workerId } = await placed(index, sandboxId)
    const link = await links.open(workerId)
    checkPool(principalOf(request), link.access.worker.pool)
    const { status, text } = await askWorker(link, { method: 'POST', target: '/v1/tickets', json: request.body, headers: { 'x-request-id': request.id }, timeoutMs: ticketTimeoutMs })
    if (status === 401) {
      links.doubt(workerId)
      throw workerRefuses(workerId)
    }
    return tell(reply, workerId, status, text)
  })
}

/** @throws BerthError not_found `sandbox_not_found`. */
async function placed (index: SandboxIndex, id: string) {
  const found = /^sbx_[a-z0-9]{20}$/.test(id) ? await index.find(id) : undefined
  if (found) return found
  throw new BerthError('not_found', 'sandbox_not_found', 'no sandbox with this id was made by way of a gateway, or it is gone; those of tasks are below /v1/workers/{id}/api')
}

/** What a host said, in its own words. */
function tell (reply: FastifyReply, workerId: string, status: number, json: string) {
  if (status === 429 || status >= 503) reply.header('retry-after', '1')
  // Said to be of any type, since it is checked nowhere: hosts may be of a later version.
  return reply.code(status as 201).header('x-berth-worker', workerId).type('application/json; charset=utf-8').serializer(String).send(json as never)
}

function keyOf ({ headers }: FastifyRequest): string | undefined {
  const key = headers['idempotency-key']
  if (key === undefined) return undefined
  if (typeof key === 'string' && /^[\x21-\x7e]{1,255}$/.test(key)) return key
  throw new BerthError('invalid_argument', 'idempotency_key_invalid', 'Idempotency-Key must be 1 to 255 visible ASCII characters')
}
