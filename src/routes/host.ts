/** This machine and daemon over REST. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import { Host } from '../schemas/host.ts'
import { errorResponses } from './http-errors.ts'

export interface HostRouteOptions {
  host: { describe: () => Promise<Host> }
}

export const hostRoutes: FastifyPluginAsyncTypebox<HostRouteOptions> = async (app, { host }) => {
  app.get('/host', {
    schema: { operationId: 'getHost', summary: 'Identity, versions, runtimes, capacity and use of this host', tags: ['host'], response: { 200: ref(Host, { description: 'The host' }), ...errorResponses() } },
  }, async () => host.describe())
}
