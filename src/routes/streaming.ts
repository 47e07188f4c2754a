/** Answers that go on while something happens: SSE, NDJSON and text, with back-pressure and an end for every case. */
import { Readable, pipeline } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { BerthError, toBerthError } from '../errors.ts'
import { cutOffStalled } from './follower-stall.ts'
import { chosenCompression, createCompressor } from './stream-compression.ts'

export type StreamFormat = 'text' | 'ndjson' | 'sse'

/** How records become bytes. */
export interface StreamEncoder<T> {
  encode: (record: T) => string | Buffer
  /** Tells the client of an error after the head was sent. */
  encodeError: (error: BerthError) => string
  /** Tells the client that there is no more, so that an EventSource need not come back. Not said where the stream was broken off. */
  encodeEnd?: () => string
}

export interface StreamContext {
  /** Aborted when the daemon ends; streams and waits end with it. */
  closing: AbortSignal
  /** Between two comments on a silent SSE stream, so that proxies keep it open. */
  heartbeatMs: number
  /** Who takes nothing for this long while something waits is cut off, in milliseconds; without it nobody is. */
  stallMs?: number
}

const contentTypes: Record<StreamFormat, string> = {
  text: 'text/plain; charset=utf-8',
  ndjson: 'application/x-ndjson; charset=utf-8',
  sse: 'text/event-stream; charset=utf-8',
}

// A refusal is known at once; a record of a followed log may be hours away. After this long the head is sent.
const refusalGraceMs = 100

/** The format of an answer: `?format`, else the first known type in Accept, else undefined. */
export function chosenFormat (request: FastifyRequest, format: string | undefined): string | undefined {
  if (format !== undefined) return format
  const known: Record<string, string> = { 'text/event-stream': 'sse', 'application/x-ndjson': 'ndjson', 'text/plain': 'text', 'application/json': 'json' }
  for (const part of (request.headers.accept ?? '').split(',')) {
    const found = known[part.split(';', 1)[0]!.trim().toLowerCase()]
    if (found !== undefined) return found
  }
  return undefined
}

/** Aborted when the client goes away before its answer is complete, or the daemon ends. */
export function clientSignal (reply: FastifyReply, closing: AbortSignal): AbortSignal {
  const gone = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort(new BerthError('cancelled', 'client_gone', 'the client went away before the answer'))
  })
  return AbortSignal.any([gone.signal, closing])
}

export interface StreamOptions<T> extends StreamEncoder<T> {
  format: StreamFormat
  context: StreamContext
  /** Begins the work, or rejects; its signal is aborted when nobody listens any more. */
  open: (signal: AbortSignal) => AsyncIterable<T> | Promise<AsyncIterable<T>>
}

/**
 * Answers with a stream of records, compressed where the client takes that. What is refused at its beginning is an
 * ordinary error answer.
 */
export async function sendStream<T> (reply: FastifyReply, options: StreamOptions<T>): Promise<FastifyReply> {
  const finished = new AbortController()
  const signal = AbortSignal.any([clientSignal(reply, options.context.closing), finished.signal])
  const source = await options.open(signal)
  const iterator = source[Symbol.asyncIterator]()
  const first = iterator.next()
  first.catch(() => {}) // Looked at below, or by the stream.
  await Promise.race([first, delay(refusalGraceMs, undefined, { ref: false })])
  const end = () => {
    finished.abort()
    // An iterator that is stuck in next() ends by the signal; nobody waits for it here.
    void iterator.return?.().catch(() => {})
  }
  const body = Readable.from(chunks(reply, iterator, first, signal, options, end), { objectMode: false })
  reply.raw.once('close', end)
  if (options.context.stallMs !== undefined) cutOffStalled(reply.raw, options.context.stallMs)
  void reply
    .header('content-type', contentTypes[options.format])
    .header('x-accel-buffering', 'no')
    .header('vary', 'Accept-Encoding')
  const compression = chosenCompression(reply.request)
  if (!compression) return reply.send(body)
  const compressor = createCompressor(compression)
  // How it ends is told by the body, or seen by the client.
  pipeline(body, compressor, () => {})
  return reply.header('content-encoding', compression).send(compressor)
}

async function * chunks<T> (
  reply: FastifyReply,
  iterator: AsyncIterator<T>,
  first: Promise<IteratorResult<T>>,
  signal: AbortSignal,
  options: StreamOptions<T>,
  end: () => void
): AsyncGenerator<string | Buffer> {
  reply.raw.flushHeaders()
  const { context, format, encode, encodeError, encodeEnd } = options
  const beats = format === 'sse' ? context.heartbeatMs : undefined
  try {
    for (let next = first; ; next = iterator.next()) {
      const settled = yield * withHeartbeat(next, signal, beats)
      if (settled === undefined) break
      if (settled.done) {
        if (encodeEnd && !signal.aborted) yield encodeEnd()
        break
      }
      yield encode(settled.value)
    }
  } catch (error) {
    if (!signal.aborted) {
      const known = toBerthError(error)
      if (known.kind === 'internal') reply.log.error({ err: error }, 'stream failed')
      yield encodeError(known)
    }
  } finally {
    end()
  }
}

/** Waits for a record, yielding a comment at each beat; undefined when the signal is aborted first. */
async function * withHeartbeat<T> (next: Promise<T>, signal: AbortSignal, everyMs: number | undefined): AsyncGenerator<string, T | undefined> {
  const aborted = Promise.withResolvers<undefined>()
  const onAbort = () => aborted.resolve(undefined)
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort)
  next.catch(() => {}) // It may fail after the abort has won.
  try {
    for (;;) {
      const beat = Promise.withResolvers<'beat'>()
      const timer = everyMs === undefined ? undefined : setTimeout(() => beat.resolve('beat'), everyMs)
      const settled = await Promise.race([next.then(value => ({ value })), aborted.promise, beat.promise]).finally(() => clearTimeout(timer))
      if (settled !== 'beat') return settled?.value
      yield ': still here\n\n'
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** One SSE message. Data is JSON, so it has no line ends. */
export function sseMessage (message: { id?: string, event: string, data: unknown }): string {
  const id = message.id === undefined ? '' : `id: ${message.id}\n`
  return `${id}event: ${message.event}\ndata: ${JSON.stringify(message.data)}\n\n`
}

/** One NDJSON record. */
export function jsonLine (record: unknown): string {
  return `${JSON.stringify(record)}\n`
}

/** Records as NDJSON, or as SSE messages that `describe` names; errors are records of type `error`. */
export function recordEncoder<T> (format: 'ndjson' | 'sse', describe: (record: T) => { id?: string, event: string }): StreamEncoder<T> {
  if (format === 'ndjson') {
    return { encode: jsonLine, encodeError: ({ code, message }) => jsonLine({ type: 'error', code, message }) }
  }
  return {
    encode: record => sseMessage({ ...describe(record), data: record }),
    encodeError: ({ code, message }) => sseMessage({ event: 'error', data: { type: 'error', code, message } }),
    encodeEnd: () => sseMessage({ event: 'end', data: { type: 'end' } }),
  }
}
