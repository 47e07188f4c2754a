/** This machine and daemon over REST. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import { Host, HostDrainRequest } from '../schemas/host.ts'
import { errorResponses } from './http-errors.ts'

export interface HostRouteOptions {
  host: {
    describe: () => Promise<Host>
    drain: (request: HostDrainRequest) => Promise<Host>
    undrain: () => Promise<Host>
  }
}

const tags = ['host']
const host200 = (description: string) => ({ 200: ref(Host, { description }), ...errorResponses() })

export const hostRoutes: FastifyPluginAsyncTypebox<HostRouteOptions> = async (app, { host }) => {
  app.get('/host', {
    schema: { operationId: 'getHost', summary: 'Identity, versions, runtimes, capacity and use of this host', tags, response: host200('The host') },
  }, async () => host.describe())

  app.post('/host/drain', {
    config: { hasOptionalBody: true },
    schema: {
      operationId: 'drainHost',
      summary: 'Have this host take nothing more',
      description: 'No task is begun from then on, and creating a sandbox answers 503 `host_draining`; what runs goes on, and everything else serves. It outlives restarts of the daemon. Idempotent: only a `stopAfterMs` that is given replaces the one before.',
      tags,
      body: ref(HostDrainRequest),
      response: host200('The host, draining'),
    },
  }, async request => host.drain(request.body))

  app.post('/host/undrain', {
    schema: { operationId: 'undrainHost', summary: 'Have this host take tasks and sandboxes again', description: 'Idempotent.', tags, response: host200('The host') },
  }, async () => host.undrain())
}
