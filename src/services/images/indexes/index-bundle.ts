/**
 * A bundle: the files of an index or a profile as one blob, sealed by the key of the fleet. A line of JSON, then the files as it names them,
 * one after the other, each a gzip stream unless it is compressed already:
 *
 *     {"version":1,"kind":"index","digest":…,"diffId":…,"mediaType":…,"blobBytes":…,"parts":[{"name","bytes","sha256","storedBytes"}…],"mac":…}⏎
 *
 * The seal covers what the bundle is of, and size and digest of every file before compression. It is checked before anything else is read.
 */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { promisify } from 'node:util'
import { createGunzip, gzip } from 'node:zlib'
import { isObject } from '../image-config.ts'
import { ByteReader } from './byte-reader.ts'
import type { IndexKey } from './index-key.ts'

/** What a bundle is of. */
export interface BundleSubject {
  kind: 'index' | 'profile'
  /** Of the layer's blob, or of the image's manifest. */
  digest: string
  diffId: string
  mediaType: string
  blobBytes: number
}

/** A file of a bundle. */
export interface BundlePart {
  name: string
  /** Before compression. */
  maxBytes: number
  /** Whether it is stored as it is. */
  isCompressed: boolean
}

interface StoredPart {
  name: string
  bytes: number
  sha256: string
  storedBytes: number
}

interface BundleHeader extends BundleSubject {
  version: 1
  parts: StoredPart[]
  mac: string
}

/** What is stored is nothing that this host may use. */
export class BundleRefusedError extends Error {
  constructor (why: string, options?: ErrorOptions) {
    super(why, options)
    this.name = 'BundleRefusedError'
  }
}

/** The most that is shared; larger ones stay on the host that made them. It is held in memory while it is sent. */
const maxBundleBytes = 256 * 1024 ** 2
const maxHeaderBytes = 4096
const compress = promisify(gzip)

/** @throws Error when the files make more than may be shared. */
export async function packBundle (key: IndexKey, subject: BundleSubject, parts: readonly BundlePart[], dir: string): Promise<Buffer> {
  const stored: StoredPart[] = []
  const contents: Buffer[] = []
  let total = 0
  for (const { name, isCompressed } of parts) {
    const path = join(dir, name)
    const hash = createHash('sha256')
    let bytes = 0
    // Before it is in memory: metadata of a large layer is large, and compresses well.
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      hash.update(chunk)
      if ((bytes += chunk.length) > maxBundleBytes) throw new Error('the index is too large to be shared')
    }
    const content = isCompressed ? await readFile(path) : await compress(await readFile(path))
    if ((total += content.length) > maxBundleBytes) throw new Error('the index is too large to be shared')
    stored.push({ name, bytes, sha256: hash.digest('hex'), storedBytes: content.length })
    contents.push(content)
  }
  const header: BundleHeader = { version: 1, ...subject, parts: stored, mac: key.seal(sealedText(subject, stored)) }
  return Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...contents])
}

/**
 * Reads the first line of a bundle and checks its seal.
 *
 * @throws BundleRefusedError unless this key has sealed it for this subject and these parts.
 */
export async function openBundle (key: IndexKey, subject: BundleSubject, parts: readonly BundlePart[], body: AsyncIterable<Buffer>): Promise<OpenBundle> {
  const reader = new ByteReader(body)
  try {
    const line = await reader.readLine(maxHeaderBytes)
    const header = line === undefined ? undefined : parseHeader(line)
    if (!header) throw new BundleRefusedError('it is no bundle of an index')
    if (!key.isSealOf(sealedText(header, header.parts), header.mac)) throw new BundleRefusedError('it is not sealed by this fleet\'s key')
    // The media type is a name: two may stand for the same compression, which the table of spans tells.
    const isAsked = header.kind === subject.kind && header.digest === subject.digest && header.diffId === subject.diffId && header.blobBytes === subject.blobBytes
    if (!isAsked) throw new BundleRefusedError('it is of something else')
    const isShaped = header.parts.length === parts.length && header.parts.every((part, i) => part.name === parts[i]?.name && part.bytes <= (parts[i]?.maxBytes ?? 0))
    if (!isShaped) throw new BundleRefusedError('it has other files than it should')
    const storedBytes = header.parts.reduce((sum, part) => sum + part.storedBytes, 0)
    if (storedBytes > maxBundleBytes) throw new BundleRefusedError('it is too large')
    return new OpenBundle(header.parts, parts, reader, storedBytes)
  } catch (error) {
    await reader.close()
    throw error
  }
}

/** A bundle whose seal is right and whose files are still to come. */
class OpenBundle {
  /** What is still to be read. */
  readonly storedBytes: number
  readonly #stored: readonly StoredPart[]
  readonly #parts: readonly BundlePart[]
  readonly #reader: ByteReader

  constructor (stored: readonly StoredPart[], parts: readonly BundlePart[], reader: ByteReader, storedBytes: number) {
    this.#stored = stored
    this.#parts = parts
    this.#reader = reader
    this.storedBytes = storedBytes
  }

  /**
   * Writes the files into a directory.
   *
   * @throws BundleRefusedError unless each is exactly what was sealed; what was written until then is nobody's.
   */
  async extract (dir: string, signal: AbortSignal): Promise<void> {
    try {
      for (const [i, part] of this.#stored.entries()) await this.#extractPart(part, this.#parts[i]?.isCompressed ?? true, dir, signal)
      if (!await this.#reader.isAtEnd()) throw new BundleRefusedError('it goes on behind its end')
    } finally {
      await this.close()
    }
  }

  async close (): Promise<void> {
    await this.#reader.close()
  }

  async #extractPart (part: StoredPart, isCompressed: boolean, dir: string, signal: AbortSignal): Promise<void> {
    const hash = createHash('sha256')
    let bytes = 0
    const measure = async function * (chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        // What inflates to more than was sealed is stopped here, whatever it would grow to.
        if ((bytes += chunk.length) > part.bytes) throw new BundleRefusedError(`${part.name} is larger than what was sealed`)
        hash.update(chunk)
        yield chunk
      }
    }
    const input = Readable.from(this.#reader.take(part.storedBytes), { objectMode: false })
    const target = createWriteStream(join(dir, part.name), { flags: 'wx', mode: 0o600 })
    try {
      await (isCompressed ? pipeline(input, measure, target, { signal }) : pipeline(input, createGunzip(), measure, target, { signal }))
    } catch (error) {
      if (/^Z_|^ERR_ZLIB/.test((error as NodeJS.ErrnoException).code ?? '')) throw new BundleRefusedError(`${part.name} is no gzip stream`, { cause: error })
      throw error
    }
    if (bytes !== part.bytes || hash.digest('hex') !== part.sha256) throw new BundleRefusedError(`${part.name} is not what was sealed`)
  }
}

/** What a seal is made of: a JSON array, so that no two bundles have the same text. */
function sealedText (subject: BundleSubject, parts: readonly StoredPart[]): string {
  const { kind, digest, diffId, mediaType, blobBytes } = subject
  return JSON.stringify(['berth index bundle', 1, kind, digest, diffId, mediaType, blobBytes, parts.map(({ name, bytes, sha256 }) => [name, bytes, sha256])])
}

function parseHeader (line: Buffer): BundleHeader | undefined {
  let json: unknown
  try {
    json = JSON.parse(line.toString('utf8'))
  } catch {
    return undefined
  }
  if (!isObject(json) || json.version !== 1 || !Array.isArray(json.parts)) return undefined
  const hasTexts = [json.kind, json.digest, json.diffId, json.mediaType, json.mac].every(value => typeof value === 'string')
  return hasTexts && isSize(json.blobBytes) && json.parts.every(isStoredPart) ? json as unknown as BundleHeader : undefined
}

function isStoredPart (value: unknown): boolean {
  return isObject(value) && typeof value.name === 'string' && typeof value.sha256 === 'string' && isSize(value.bytes) && isSize(value.storedBytes)
}

function isSize (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
