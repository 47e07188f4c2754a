import { availableParallelism } from 'node:os'
import { promisify } from 'node:util'
import { gunzip, inflate, inflateRaw, constants, type InputType, type ZlibOptions } from 'node:zlib'
import { Semaphore } from 'async-mutex'
import { BerthError } from '../../../errors.ts'
import type { Span, SpanTable } from './span-table.ts'

const windowBytes = 32 * 1024
// The least that zlib takes.
const minChunkBytes = 64
// More at a time finish none earlier, and take the cores from the sandbox that waits.
const inflating = new Semaphore(availableParallelism())
// RFC 1952: checksum and size at the end of a member.
const memberTrailerBytes = 8

const inflateAsync = promisify<InputType, ZlibOptions, Buffer>(inflate)
const gunzipAsync = promisify<InputType, ZlibOptions, Buffer>(gunzip)

/**
 * The data of a span from its bytes of the blob, off the main thread: exactly as long as the table says and with its sha256, or an error.
 *
 * @throws BerthError invalid_argument `image_invalid`.
 */
export async function inflateSpan (table: SpanTable, index: number, compressed: Buffer): Promise<Buffer> {
  const span = table.spans[index]
  if (!span) throw new Error(`a layer has no span ${index}`)
  const isPlain = table.kind === 'plain'
  const data = compressed.length !== span.blobEnd - span.blobStart ? undefined : isPlain ? compressed : await inflating.runExclusive(() => decompress(span, compressed))
  if (data?.length !== span.tarEnd - span.tarStart || !await hasHash(data, span.sha256)) {
    throw new BerthError('invalid_argument', 'image_invalid', 'a part of a layer does not have the content that its image promises; push the image again, or remove its index', { details: { digest: table.digest } })
  }
  return data
}

/** Whatever is decompressed, undefined when it is no deflate data or more than it should be. */
async function decompress (span: Span, compressed: Buffer): Promise<Buffer | undefined> {
  const expected = span.tarEnd - span.tarStart
  try {
    const dictionary = span.window.length > 0 ? await inflateAsync(span.window, { maxOutputLength: windowBytes }) : undefined
    // In one go: in the usual steps of 16 KiB it takes twice as long.
    const chunkSize = expected + minChunkBytes
    const { data, consumed } = await inflateRawUpToEnd(compressed, { dictionary, maxOutputLength: expected, chunkSize, finishFlush: constants.Z_SYNC_FLUSH })
    if (data.length === expected) return data
    // The member ends inside the span and others follow.
    const rest = compressed.subarray(consumed + memberTrailerBytes)
    const more = await gunzipAsync(rest, { maxOutputLength: expected - data.length, finishFlush: constants.Z_SYNC_FLUSH })
    return Buffer.concat([data, more])
  } catch {
    return undefined
  }
}

function inflateRawUpToEnd (compressed: Buffer, options: ZlibOptions): Promise<{ data: Buffer, consumed: number }> {
  return new Promise((resolve, reject) => {
    // With `info` the answer is the data and the engine, which knows how much it took.
    inflateRaw(compressed, { ...options, info: true }, (error, result) => {
      if (error) return reject(error)
      const { buffer, engine } = result as unknown as { buffer: Buffer, engine: { bytesWritten: number } }
      resolve({ data: buffer, consumed: engine.bytesWritten })
    })
  })
}

/** In the thread pool: a span is too large to be hashed between two requests. */
async function hasHash (data: Buffer, sha256: Buffer): Promise<boolean> {
  return Buffer.from(await crypto.subtle.digest('SHA-256', data as Buffer<ArrayBuffer>)).equals(sha256)
}
