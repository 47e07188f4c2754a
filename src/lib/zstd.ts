/** Decompression of zstd streams of any number of frames (RFC 8878). */
import { Readable } from 'node:stream'
import { createZstdDecompress } from 'node:zlib'

const frameMagic = 0xfd2fb528
// Sixteen magics whose frames a decoder passes over; zstd:chunked keeps its table of contents in one.
const skippableMagic = 0x184d2a50
const batchBytes = 256 * 1024
// Bytes of a frame's header by the two fields of its descriptor (RFC 8878, 3.1.1.1.1).
const dictionaryIdBytes = [0, 1, 2, 4] as const
const contentSizeBytes = [0, 2, 4, 8] as const

/** Why a stream cannot be decompressed. */
export class ZstdError extends Error {
  constructor (message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'ZstdError'
  }
}

/**
 * The content of a zstd stream. A window of at most 128 MiB is taken, libzstd's own limit, so memory is bounded; the output
 * is for the reader to bound. What the source throws comes through as it is.
 *
 * @throws ZstdError when the stream is damaged, cut short or followed by something else.
 */
export async function * decompressZstd (source: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  let sourceError: { error: unknown } | undefined
  const input = Readable.from(alignToFrames(source, error => { sourceError = { error } }), { objectMode: false })
  const output = createZstdDecompress()
  input.on('error', error => output.destroy(error))
  input.pipe(output)
  try {
    for await (const chunk of output) yield chunk as Buffer
  } catch (error) {
    if (sourceError) throw sourceError.error
    throw error instanceof ZstdError ? error : new ZstdError('the zstd stream is damaged or cut short', error)
  } finally {
    input.destroy()
    output.destroy()
  }
}

/**
 * The same stream without skippable frames, in pieces of which none reaches over the end of a frame: zlib's decompressor
 * drops what follows a frame in the piece that ends it.
 */
async function * alignToFrames (source: AsyncIterable<Buffer>, onSourceError: (error: unknown) => void): AsyncGenerator<Buffer, void, undefined> {
  const reader = new ByteReader(source, onSourceError)
  let hasFrame = false
  try {
    while (await reader.has(4)) {
      const magic = reader.peek(4).readUInt32LE(0)
      if ((magic & 0xfffffff0) >>> 0 === skippableMagic) {
        if (!await reader.has(8)) break
        for await (const dropped of reader.take(8 + reader.peek(8).readUInt32LE(4))) void dropped
      } else if (magic === frameMagic) {
        hasFrame = true
        yield * batched(frame(reader))
      } else {
        throw new ZstdError('there is something in the zstd stream that is no frame')
      }
    }
    if (!hasFrame || !reader.isAtEnd) throw new ZstdError('the zstd stream is cut short')
  } finally {
    await reader.close()
  }
}

async function * frame (reader: ByteReader): AsyncGenerator<Buffer, void, undefined> {
  if (!await reader.has(5)) throw new ZstdError('the zstd stream is cut short')
  const descriptor = reader.peek(5).readUInt8(4)
  const isSingleSegment = (descriptor & 0x20) !== 0
  const hasChecksum = (descriptor & 0x04) !== 0
  const sizeField = descriptor >> 6
  const sizeBytes = sizeField === 0 && isSingleSegment ? 1 : contentSizeBytes[sizeField] as number
  yield * reader.take(5 + (isSingleSegment ? 0 : 1) + (dictionaryIdBytes[descriptor & 3] as number) + sizeBytes)
  for (let isLast = false; !isLast;) {
    if (!await reader.has(3)) throw new ZstdError('the zstd stream is cut short')
    const header = reader.peek(3).readUIntLE(0, 3)
    isLast = (header & 1) !== 0
    const type = (header >> 1) & 3
    // A run of one byte is written once, whatever its length.
    yield * reader.take(3 + (type === 1 ? 1 : header >> 3))
  }
  if (hasChecksum) yield * reader.take(4)
}

async function * batched (pieces: AsyncIterable<Buffer>): AsyncGenerator<Buffer, void, undefined> {
  let batch: Buffer[] = []
  let bytes = 0
  for await (const piece of pieces) {
    batch.push(piece)
    bytes += piece.length
    if (bytes < batchBytes) continue
    yield Buffer.concat(batch)
    batch = []
    bytes = 0
  }
  if (bytes > 0) yield Buffer.concat(batch)
}

/** Bytes of a stream by count. */
class ByteReader {
  readonly #source: AsyncIterator<Buffer>
  readonly #onSourceError: (error: unknown) => void
  #data = Buffer.alloc(0)

  constructor (source: AsyncIterable<Buffer>, onSourceError: (error: unknown) => void) {
    this.#source = source[Symbol.asyncIterator]()
    this.#onSourceError = onSourceError
  }

  /** Whether everything was taken; says so only after `has` has answered no. */
  get isAtEnd (): boolean {
    return this.#data.length === 0
  }

  /** Whether so many bytes are to come. For headers: all of them are held at once. */
  async has (count: number): Promise<boolean> {
    while (this.#data.length < count) {
      const next = await this.#next()
      if (!next) return false
      this.#data = Buffer.concat([this.#data, next])
    }
    return true
  }

  peek (count: number): Buffer {
    return this.#data.subarray(0, count)
  }

  /** Takes so many bytes in the pieces they come in. */
  async * take (count: number): AsyncGenerator<Buffer, void, undefined> {
    for (let left = count; left > 0;) {
      if (this.#data.length === 0) {
        const next = await this.#next()
        if (!next) throw new ZstdError('the zstd stream is cut short')
        this.#data = next
      }
      const piece = this.#data.subarray(0, left)
      this.#data = this.#data.subarray(piece.length)
      left -= piece.length
      if (piece.length > 0) yield piece
    }
  }

  async close (): Promise<void> {
    await this.#source.return?.()
  }

  async #next (): Promise<Buffer<ArrayBuffer> | undefined> {
    try {
      const { value, done } = await this.#source.next()
      return done === true ? undefined : value as Buffer<ArrayBuffer>
    } catch (error) {
      this.#onSourceError(error)
      throw error
    }
  }
}
