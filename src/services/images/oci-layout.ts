import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { BerthError } from '../../errors.ts'
import { ContainedFileError, openContained, readBounded, readContained } from './contained-file.ts'
import { maxJsonBytes, OciManifestError, OciPlatformError, parseJsonObject, readIndex, resolveManifest, type Descriptor, type ListedDescriptor, type ResolvedManifest } from './oci-manifest.ts'

const tagAnnotation = 'org.opencontainers.image.ref.name'

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
   * Finds the image of this tag (without one: the only image) for this host's platform; its layers are not yet read.
   *
   * @throws BerthError invalid_argument `image_not_found` or `image_invalid`.
   */
  async resolve (tag: string | undefined): Promise<ResolvedManifest> {
    return this.#checked(async () => resolveManifest(await this.#selectTag(tag), descriptor => this.#readBlob(descriptor)))
  }

  /**
   * Opens a blob for reading. Its size is checked here; its digest is for the reader to check.
   *
   * @throws BerthError invalid_argument `image_invalid` when it is missing, a link, not a file or of another size.
   */
  async openBlob (descriptor: Descriptor): Promise<FileHandle> {
    const file = await this.#checked(() => openContained([this.#dir], blobPath(descriptor.digest), { links: 'refuse' }))
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
    const content = await readContained([this.#dir], 'index.json', { links: 'refuse', maxBytes: maxJsonBytes })
    if (!content) throw notFound(`${this.#name} is not an OCI layout: it has no index.json`)
    const images = readIndex(parseJsonObject(content, 'index.json'))
    const tags = images.flatMap(image => tagOf(image) ?? []).sort()
    const matching = tag === undefined ? images : images.filter(image => tagOf(image) === tag)
    // One image may be listed under several tags.
    const [first] = matching
    if (first && new Set(matching.map(image => image.digest)).size === 1) return first
    const advice = tags.length > 0 ? `its tags: ${tags.join(', ')}` : 'it has no tags'
    if (!first) throw notFound(`${this.#name} has no image${tag === undefined ? '' : ` tagged ${tag}`}; ${advice}`, { tags })
    if (tag === undefined) throw notFound(`${this.#name} has several images; name one as oci:${this.#name}:<tag>; ${advice}`, { tags })
    throw this.#invalid(`several images are tagged ${tag}`)
  }

  async #readBlob (descriptor: Descriptor): Promise<Buffer> {
    if (descriptor.size > maxJsonBytes) throw this.#invalid(`blob ${descriptor.digest} is larger than ${maxJsonBytes} bytes`)
    const file = await this.openBlob(descriptor)
    const content = await readBounded(file, descriptor.digest, maxJsonBytes).finally(() => file.close())
    if (sha256(content) !== descriptor.digest) throw this.corruptBlob(descriptor)
    return content
  }

  /** Turns complaints about content into errors that name this layout. */
  async #checked<T> (work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      if (error instanceof ContainedFileError || error instanceof OciManifestError) throw this.#invalid(error.message)
      if (error instanceof OciPlatformError) throw notFound(`${this.#name} has ${error.message}`, { platforms: error.platforms })
      throw error
    }
  }

  #invalid (why: string): BerthError {
    return new BerthError('invalid_argument', 'image_invalid', `the image in ${this.#name} cannot be used: ${why}`)
  }
}

function tagOf (image: ListedDescriptor): string | undefined {
  const tag = image.annotations[tagAnnotation]
  return typeof tag === 'string' ? tag : undefined
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
