import type { Logger } from 'pino'
import { BaseImage, baseImageConfig } from './base-image.ts'
import { locateDirImage } from './dir-image.ts'
import type { ImageConfig } from './image-config.ts'
import type { ImageReference } from './image-reference.ts'
import type { ImageBlobs, ImageSource } from './image-source.ts'
import type { RegistryCredentials, SourcedLayer } from './layers/image-layer.ts'
import { LocalImages } from './local-images.ts'
import type { PathRules } from './local-path.ts'
import { unpackOciImage } from './oci-image.ts'
import type { ResolvedManifest } from './oci-manifest.ts'
import { RegistryClient } from './registry/registry-client.ts'
import { RegistryConnections } from './registry/registry-connections.ts'
import { resolveRegistryImage } from './registry/registry-image.ts'
import { formatRegistryReference, type RegistryReference } from './registry/registry-reference.ts'
import type { RegistrySettings } from './registry/registry-settings.ts'

/** What a reference stands for at this moment; nothing of its content is on this host yet, or looked at. */
export type ResolvedImage =
  | { inPlace: { dir: string, config: ImageConfig } }
  | { stored: ImageToStore }

/** An image that can be had as one directory, and perhaps as layers. */
export interface ImageToStore {
  digest: string
  config: ImageConfig
  /** What it is as a directory. */
  kind: 'base' | 'unpacked'
  /** Makes it as `<dir>/rootfs`. */
  build: (dir: string) => Promise<void>
  /** The bottom one first; absent where its blobs cannot be read by another process. */
  layers?: SourcedLayer[]
}

export interface ResolverOptions {
  busyboxPath: string
  /** Where clients' paths may point. */
  rules: PathRules
  registry: RegistrySettings
  /** For what passes; cleared by the next daemon. */
  tempDir: string
  logger: Logger
}

/** Finds out what references stand for: asks registries, reads layouts and archives. */
export class ImageResolver {
  readonly #options: ResolverOptions
  readonly #base: BaseImage
  readonly #connections: RegistryConnections
  readonly #local: LocalImages

  constructor (options: ResolverOptions) {
    this.#options = options
    this.#connections = new RegistryConnections({ settings: options.registry, logger: options.logger })
    this.#local = new LocalImages({ rules: options.rules, tempDir: options.tempDir })
    this.#base = new BaseImage({ busyboxPath: options.busyboxPath })
  }

  /** @throws BerthError as ImageManager.prepareRootfs. */
  async resolve (reference: ImageReference, options: { credentials?: RegistryCredentials, signal?: AbortSignal }): Promise<ResolvedImage> {
    const { rules } = this.#options
    switch (reference.kind) {
      case 'base': {
        const digest = await this.#base.digest()
        return { stored: { digest, config: baseImageConfig, kind: 'base', build: dir => this.#base.build(dir) } }
      }
      case 'dir':
        return { inPlace: { dir: await locateDirImage(reference.path, rules), config: { env: {} } } }
      case 'oci':
      case 'oci-archive':
      case 'docker-archive': {
        const { source, image } = await this.#local.resolve(reference)
        const layers = await locateLayers(source, image)
        return { stored: { digest: image.digest, config: image.config, kind: 'unpacked', build: dir => unpackOciImage(source, image, dir), ...(layers ? { layers } : {}) } }
      }
      case 'registry':
        return { stored: await this.#resolveRegistry(reference.reference, options) }
    }
  }

  async #resolveRegistry (reference: RegistryReference, options: { credentials?: RegistryCredentials, signal?: AbortSignal }): Promise<ImageToStore> {
    const { registry, repository } = reference
    const { registry: settings, logger } = this.#options
    const client = new RegistryClient({ registry, repository, settings, connections: this.#connections, credentials: options.credentials, logger })
    const image = await resolveRegistryImage(client, reference, { signal: options.signal })
    const blobs: ImageBlobs = { name: formatRegistryReference(reference), openBlob: ({ digest, size }) => client.streamBlob({ digest, sizeBytes: size }) }
    return {
      digest: image.digest,
      config: image.config,
      kind: 'unpacked',
      build: dir => unpackOciImage(blobs, image, dir),
      layers: image.layers.map(layer => ({ ...layer, sources: [{ kind: 'registry', registry, repository }] })),
    }
  }
}

/** Where each layer lies on this host; undefined when one lies nowhere for another process to read. */
async function locateLayers (source: ImageSource, image: ResolvedManifest): Promise<SourcedLayer[] | undefined> {
  const layers: SourcedLayer[] = []
  for (const layer of image.layers) {
    const place = await source.locateBlob({ mediaType: layer.mediaType, digest: layer.digest, size: layer.sizeBytes })
    if (!place) return undefined
    layers.push({ ...layer, sources: [place] })
  }
  return layers
}
