import {
  ROOT_CONTEXT, SpanKind, SpanStatusCode, trace, type Attributes, type Context, type Span as OtelSpan, type Tracer,
} from '@opentelemetry/api'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BatchSpanProcessor, TracerProvider, type ReadableSpan, type SpanExporter } from '@opentelemetry/sdk-trace'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { raceWithDelay } from '../../lib/race.ts'
import type { Span, SpanAttributes, SpanOptions } from './span.ts'
import { runTraced, type Tracing, type TracingOptions } from './tracing.ts'

/** An end of the process waits no longer than this for a collector. */
const closeWithinMs = 2000
const exportWithinMs = 3000
/** Spans that wait for a collector; beyond this the youngest are dropped. */
const maxWaitingSpans = 4096
/** A collector that stays away is worth a line now and then. */
const warnEveryMs = 60_000

const kinds = { server: SpanKind.SERVER, client: SpanKind.CLIENT, producer: SpanKind.PRODUCER, consumer: SpanKind.CONSUMER }

/** Traces by OTLP over HTTP, in JSON. */
export class OtlpTracing implements Tracing {
  readonly isOn = true
  readonly #provider: TracerProvider
  readonly #tracer: Tracer

  constructor ({ endpoint, serviceName, version, instanceId, logger }: TracingOptions) {
    const exporter = new OTLPTraceExporter({ url: endpoint, timeoutMillis: exportWithinMs, httpAgentOptions: { keepAlive: true } })
    this.#provider = new TracerProvider({
      // Names of OpenTelemetry's semantic conventions for resources.
      resource: resourceFromAttributes({
        'service.name': serviceName,
        'service.version': version,
        ...(instanceId === undefined ? {} : { 'service.instance.id': instanceId }),
      }),
      spanProcessors: [new BatchSpanProcessor({
        exporter: reporting(exporter, logger),
        maxQueueSize: maxWaitingSpans,
        scheduledDelayMillis: 2000,
        exportTimeoutMillis: exportWithinMs,
      })],
    })
    this.#tracer = this.#provider.getTracer('berth', version)
  }

  startSpan (name: string, { attributes, parent, startedAtMs, kind }: SpanOptions = {}): Span {
    const options = { attributes: defined(attributes), startTime: startedAtMs, kind: kind === undefined ? SpanKind.INTERNAL : kinds[kind] }
    return new RecordedSpan(this.#tracer, this.#tracer.startSpan(name, options, contextOf(parent)))
  }

  async inSpan<T> (name: string, attributes: SpanAttributes, parent: string | undefined, work: (span: Span) => Promise<T>): Promise<T> {
    return await runTraced(this.startSpan(name, { attributes, parent }), work)
  }

  traceparentOf (span: Span): string | undefined {
    return span.traceparent
  }

  async close (): Promise<void> {
    await raceWithDelay(closeWithinMs, [this.#provider.shutdown().catch(() => {})])
  }
}

class RecordedSpan implements Span {
  readonly #tracer: Tracer
  readonly #span: OtelSpan
  #hasEnded = false

  constructor (tracer: Tracer, span: OtelSpan) {
    this.#tracer = tracer
    this.#span = span
  }

  get isRecording (): boolean { return this.#span.isRecording() }

  get traceparent (): string {
    const { traceId, spanId, traceFlags } = this.#span.spanContext()
    return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`
  }

  set (attributes: SpanAttributes): void {
    this.#span.setAttributes(defined(attributes))
  }

  startChild (name: string, attributes?: SpanAttributes): Span {
    return new RecordedSpan(this.#tracer, this.#tracer.startSpan(name, { attributes: defined(attributes) }, trace.setSpan(ROOT_CONTEXT, this.#span)))
  }

  end (error?: unknown): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    if (error !== undefined) {
      // What strangers say may hold anything; our own messages are for clients anyway.
      const [type, message] = error instanceof BerthError ? [error.code, error.message] : [error instanceof Error ? error.name : 'unknown', undefined]
      this.#span.setAttribute('error.type', type)
      this.#span.setStatus({ code: SpanStatusCode.ERROR, ...(message === undefined ? {} : { message }) })
    }
    this.#span.end()
  }
}

function defined (attributes: SpanAttributes = {}): Attributes {
  return Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined))
}

/** version-traceid-parentid-flags, all in lower-case hex; neither id may be all zeros: https://www.w3.org/TR/trace-context/#traceparent-header */
const traceparentPattern = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-|$)/

function contextOf (traceparent: string | undefined): Context {
  const [, traceId, spanId, flags] = traceparentPattern.exec(traceparent ?? '') ?? []
  if (traceId === undefined || spanId === undefined || flags === undefined) return ROOT_CONTEXT
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & 1, isRemote: true })
}

/** Says in the log when spans are lost, at most once a minute. */
function reporting (exporter: OTLPTraceExporter, logger: Logger): SpanExporter {
  let lost = 0
  let warnedAtMs = -Infinity
  return {
    export (spans: ReadableSpan[], done) {
      exporter.export(spans, result => {
        if (result.error !== undefined || result.code !== 0) {
          lost += spans.length
          if (performance.now() - warnedAtMs > warnEveryMs) {
            warnedAtMs = performance.now()
            logger.warn({ err: result.error, lost }, 'the collector of traces takes no spans; they are dropped')
            lost = 0
          }
        }
        done(result)
      })
    },
    forceFlush: () => exporter.forceFlush(),
    shutdown: () => exporter.shutdown(),
  }
}
