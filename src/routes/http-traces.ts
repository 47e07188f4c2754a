/** A span for each request of a client that brings or begins a trace. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { runInSpan, type Span } from '../services/tracing/span.ts'
import type { Tracing } from '../services/tracing/tracing.ts'

/** Asked again and again by machines: their traces would be all that there is. */
const unwatched = new Set(['/healthz', '/readyz', '/metrics'])

/**
 * What a request does runs in its span, a child of the one that the header `traceparent` names. Streams last as long as they are
 * watched, and so do their spans. Does nothing where traces are off.
 */
export function addHttpTraces (app: FastifyInstance, tracing: Tracing): void {
  if (!tracing.isOn) return
  const spans = new WeakMap<FastifyRequest, Span>()
  app.addHook('onRequest', (request, _reply, done) => {
    // The route's pattern, never the path, as for metrics.
    const route = request.routeOptions.url ?? 'none'
    if (unwatched.has(route)) return done()
    const { traceparent } = request.headers
    const span = tracing.startSpan(`${request.method} ${route}`, {
      kind: 'server',
      ...(typeof traceparent === 'string' ? { parent: traceparent } : {}),
      // Names of OpenTelemetry's semantic conventions for HTTP.
      attributes: { 'http.request.method': request.method, 'http.route': route, 'berth.request.id': request.id },
    })
    spans.set(request, span)
    runInSpan(span, done)
  })
  // A body comes in with its socket's events, which know nothing of the request.
  app.addHook('preValidation', (request, _reply, done) => {
    const span = spans.get(request)
    if (span) runInSpan(span, done)
    else done()
  })
  // onResponse also runs when the client goes away before the end.
  app.addHook('onResponse', async (request, reply) => {
    const span = spans.get(request)
    span?.set({ 'http.response.status_code': reply.statusCode })
    span?.end(reply.statusCode >= 500 ? new Error('the answer is an error') : undefined)
  })
}
