/** The API of each host, below a path of the gateway's. */
import type { FastifyPluginAsync } from 'fastify'
import { workerPlace } from './proxy-path.ts'
import type { WorkerProxy } from './worker-proxy.ts'

export interface WorkerProxyRouteOptions {
  proxy: WorkerProxy
}

/** Who may is looked at here and not there: tokens come in other ways too, and tickets. */
const config = { isPublic: true }
const schema = { hide: true }

/** `ALL /workers/:id/api/*`, to be registered with the prefix `/v1`. */
export const workerProxyRoutes: FastifyPluginAsync<WorkerProxyRouteOptions> = async (app, { proxy }) => {
  // Here, and not in a handler: what comes between would read the body.
  app.addHook('onRequest', async (request, reply) => {
    const { url = '/' } = request.raw
    // The console asks for its files beside itself.
    if (request.routeOptions.url?.endsWith('/api')) return reply.redirect('api/', 307)
    const place = workerPlace(url)
    await proxy.pass(request, reply, { place, find: () => place.id })
  })
  app.all('/workers/:id/api', { config, schema }, async () => {})
  app.all('/workers/:id/api/*', { config, schema }, async () => {})
}
