import { constants, createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import type { BlobSource, LayerDescriptor, RegistryCredentials } from '../layers/image-layer.ts'
import { RegistryClient } from '../registry/registry-client.ts'
import { RegistryConnections } from '../registry/registry-connections.ts'
import type { RegistrySettings } from '../registry/registry-settings.ts'

interface ReadOptions {
  signal: AbortSignal
  /** Mirrors have answered with other bytes than they should. */
  skipMirrors: boolean
}

/** Bytes of one blob, from the first of its sources that has them. What comes is for the reader to verify. */
export interface BlobReader {
  /** The blob from this byte on. */
  stream: (offsetBytes: number, options: ReadOptions) => AsyncIterable<Buffer>
  range: (startByte: number, endByte: number, options: ReadOptions) => Promise<Buffer>
}

interface BlobPlace {
  layer: LayerDescriptor
  sources: readonly BlobSource[]
  credentials: RegistryCredentials | undefined
}

/** Reaches the places that blobs come from; what is learnt of a registry (connections, tokens) serves all of its blobs. */
export class LayerSources {
  readonly #logger: Logger
  /** Of the settings that are in force. */
  connections: RegistryConnections
  readonly #clients = new Map<string, RegistryClient>()

  constructor (options: { settings: RegistrySettings, logger: Logger }) {
    this.#logger = options.logger
    this.connections = new RegistryConnections({ settings: options.settings, logger: options.logger })
  }

  /** From the next request on. Requests under way end by themselves. */
  setSettings (settings: RegistrySettings): void {
    this.connections = new RegistryConnections({ settings, logger: this.#logger })
    this.#clients.clear()
  }

  /** Whether some of these registries have mirrors. */
  hasMirrors (sources: readonly BlobSource[]): boolean {
    return sources.some(source => source.kind === 'registry' && this.connections.settings.mirrors.has(source.registry))
  }

  reader (layer: LayerDescriptor, sources: readonly BlobSource[], credentials: RegistryCredentials | undefined): BlobReader {
    return {
      stream: (offsetBytes, options) => this.#stream({ layer, sources, credentials }, offsetBytes, options),
      range: async (startByte, endByte, options) => {
        return await eachUntil(sources, async source => {
          if (source.kind === 'file') return await readFileRange(source.path, source.offsetBytes + startByte, endByte - startByte)
          return await this.#client(source, credentials).fetchRange(layer, startByte, endByte, options)
        })
      },
    }
  }

  async * #stream (place: BlobPlace, offsetBytes: number, options: ReadOptions): AsyncGenerator<Buffer, void, void> {
    const { layer, sources, credentials } = place
    let hasBegun = false
    for (const [index, source] of sources.entries()) {
      try {
        const chunks = source.kind === 'file'
          ? readFileStream(source.path, source.offsetBytes + offsetBytes, layer.sizeBytes - offsetBytes)
          : this.#client(source, credentials).streamBlob(layer, { offsetBytes, ...options })
        for await (const chunk of chunks) {
          hasBegun = true
          yield chunk
        }
        return
      } catch (error) {
        if (hasBegun || index === sources.length - 1 || options.signal.aborted) throw error
      }
    }
    throw noSource()
  }

  #client (source: BlobSource & { kind: 'registry' }, credentials: RegistryCredentials | undefined): RegistryClient {
    const { registry, repository } = source
    // Secrets as part of a key stay where they are anyway: in this process's memory.
    const key = JSON.stringify([registry, repository, credentials])
    const known = this.#clients.get(key)
    if (known) return known
    const client = new RegistryClient({ registry, repository, credentials, settings: this.connections.settings, connections: this.connections, logger: this.#logger })
    this.#clients.set(key, client)
    return client
  }
}

/** The first answer; the last failure when all fail. */
async function eachUntil<T> (sources: readonly BlobSource[], read: (source: BlobSource) => Promise<T>): Promise<T> {
  let failure: unknown = noSource()
  for (const source of sources) {
    try {
      return await read(source)
    } catch (error) {
      failure = error
    }
  }
  throw failure
}

// A link in the place of the file that was resolved is nobody's wish.
const readFlags = constants.O_RDONLY | constants.O_NOFOLLOW

async function readFileRange (path: string, position: number, length: number): Promise<Buffer> {
  const file = await openSource(path)
  try {
    const buffer = Buffer.allocUnsafe(length)
    const { bytesRead } = await file.read(buffer, 0, length, position)
    if (bytesRead < length) throw new BerthError('invalid_argument', 'image_invalid', 'a file that an image is taken from has become shorter; make the image again')
    return buffer
  } finally {
    await file.close()
  }
}

async function * readFileStream (path: string, position: number, length: number): AsyncGenerator<Buffer, void, void> {
  if (length === 0) return
  const file = await openSource(path)
  yield * createReadStream('', { fd: file, start: position, end: position + length - 1, highWaterMark: 1024 ** 2 }) as AsyncIterable<Buffer>
}

async function openSource (path: string): Promise<Awaited<ReturnType<typeof open>>> {
  try {
    return await open(path, readFlags)
  } catch (error) {
    throw new BerthError('invalid_argument', 'image_not_found', 'a file that an image is taken from is not there any more', { cause: error })
  }
}

function noSource (): BerthError {
  return new BerthError('invalid_argument', 'image_not_found', 'nobody says where a layer of the image can be had; pull the image again')
}
