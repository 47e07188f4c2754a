/** Spans as the rest of Berth sees them: what takes time, under whom, and how it ended. */
import { AsyncLocalStorage } from 'node:async_hooks'

export type SpanAttributes = Readonly<Record<string, string | number | boolean | undefined>>

export interface Span {
  /** As the header of W3C Trace Context has it; where traces are off that of the parent, so that others' traces pass through. */
  readonly traceparent: string | undefined
  /** False where nobody would see it: then it is not worth computing attributes. */
  readonly isRecording: boolean
  set: (attributes: SpanAttributes) => void
  startChild: (name: string, attributes?: SpanAttributes) => Span
  /** The first call counts. With an error the span has failed. */
  end: (error?: unknown) => void
}

export interface SpanOptions {
  attributes?: SpanAttributes
  /** Of the parent; without it, or with one that makes no sense, it begins a trace of its own. */
  parent?: string
  /** Milliseconds since the epoch; now without it. */
  startedAtMs?: number
  /** Who it is to others: it answers a request, it sends one, it hands something to a queue, it takes from one. */
  kind?: 'server' | 'client' | 'producer' | 'consumer'
}

const active = new AsyncLocalStorage<Span>()

/** The span that the calling code runs in; undefined where there is none, or traces are off. */
export function activeSpan (): Span | undefined {
  return active.getStore()
}

/** Runs something, and all that it awaits, in a span. Does not end the span. */
export function runInSpan<T> (span: Span, work: () => T): T {
  return span.isRecording ? active.run(span, work) : work()
}

/** Times a piece of work as a child of the given span; only does it where there is none. */
export async function inChildSpan<T> (parent: Span | undefined, name: string, work: () => Promise<T>): Promise<T> {
  if (!parent?.isRecording) return await work()
  const span = parent.startChild(name)
  try {
    const result = await runInSpan(span, work)
    span.end()
    return result
  } catch (error) {
    span.end(error)
    throw error
  }
}
