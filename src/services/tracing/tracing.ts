/** Traces of what Berth does, sent to a collector by OTLP over HTTP. Off unless an endpoint is given; nothing is loaded then. */
import type { Logger } from 'pino'
import { runInSpan, type Span, type SpanAttributes, type SpanOptions } from './span.ts'

export interface Tracing {
  readonly isOn: boolean
  startSpan: (name: string, options?: SpanOptions) => Span
  /** Runs something in a span, which ends with it. `parent` is a traceparent. */
  inSpan: <T>(name: string, attributes: SpanAttributes, parent: string | undefined, work: (span: Span) => Promise<T>) => Promise<T>
  traceparentOf: (span: Span) => string | undefined
  /** Sends what has not been sent yet, and gives up soon where nobody takes it. */
  close: () => Promise<void>
}

export interface TracingOptions {
  /** Full URL that spans are posted to; empty: traces are off. */
  endpoint: string
  serviceName: string
  version: string
  /** Names this process among those of its service: the id of the host, say. */
  instanceId?: string
  logger: Logger
}

/** A collector that is away costs spans, never anything else. */
export async function openTracing (options: TracingOptions): Promise<Tracing> {
  if (options.endpoint === '') return noTracing
  const { OtlpTracing } = await import('./otlp-tracing.ts')
  return new OtlpTracing(options)
}

/** Runs work in a span of this tracing. */
export async function runTraced<T> (span: Span, work: (span: Span) => Promise<T>): Promise<T> {
  try {
    const result = await runInSpan(span, () => work(span))
    span.end()
    return result
  } catch (error) {
    span.end(error)
    throw error
  }
}

/** Records nothing, and passes on the traces of others. */
export const noTracing: Tracing = Object.freeze({
  isOn: false,
  startSpan: (_name: string, options: SpanOptions = {}) => silentSpan(options.parent),
  inSpan: <T>(_name: string, _attributes: SpanAttributes, parent: string | undefined, work: (span: Span) => Promise<T>) => work(silentSpan(parent)),
  traceparentOf: (span: Span) => span.traceparent,
  close: async () => {},
})

function silentSpan (traceparent: string | undefined): Span {
  return traceparent === undefined ? silence : { ...silence, traceparent, startChild: () => silentSpan(traceparent) }
}

const silence: Span = Object.freeze({ traceparent: undefined, isRecording: false, set: () => {}, startChild: () => silence, end: () => {} })
