/** A collector of traces of a test's own: OTLP over HTTP, in JSON. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Teardown } from './test-daemon.ts'

export interface ReceivedSpan {
  name: string
  traceId: string
  spanId: string
  parentSpanId?: string
  service: string
  attributes: Record<string, unknown>
  /** 2 is an error. */
  status: number
  startedAtMs: number
  endedAtMs: number
}

export interface TraceReceiver {
  /** Full URL for spans. */
  url: string
  spans: ReceivedSpan[]
  /** Waits until a span of this name has come. */
  find: (name: string) => Promise<ReceivedSpan>
}

interface WireSpan {
  name: string
  traceId: string
  spanId: string
  parentSpanId?: string
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes?: WireAttribute[]
  status?: { code?: number }
}
interface WireAttribute { key: string, value: Record<string, unknown> }
interface WireBody { resourceSpans: Array<{ resource: { attributes: WireAttribute[] }, scopeSpans: Array<{ spans: WireSpan[] }> }> }

/** `status`: what every post is answered with. */
export async function startTraceReceiver (t: Teardown, { status = 200 }: { status?: number } = {}): Promise<TraceReceiver> {
  const spans: ReceivedSpan[] = []
  const server = createServer(async (request, response) => {
    const chunks = await request.toArray() as Buffer[]
    if (status === 200) spans.push(...read(JSON.parse(Buffer.concat(chunks).toString()) as WireBody))
    response.writeHead(status, { 'content-type': 'application/json' }).end('{}')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`,
    spans,
    async find (name) {
      await pollUntil(async () => spans.some(span => span.name === name), 15_000)
      const found = spans.find(span => span.name === name)
      if (!found) throw new Error(`no span ${name} has come; there are ${spans.map(span => span.name).join(', ')}`)
      return found
    },
  }
}

function read ({ resourceSpans }: WireBody): ReceivedSpan[] {
  return resourceSpans.flatMap(({ resource, scopeSpans }) => scopeSpans.flatMap(scope => scope.spans.map(span => ({
    name: span.name,
    traceId: span.traceId,
    spanId: span.spanId,
    ...(span.parentSpanId ? { parentSpanId: span.parentSpanId } : {}),
    service: String(plain(resource.attributes)['service.name']),
    attributes: plain(span.attributes ?? []),
    status: span.status?.code ?? 0,
    startedAtMs: Number(BigInt(span.startTimeUnixNano) / 1000n) / 1000,
    endedAtMs: Number(BigInt(span.endTimeUnixNano) / 1000n) / 1000,
  }))))
}

function plain (attributes: readonly WireAttribute[]): Record<string, unknown> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]))
}
