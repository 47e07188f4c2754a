import { digestOf } from './digest.ts'
import { FileImageSource } from './file-image-source.ts'
import type { ImageFiles } from './image-files.ts'
import { corruptBlob, invalidImage, namingImage, notFound } from './image-source.ts'
import { maxJsonBytes, parseJsonObject, readIndex, resolveManifest, type Descriptor, type ListedDescriptor, type ResolvedManifest } from './oci-manifest.ts'

const tagAnnotation = 'org.opencontainers.image.ref.name'

/** An OCI image layout (OCI image-spec, image-layout.md): a directory of a client's or the content of an archive. */
export class OciLayout extends FileImageSource {
  readonly #transport: string

  /** `name` is how the client called it, behind its transport (`oci`, `oci-archive`). */
  constructor (options: { files: ImageFiles, name: string, transport: string }) {
    super(options)
    this.#transport = options.transport
  }

  async resolve (tag: string | undefined): Promise<ResolvedManifest> {
    return namingImage(this.name, async () => resolveManifest(await this.#selectTag(tag), descriptor => this.#readBlob(descriptor)))
  }

  pathOf (digest: string): string {
    return `blobs/${digest.replace(':', '/')}`
  }

  async #selectTag (tag: string | undefined): Promise<ListedDescriptor> {
    const images = readIndex(parseJsonObject(await this.#readIndex(), 'index.json'))
    const tags = images.flatMap(image => tagOf(image) ?? []).sort()
    const matching = tag === undefined ? images : images.filter(image => tagOf(image) === tag)
    // One image may be listed under several tags.
    const [first] = matching
    if (first && new Set(matching.map(image => image.digest)).size === 1) return first
    const advice = tags.length > 0 ? `its tags: ${tags.join(', ')}` : 'it has no tags'
    if (!first) throw notFound(`${this.name} has no image${tag === undefined ? '' : ` tagged ${tag}`}; ${advice}`, { tags })
    if (tag === undefined) throw notFound(`${this.name} has several images; name one as ${this.#transport}:${this.name}:<tag>; ${advice}`, { tags })
    throw invalidImage(this.name, `several images are tagged ${tag}`)
  }

  async #readIndex (): Promise<Buffer> {
    await using range = await this.files.open('index.json')
    if (!range) throw notFound(`${this.name} is not an OCI ${this.#transport === 'oci' ? 'layout' : 'archive'}: it has no index.json`)
    if (range.sizeBytes > maxJsonBytes) throw invalidImage(this.name, `index.json is larger than ${maxJsonBytes} bytes`)
    return range.read()
  }

  async #readBlob (descriptor: Descriptor): Promise<Buffer> {
    if (descriptor.size > maxJsonBytes) throw invalidImage(this.name, `blob ${descriptor.digest} is larger than ${maxJsonBytes} bytes`)
    await using range = await this.openRange(descriptor)
    const content = await range.read()
    if (digestOf(content) !== descriptor.digest) throw corruptBlob(this.name, descriptor.digest)
    return content
  }
}

function tagOf (image: ListedDescriptor): string | undefined {
  const tag = image.annotations[tagAnnotation]
  return typeof tag === 'string' ? tag : undefined
}
