/** Requests continue the trace of who sent them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import Fastify from 'fastify'
import { pino } from 'pino'
import { addHttpTraces } from '../../../src/routes/http-traces.ts'
import { activeSpan } from '../../../src/services/tracing/span.ts'
import { openTracing } from '../../../src/services/tracing/tracing.ts'
import { startTraceReceiver } from '../../support/trace-receiver.ts'

test('a request runs in a span of its route, below that of its client, and what it awaits sees it', async t => {
  const receiver = await startTraceReceiver(t)
  const tracing = await openTracing({ endpoint: receiver.url, serviceName: 'berth', version: '1', logger: pino({ level: 'silent' }) })
  const app = Fastify()
  t.after(() => app.close())
  addHttpTraces(app, tracing)
  app.post('/v1/tasks/:id', async () => {
    await new Promise(resolve => setImmediate(resolve))
    return { traceparent: activeSpan()?.traceparent }
  })
  app.get('/readyz', async () => ({ isTraced: activeSpan() !== undefined }))

  const traceId = 'a'.repeat(32)
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const answer = await fetch(`${url}/v1/tasks/tsk_1`, {
    method: 'POST',
    headers: { traceparent: `00-${traceId}-${'b'.repeat(16)}-01`, 'content-type': 'application/json' },
    body: JSON.stringify({ large: 'x'.repeat(500_000) }),
  }).then(response => response.json()) as { traceparent: string }
  assert.deepEqual(await fetch(`${url}/readyz`).then(response => response.json()), { isTraced: false })
  await tracing.close()

  const span = await receiver.find('POST /v1/tasks/:id')
  assert.equal(answer.traceparent, `00-${traceId}-${span.spanId}-01`)
  assert.deepEqual([span.traceId, span.parentSpanId, span.attributes['http.response.status_code']], [traceId, 'b'.repeat(16), 200])
  assert.deepEqual(receiver.spans.map(({ name }) => name), ['POST /v1/tasks/:id'])
})
