/** What watchers of the daemon ask: is it alive, can it serve, how does it do, what does it speak. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { Registry } from 'prom-client'
import { ref } from '../schemas/components.ts'
import { Health, Readiness } from '../schemas/host.ts'
import { errorResponses } from './http-errors.ts'

export interface ProbeRouteOptions {
  host: { readiness: () => Readiness | Promise<Readiness> }
  metrics: Registry
  /** What it is that answers, and what it can do when it is ready. */
  words?: { name: string, ability: string }
}

const tags = ['probes']
const config = { isPublic: true }
const hostWords = { name: 'daemon', ability: 'create sandboxes' }

export const probeRoutes: FastifyPluginAsyncTypebox<ProbeRouteOptions> = async (app, { host, metrics, words = hostWords }) => {
  app.get('/healthz', {
    config,
    schema: { operationId: 'getHealth', summary: `Whether the ${words.name} answers at all`, tags, security: [], response: { 200: ref(Health, { description: 'It does' }), ...errorResponses() } },
  }, async () => ({ status: 'ok' as const }))

  app.get('/readyz', {
    config,
    schema: {
      operationId: 'getReadiness',
      summary: `Whether the ${words.name} can ${words.ability} at the moment`,
      tags,
      security: [],
      response: { ...errorResponses(), 200: ref(Readiness, { description: 'It can' }), 503: ref(Readiness, { description: 'It cannot; `problems` says why' }) },
    },
  }, async (_request, reply) => {
    const readiness = await host.readiness()
    return reply.code(readiness.ready ? 200 : 503).send(readiness)
  })

  app.get('/metrics', {
    config: { isOfAllPools: true },
    schema: {
      operationId: 'getMetrics',
      summary: 'Measurements in the format of Prometheus',
      tags,
      response: { 200: { description: 'Measurements', content: { 'text/plain': { schema: Type.String() } } }, ...errorResponses() },
    },
  }, async (_request, reply) => reply.header('content-type', metrics.contentType).send(await metrics.metrics()))

  app.get('/openapi.json', { config, schema: { hide: true } }, async () => app.swagger())
}
