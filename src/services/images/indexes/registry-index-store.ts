import { isObject } from '../image-config.ts'
import type { BlobSource } from '../layers/image-layer.ts'
import { RegistryClient } from '../registry/registry-client.ts'
import type { RegistryConnections } from '../registry/registry-connections.ts'
import { RegistryError } from '../registry/registry-errors.ts'
import { StoreRefusedError, type RemoteIndexStore, type StoreContext, type StoredBundle } from './remote-index-store.ts'

type RegistrySource = Extract<BlobSource, { kind: 'registry' }>

const manifestType = 'application/vnd.oci.image.manifest.v1+json'
const artifactTypes = { index: 'application/vnd.berth.layer-index.v1+json', profile: 'application/vnd.berth.boot-profile.v1+json' }
const bundleType = 'application/vnd.berth.index-bundle.v1'

/**
 * Bundles beside the image, in its own repository: an OCI artifact of one blob under the tag `berth-<name>`. (A layer is no manifest, so nothing
 * can refer to it as its subject.)
 */
export class RegistryIndexStore implements RemoteIndexStore {
  readonly #connections: RegistryConnections

  constructor (options: { connections: RegistryConnections }) {
    this.#connections = options.connections
  }

  placeOf (context: StoreContext): string | undefined {
    const source = sourceOf(context)
    return source && `${source.registry}/${source.repository}`
  }

  async find (name: string, context: StoreContext, signal: AbortSignal): Promise<StoredBundle | undefined> {
    const client = this.#client(context)
    if (!client) return undefined
    try {
      const manifest = await client.getManifest(tagOf(name), { signal })
      const blob = readBlobOf(manifest.body)
      // Whoever put it there: what is pushed takes its place.
      if (!blob) return undefined
      return { sizeBytes: blob.sizeBytes, body: client.streamBlob(blob, { signal }) }
    } catch (error) {
      if (error instanceof RegistryError && error.code === 'image_not_found') return undefined
      throw refusalOf(error)
    }
  }

  async put (name: string, content: Buffer, context: StoreContext, signal: AbortSignal): Promise<void> {
    const client = this.#client(context)
    if (!client) throw new StoreRefusedError('the image is of no registry')
    try {
      const blob = await client.pushBlob(content, { signal })
      // Not the empty one of the OCI image-spec: registries have been seen to trip over the same blob from two at once.
      const config = await client.pushBlob(Buffer.from(JSON.stringify({ name })), { signal })
      const artifactType = name.startsWith('profile-') ? artifactTypes.profile : artifactTypes.index
      const manifest = {
        schemaVersion: 2,
        mediaType: manifestType,
        artifactType,
        config: { mediaType: artifactType, digest: config.digest, size: config.sizeBytes },
        layers: [{ mediaType: bundleType, digest: blob.digest, size: blob.sizeBytes }],
      }
      await client.pushManifest(tagOf(name), manifestType, Buffer.from(JSON.stringify(manifest)), { signal })
    } catch (error) {
      throw refusalOf(error)
    }
  }

  async close (): Promise<void> {
    // The connections are whose they are; clients own nothing else.
  }

  #client (context: StoreContext): RegistryClient | undefined {
    const source = sourceOf(context)
    return source && new RegistryClient({ ...source, settings: this.#connections.settings, connections: this.#connections, credentials: context.credentials })
  }
}

/**
 * What says no for good: most registries of others let nobody push. An `image_invalid` is none: docker-registry answers 400 when two push the
 * same blob at once, though either would do.
 */
function refusalOf (error: unknown): unknown {
  const isRefusal = error instanceof RegistryError && !error.isTransient && error.code !== 'image_invalid'
  return isRefusal ? new StoreRefusedError(error.message, { cause: error }) : error
}

/** Where the image itself is from; what else has its layers need not take its indexes. */
function sourceOf (context: StoreContext): RegistrySource | undefined {
  return context.sources.find(source => source.kind === 'registry')
}

function tagOf (name: string): string {
  return `berth-${name}`
}

function readBlobOf (body: Buffer): { digest: string, sizeBytes: number } | undefined {
  let json: unknown
  try {
    json = JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
  const layers: unknown[] = isObject(json) && Array.isArray(json.layers) ? json.layers : []
  const [layer] = layers
  if (layers.length !== 1 || !isObject(layer) || layer.mediaType !== bundleType) return undefined
  const { digest, size } = layer
  if (typeof digest !== 'string' || !/^sha256:[0-9a-f]{64}$/.test(digest) || !Number.isSafeInteger(size) || (size as number) < 0) return undefined
  return { digest, sizeBytes: size as number }
}
