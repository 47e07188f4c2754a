/** The API of each host, below a path of the gateway's, with the console for it. */
import type { FastifyPluginAsync } from 'fastify'
import { consoleRoutes } from '../../routes/console.ts'
import { workerPlace } from './proxy-path.ts'
import type { WorkerProxy } from './worker-proxy.ts'

export interface WorkerProxyRouteOptions {
  proxy: WorkerProxy
  /** The console's files; those of this build when absent. */
  consoleDirectory?: string
}

/** Who may is looked at here and not there: tokens come in other ways too, and tickets. */
const config = { isPublic: true }
const schema = { hide: true }

/** `ALL /workers/:id/api/*`, to be registered with the prefix `/v1`. */
export const workerProxyRoutes: FastifyPluginAsync<WorkerProxyRouteOptions> = async (app, { proxy, consoleDirectory }) => {
  await app.register(passingRoutes, { proxy })
  // A page of a host's would be one of the gateway's origin, and could take the token that somebody types there. So the gateway shows its own.
  await app.register(async consoleApp => {
    consoleApp.addHook<{ Params: { id: string } }>('onRequest', async ({ params }) => { await proxy.checkWorker(params.id) })
    await consoleApp.register(consoleRoutes, { prefix: '/workers/:id/api', ...consoleDirectory !== undefined && { directory: consoleDirectory } })
  })
}

const passingRoutes: FastifyPluginAsync<{ proxy: WorkerProxy }> = async (app, { proxy }) => {
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
