/** Workers of a fleet over REST. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { BerthError } from '../errors.ts'
import { errorResponses } from '../routes/http-errors.ts'
import { parseLabels } from '../routes/query.ts'
import { Cursor, Limit } from '../routes/sandboxes.ts'
import { ref } from '../schemas/components.ts'
import { Worker, WorkerId, WorkerPage, WorkerStatus } from '../schemas/fleet.ts'
import { PoolName } from '../schemas/task.ts'
import { pattern } from '../schemas/wire.ts'
import { principalOf } from './fleet-authentication.ts'
import { notFound } from './worker-registry.ts'
import type { FleetPrincipal, WorkerRecord, Workers } from './worker-record.ts'

export interface WorkerRouteOptions {
  workers: Workers
  /** Takes the addresses back that sandboxes of a worker have; answers how many. */
  addresses: { releaseOf: (workerId: string) => Promise<number> }
}

const tags = ['workers']
const Params = Type.Object({ id: WorkerId }, { additionalProperties: false })
const ListQuery = Type.Object({
  limit: Limit,
  cursor: Cursor,
  pool: Type.Optional(Type.String({ ...PoolName, default: undefined, description: 'Of this pool' })),
  status: Type.Optional(Type.Array(WorkerStatus, { description: 'One of these; repeat it or separate by commas' })),
  label: Type.Optional(Type.Array(Type.String({ maxLength: 512, pattern: pattern('^[^=]+=', 'must be name=value') }), { maxItems: 64, description: 'name=value; repeat it to ask for several labels at once' })),
}, { additionalProperties: false })

const onlyAdmins = { scopes: [] }

export const workerRoutes: FastifyPluginAsyncTypebox<WorkerRouteOptions> = async (app, { workers, addresses }) => {
  app.get('/workers', {
    schema: {
      operationId: 'listWorkers',
      summary: 'List the workers of the fleet, by their ids',
      tags,
      querystring: ListQuery,
      response: { 200: ref(WorkerPage, { description: 'A page of workers' }), ...errorResponses() },
    },
  }, async request => {
    const { limit, cursor, pool, status, label } = request.query
    const { pools } = principalOf(request)
    const labels = Object.entries(label ? parseLabels(label) : {})
    const after = cursor === undefined ? '' : readCursor(cursor)
    const found = (await workers.list({ ...pool === undefined ? {} : { pool }, ...pools ? { pools } : {} })).filter(worker =>
      worker.id > after && (status?.includes(statusOf(worker)) ?? true) && labels.every(([name, value]) => worker.labels[name] === value))
    const page = found.slice(0, limit)
    return { items: page.map(toWorker), ...found.length > page.length ? { nextCursor: Buffer.from(page.at(-1)!.id).toString('base64url') } : {} }
  })

  app.get('/workers/:id', {
    schema: { operationId: 'getWorker', summary: 'Show a worker', tags, params: Params, response: { 200: ref(Worker, { description: 'The worker' }), ...errorResponses(404) } },
  }, async request => toWorker(await visible(workers, principalOf(request), request.params.id)))

  for (const wish of ['drain', 'undrain'] as const) {
    app.post(`/workers/:id/${wish}`, {
      config: onlyAdmins,
      schema: {
        operationId: `${wish}Worker`,
        summary: wish === 'drain' ? 'Ask a worker to take nothing more; what runs there goes on' : 'Ask a worker to take tasks and sandboxes again',
        description: 'It hears of it with its next heartbeat, within seconds; its status says when it does so.',
        tags,
        params: Params,
        response: { 202: ref(Worker, { description: 'The worker, as it is at the moment' }), ...errorResponses(404, 409) },
      },
    }, async (request, reply) => {
      await workers.wish(request.params.id, wish)
      return reply.code(202).send(toWorker(await workers.get(request.params.id)))
    })
  }

  app.delete('/workers/:id', {
    config: onlyAdmins,
    schema: {
      operationId: 'removeWorker',
      summary: 'Forget a worker that will not come back',
      description: 'It must be lost, or have left. The addresses that the gateway lent to its sandboxes are free again: be sure that none of them runs any more.',
      tags,
      params: Params,
      response: { 204: Type.Null({ description: 'It is forgotten' }), ...errorResponses(404, 409) },
    },
  }, async (request, reply) => {
    const { id } = request.params
    const isKnown = await workers.remove(id).then(() => true, (error: unknown) => {
      // One that has left may still have addresses.
      if (error instanceof BerthError && error.kind === 'not_found') return false
      throw error
    })
    const count = await addresses.releaseOf(id)
    if (!isKnown && count === 0) throw notFound(id)
    return reply.code(204).send(null)
  })
}

export function statusOf ({ isLost, status }: WorkerRecord): WorkerStatus {
  return isLost ? 'lost' : status
}

/** One of another pool is not there. */
async function visible (workers: Workers, { pools }: FleetPrincipal, id: string): Promise<WorkerRecord> {
  const worker = await workers.get(id)
  if (pools && !pools.includes(worker.pool)) throw notFound(id)
  return worker
}

function toWorker (worker: WorkerRecord): Worker {
  const { id, pool, hostname, version, labels, capacity, free, sandboxes, tasks, apiUrl, registeredAtMs, lastSeenAtMs } = worker
  return {
    id,
    status: statusOf(worker),
    pool,
    hostname,
    version,
    labels,
    capacity,
    free,
    sandboxes,
    tasks,
    hasApi: apiUrl !== '',
    registeredAt: new Date(registeredAtMs).toISOString(),
    lastSeenAt: new Date(lastSeenAtMs).toISOString(),
  }
}

function readCursor (cursor: string): string {
  const id = Buffer.from(cursor, 'base64url').toString('latin1')
  if (/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(id)) return id
  throw new BerthError('invalid_argument', 'invalid_cursor', 'the cursor is not one that a list of workers gave')
}
