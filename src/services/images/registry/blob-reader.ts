import type { Readable } from 'node:stream'
import { discardBody } from './bounded-body.ts'
import type { WireAnswer } from './registry-connections.ts'
import type { RegistryEndpoint } from './registry-endpoint.ts'
import { invalidAnswer, transportError, unavailable } from './registry-errors.ts'
import { RetryBudget, type RetryLimits } from './registry-retry.ts'

export interface BlobRange {
  digest: string
  /** Of the whole blob. */
  sizeBytes: number
  start: number
  endExclusive: number
}

interface ReadOptions extends RetryLimits {
  /** How long nothing, or next to nothing, may come. */
  stallTimeoutMs: number
  /** Told where the reader has got to, so that another endpoint can go on from there. */
  onProgress: (position: number) => void
}

// A connection that brings less within the stall timeout counts as stalled: bytes that drip keep no transfer alive.
const minBytesPerStall = 4096
// What a try must bring to count as progress: a server that cuts connections after every byte is not worth patience.
const progressBytes = 64 * 1024

/** Yields the bytes of a range, taking up again where a connection broke, stalled or answered an error that passes. */
export async function * readBlob (endpoint: RegistryEndpoint, range: BlobRange, options: ReadOptions): AsyncGenerator<Buffer, void, undefined> {
  const retries = new RetryBudget(options)
  let position = range.start
  while (position < range.endExclusive) {
    const begin = position
    try {
      for await (const chunk of readOnce(endpoint, { ...range, start: position }, options)) {
        position += chunk.length
        if (position - begin >= progressBytes) retries.progressed()
        options.onProgress(position)
        yield chunk
      }
      if (position < range.endExclusive) throw unavailable(endpoint.subject, 'it sent less than the whole')
    } catch (error) {
      await retries.wait(error)
    }
  }
}

/** Yields what one request brings of a range; ends early when the server does. */
async function * readOnce (endpoint: RegistryEndpoint, range: BlobRange, options: ReadOptions): AsyncGenerator<Buffer, void, undefined> {
  const isPart = range.start > 0 || range.endExclusive < range.sizeBytes
  const answer = await endpoint.request({
    method: 'GET',
    path: `blobs/${range.digest}`,
    what: `blob ${range.digest} in ${endpoint.subject.repository}`,
    headers: isPart ? { range: `bytes=${range.start}-${range.endExclusive - 1}` } : {},
    signal: options.signal,
  })
  try {
    const bounds = boundsOf(endpoint, answer, range)
    let position = bounds.start
    for await (const chunk of arrivals(endpoint, answer.body, options)) {
      const from = Math.max(range.start - position, 0)
      const to = Math.min(range.endExclusive - position, chunk.length)
      position += chunk.length
      if (position > bounds.endExclusive) throw invalidAnswer(endpoint.subject, `blob ${range.digest} is larger than its descriptor says`)
      if (from < to) yield from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to)
      // The rest of a whole blob that came in the place of a range.
      if (position >= range.endExclusive && position < bounds.endExclusive) return
    }
  } finally {
    answer.body.destroy()
  }
}

/** Which bytes of the blob an answer brings: those that were asked for, or all where the server knows no ranges. */
function boundsOf (endpoint: RegistryEndpoint, answer: WireAnswer, range: BlobRange): { start: number, endExclusive: number } {
  const { headers, statusCode } = answer
  if (statusCode === 206) {
    const match = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/.exec(String(headers['content-range']))
    const [start, last, total] = match ? [Number(match[1]), Number(match[2]), match[3]] : []
    const isAsked = start === range.start && last !== undefined && last >= start && last < range.endExclusive && (total === '*' || Number(total) === range.sizeBytes)
    if (!isAsked) throw invalidAnswer(endpoint.subject, `it sends another range of blob ${range.digest} than was asked for`)
    return { start, endExclusive: last + 1 }
  }
  if (statusCode !== 200) throw invalidAnswer(endpoint.subject, `it answers ${statusCode} where a blob was asked for`)
  const length = headers['content-length']
  if (length !== undefined && Number(length) !== range.sizeBytes) {
    throw invalidAnswer(endpoint.subject, `blob ${range.digest} has ${String(length).slice(0, 20)} bytes, its descriptor says ${range.sizeBytes}`)
  }
  return { start: 0, endExclusive: range.sizeBytes }
}

/** The chunks of a body as they come; fails when too little comes while they are waited for. */
async function * arrivals (endpoint: RegistryEndpoint, body: Readable, options: ReadOptions): AsyncGenerator<Buffer, void, undefined> {
  const chunks = body[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  let waitedMs = 0
  let bytes = 0
  try {
    for (;;) {
      const askedAt = performance.now()
      const next = await chunks.next()
      if (next.done === true) return
      // Only what is waited for here counts: a slow consumer is no fault of the registry.
      waitedMs += performance.now() - askedAt
      bytes += next.value.length
      if (waitedMs > options.stallTimeoutMs) {
        if (bytes < minBytesPerStall) throw unavailable(endpoint.subject, 'it hardly sends anything')
        waitedMs = bytes = 0
      }
      yield next.value
    }
  } catch (error) {
    options.signal.throwIfAborted()
    throw transportError(endpoint.subject, error)
  }
}

/** Asks whether a blob is there. */
export async function findBlob (endpoint: RegistryEndpoint, digest: string, signal: AbortSignal): Promise<boolean> {
  try {
    await discardBody(await endpoint.request({ method: 'HEAD', path: `blobs/${digest}`, action: 'pull,push', what: `blob ${digest}`, signal }))
    return true
  } catch (error) {
    if ((error as { code?: unknown }).code === 'image_not_found') return false
    throw error
  }
}
