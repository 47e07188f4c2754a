import type { Logger } from 'pino'
import { BaseImage, baseImageConfig } from './base-image.ts'
import { locateDirImage } from './dir-image.ts'
import type { ImageConfig } from './image-config.ts'
import type { ImageReference } from './image-reference.ts'
import type { ImageContent } from './image-store.ts'
import type { RegistryCredentials } from './layers/image-layer.ts'
import { LocalImages } from './local-images.ts'
import type { PathRules } from './local-path.ts'
import { unpackOciImage } from './oci-image.ts'
import { RegistryClient } from './registry/registry-client.ts'
import { RegistryConnections } from './registry/registry-connections.ts'
import { resolveRegistryImage } from './registry/registry-image.ts'
import type { RegistryReference } from './registry/registry-reference.ts'
import type { RegistrySettings } from './registry/registry-settings.ts'

/** What a reference stands for at this moment; nothing of its content is on this host yet, or looked at. */
export type ResolvedImage =
  | { inPlace: { dir: string, config: ImageConfig } }
  | { stored: ImageToStore }

export interface ImageToStore {
  digest: string
  content: ImageContent
  config: ImageConfig
  /** Makes `<dir>/rootfs`; absent for a layered image. */
  build?: (dir: string) => Promise<void>
}

export interface ResolverOptions {
  busyboxPath: string
  /** Where clients' paths may point. */
  rules: PathRules
  registry: RegistrySettings
  /** For what passes; cleared by the next daemon. */
  tempDir: string
  /** Whether images of layers are mounted as such; else they are unpacked. */
  usesLayers: boolean
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
        return { stored: { digest, content: { kind: 'base' }, config: baseImageConfig, build: dir => this.#base.build(dir) } }
      }
      case 'dir':
        return { inPlace: { dir: await locateDirImage(reference.path, rules), config: { env: {} } } }
      case 'oci':
      case 'oci-archive':
      case 'docker-archive': {
        const { source, image } = await this.#local.resolve(reference)
        return { stored: { digest: image.digest, content: { kind: 'unpacked' }, config: image.config, build: dir => unpackOciImage(source, image, dir) } }
      }
      case 'registry':
        return { stored: await this.#resolveRegistry(reference.reference, options) }
    }
  }

  async #resolveRegistry (reference: RegistryReference, options: { credentials?: RegistryCredentials, signal?: AbortSignal }): Promise<ImageToStore> {
    const { registry, repository } = reference
    const client = new RegistryClient({ registry, repository, settings: this.#options.registry, connections: this.#connections, credentials: options.credentials, logger: this.#options.logger })
    const { digest, config, layers } = await resolveRegistryImage(client, reference, { signal: options.signal })
    return { digest, content: { kind: 'layered', layers, sources: [{ kind: 'registry', registry, repository }] }, config }
  }
}
