import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { BerthError } from '../../errors.ts'
import { ContainedFileError, openContained, readBounded, readContained } from './contained-file.ts'
import { imageConfigFromOci, isObject, type ImageConfig } from './image-config.ts'

/** Names one blob (OCI image-spec, descriptor.md). */
export interface Descriptor {
  mediaType: string
  digest: string
  size: number
}

/** An image of a layout, resolved for this host and checked as far as its JSON goes; its layers are not yet read. */
export interface OciImage {
  digest: string
  configDescriptor: Descriptor
  layers: Descriptor[]
  config: ImageConfig
}

interface ListedDescriptor extends Descriptor {
  tag: string | undefined
  platform: string | undefined
}

const tagAnnotation = 'org.opencontainers.image.ref.name'
// Real ones are a few KiB; registries refuse manifests above 4 MiB (distribution-spec).
const maxJsonBytes = 4 * 1024 ** 2
// An index may list indexes; nobody nests deeper.
const maxIndexDepth = 3
const digestPattern = /^sha256:[a-f0-9]{64}$/
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' }
const indexTypes = new Set(['application/vnd.oci.image.index.v1+json', 'application/vnd.docker.distribution.manifest.list.v2+json'])
const manifestTypes = new Set(['application/vnd.oci.image.manifest.v1+json', 'application/vnd.docker.distribution.manifest.v2+json'])

/** What images must be built for to run here, as in `linux/amd64`. */
export const hostPlatform = `linux/${architectures[process.arch] ?? process.arch}`

/** An OCI image layout: a directory of a client's, whose content is not to be trusted. */
export class OciLayout {
  readonly #dir: string
  readonly #name: string

  /** `dir` is where it lies, `name` how the client called it. */
  constructor (options: { dir: string, name: string }) {
    this.#dir = options.dir
    this.#name = options.name
  }

  /**
   * Finds the image of this tag (without one: the only image) for this host's platform.
   *
   * @throws BerthError invalid_argument `image_not_found` or `image_invalid`.
   */
  async resolve (tag: string | undefined): Promise<OciImage> {
    const manifest = await this.#selectManifest(await this.#selectTag(tag), 0)
    const json = await this.#readJsonBlob(manifest)
    if (!Array.isArray(json.layers)) throw this.#invalid('its manifest lists no layers')
    const configDescriptor = this.#descriptor(json.config)
    const layers = json.layers.map(layer => this.#descriptor(layer))
    const config = await this.#readJsonBlob(configDescriptor)
    const platform = platformOf(config)
    if (platform !== undefined && platform !== hostPlatform) throw this.#wrongPlatform([platform])
    return { digest: manifest.digest, configDescriptor, layers, config: imageConfigFromOci(config.config) }
  }

  /**
   * Opens a blob for reading. Its size is checked here; its digest is for the reader to check.
   *
   * @throws BerthError invalid_argument `image_invalid` when it is missing, a link, not a file or of another size.
   */
  async openBlob (descriptor: Descriptor): Promise<FileHandle> {
    const file = await this.#contained(() => openContained([this.#dir], blobPath(descriptor.digest), { links: 'refuse' }))
    if (!file) throw this.#invalid(`blob ${descriptor.digest} is missing`)
    const { size } = await file.stat()
    if (size === descriptor.size) return file
    await file.close()
    throw this.#invalid(`blob ${descriptor.digest} has ${size} bytes, its descriptor says ${descriptor.size}`)
  }

  /** The error for a blob whose content does not have the digest it is named by. */
  corruptBlob (descriptor: Descriptor): BerthError {
    return this.#invalid(`blob ${descriptor.digest} has another digest than its name says`)
  }

  async #selectTag (tag: string | undefined): Promise<ListedDescriptor> {
    const content = await this.#contained(() => readContained([this.#dir], 'index.json', { links: 'refuse', maxBytes: maxJsonBytes }))
    if (!content) throw notFound(`${this.#name} is not an OCI layout: it has no index.json`)
    const images = this.#manifestsOf(this.#parseJson(content, 'index.json'))
    const tags = images.flatMap(image => image.tag ?? []).sort()
    const matching = tag === undefined ? images : images.filter(image => image.tag === tag)
    // One image may be listed under several tags.
    const [first] = matching
    if (first && new Set(matching.map(image => image.digest)).size === 1) return first
    const advice = tags.length > 0 ? `its tags: ${tags.join(', ')}` : 'it has no tags'
    if (!first) throw notFound(`${this.#name} has no image${tag === undefined ? '' : ` tagged ${tag}`}; ${advice}`, { tags })
    if (tag === undefined) throw notFound(`${this.#name} has several images; name one as oci:${this.#name}:<tag>; ${advice}`, { tags })
    throw this.#invalid(`several images are tagged ${tag}`)
  }

  /** Goes down through indexes to the manifest for this host. */
  async #selectManifest (descriptor: ListedDescriptor, depth: number): Promise<ListedDescriptor> {
    if (manifestTypes.has(descriptor.mediaType)) return descriptor
    if (!indexTypes.has(descriptor.mediaType)) throw this.#invalid(`${descriptor.mediaType} is not the media type of an image`)
    if (depth >= maxIndexDepth) throw this.#invalid('its indexes are nested too deeply')
    const images = this.#manifestsOf(await this.#readJsonBlob(descriptor))
    const match = images.find(image => image.platform === hostPlatform) ?? images.find(image => image.platform === undefined && indexTypes.has(image.mediaType))
    if (!match) throw this.#wrongPlatform(images.flatMap(image => image.platform ?? []))
    return this.#selectManifest(match, depth + 1)
  }

  #manifestsOf (index: Record<string, unknown>): ListedDescriptor[] {
    if (!Array.isArray(index.manifests)) throw this.#invalid('an index lists no manifests')
    return index.manifests.map(value => {
      const annotations = isObject(value) && isObject(value.annotations) ? value.annotations : {}
      const tag = annotations[tagAnnotation]
      return {
        ...this.#descriptor(value),
        tag: typeof tag === 'string' ? tag : undefined,
        platform: isObject(value) ? platformOf(value.platform) : undefined,
      }
    })
  }

  #descriptor (value: unknown): Descriptor {
    const { mediaType, digest, size } = isObject(value) ? value : {}
    // The digest becomes a file name: nothing but this form may pass.
    if (typeof mediaType !== 'string' || typeof digest !== 'string' || !digestPattern.test(digest) || !Number.isSafeInteger(size) || (size as number) < 0) {
      throw this.#invalid('a descriptor lacks a media type, a sha256 digest or a size')
    }
    return { mediaType, digest, size: size as number }
  }

  async #readJsonBlob (descriptor: Descriptor): Promise<Record<string, unknown>> {
    if (descriptor.size > maxJsonBytes) throw this.#invalid(`blob ${descriptor.digest} is larger than ${maxJsonBytes} bytes`)
    const file = await this.openBlob(descriptor)
    const content = await this.#contained(() => readBounded(file, descriptor.digest, maxJsonBytes)).finally(() => file.close())
    if (sha256(content) !== descriptor.digest) throw this.corruptBlob(descriptor)
    return this.#parseJson(content, `blob ${descriptor.digest}`)
  }

  #parseJson (content: Buffer, what: string): Record<string, unknown> {
    let value: unknown
    try {
      value = JSON.parse(content.toString('utf8'))
    } catch {
      // The parser's message quotes the content.
    }
    if (!isObject(value)) throw this.#invalid(`${what} is not a JSON object`)
    return value
  }

  async #contained<T> (read: () => Promise<T>): Promise<T> {
    try {
      return await read()
    } catch (error) {
      if (error instanceof ContainedFileError) throw this.#invalid(error.message)
      throw error
    }
  }

  #invalid (why: string): BerthError {
    return new BerthError('invalid_argument', 'image_invalid', `the image in ${this.#name} cannot be used: ${why}`)
  }

  #wrongPlatform (platforms: string[]): BerthError {
    return notFound(`${this.#name} has no image for ${hostPlatform}; it has ${platforms.join(', ') || 'none that names a platform'}`, { platforms })
  }
}

function platformOf (value: unknown): string | undefined {
  if (!isObject(value) || typeof value.os !== 'string' || typeof value.architecture !== 'string') return undefined
  return `${value.os}/${value.architecture}`
}

function blobPath (digest: string): string {
  return `blobs/${digest.replace(':', '/')}`
}

function sha256 (content: Buffer): string {
  return `sha256:${createHash('sha256').update(content).digest('hex')}`
}

function notFound (message: string, details?: Record<string, unknown>): BerthError {
  return new BerthError('invalid_argument', 'image_not_found', message, { details })
}
