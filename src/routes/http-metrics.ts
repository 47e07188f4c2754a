/** Measures requests by route, method and status. */
import type { FastifyInstance } from 'fastify'
import { Gauge, Histogram, type Registry } from 'prom-client'

/** Adds a histogram of answer times (streams left out: they last as long as they are watched) and a gauge of requests under way. */
export function addHttpMetrics (app: FastifyInstance, registry: Registry): void {
  const duration = new Histogram({
    name: 'berth_http_request_duration_seconds',
    help: 'Time to answer a request, without streams',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60],
    registers: [registry],
  })
  const open = new Gauge({ name: 'berth_http_requests_open', help: 'Requests under way, streams among them', registers: [registry] })
  app.addHook('onRequest', async () => open.inc())
  // onResponse also runs when the client goes away before the end.
  app.addHook('onResponse', async (request, reply) => {
    open.dec()
    if (reply.hasHeader('x-accel-buffering')) return
    // The route's pattern, never the path: ids would make a new series each.
    const route = request.routeOptions.url ?? 'none'
    duration.observe({ method: request.method, route, status: reply.statusCode }, reply.elapsedTime / 1000)
  })
}
