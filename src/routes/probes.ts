/** What watchers of the daemon ask: is it alive, can it serve, how does it do, what does it speak. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { Registry } from 'prom-client'
import { ref } from '../schemas/components.ts'
import { Health, Readiness } from '../schemas/host.ts'
import { errorResponses } from './http-errors.ts'

export interface ProbeRouteOptions {
  host: { readiness: () => Readiness }
  metrics: Registry
}

const tags = ['probes']
const config = { isPublic: true }

export const probeRoutes: FastifyPluginAsyncTypebox<ProbeRouteOptions> = async (app, { host, metrics }) => {
  app.get('/healthz', {
    config,
    schema: { operationId: 'getHealth', summary: 'Whether the daemon answers at all', tags, security: [], response: { 200: ref(Health, { description: 'It does' }), ...errorResponses() } },
  }, async () => ({ status: 'ok' as const }))

  app.get('/readyz', {
    config,
    schema: {
      operationId: 'getReadiness',
      summary: 'Whether the daemon can create sandboxes at the moment',
      tags,
      security: [],
      response: { ...errorResponses(), 200: ref(Readiness, { description: 'It can' }), 503: ref(Readiness, { description: 'It cannot; `problems` says why' }) },
    },
  }, async (_request, reply) => {
    const readiness = host.readiness()
    return reply.code(readiness.ready ? 200 : 503).send(readiness)
  })

  app.get('/metrics', {
    schema: {
      operationId: 'getMetrics',
      summary: 'Measurements in the format of Prometheus',
      tags,
      response: { 200: { description: 'Measurements', content: { 'text/plain': { schema: Type.String() } } }, ...errorResponses() },
    },
  }, async (_request, reply) => reply.header('content-type', metrics.contentType).send(await metrics.metrics()))

  app.get('/openapi.json', { config, schema: { hide: true } }, async () => app.swagger())
}
