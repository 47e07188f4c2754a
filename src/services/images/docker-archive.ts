import { createHash } from 'node:crypto'
import { compressionOf, type Compression } from './archive-file.ts'
import { ContainedFileError } from './contained-file.ts'
import { digestOf } from './digest.ts'
import { isObject } from './image-config.ts'
import { FileImageSource } from './file-image-source.ts'
import type { FileRange } from './image-files.ts'
import { namingImage, notFound } from './image-source.ts'
import { maxJsonBytes, parseJsonObject, resolveManifest, type Descriptor, type ResolvedManifest } from './oci-manifest.ts'
import { formatRegistryReference, parseRegistryReference } from './registry/registry-reference.ts'

/** One image of an archive (moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"). */
interface ListedImage {
  config: string
  tags: string[]
  layers: string[]
}

const manifestType = 'application/vnd.oci.image.manifest.v1+json'
const configType = 'application/vnd.oci.image.config.v1+json'
const layerType = 'application/vnd.oci.image.layer.v1.tar'
const maxListedTags = 50

/**
 * An archive as `docker save` writes it. Its digest is that of the OCI manifest that describes its image, so the same
 * image has the same digest in every archive.
 */
export class DockerArchive extends FileImageSource {
  /** Where blobs of images that were resolved lie. */
  readonly #paths = new Map<string, string>()

  async resolve (tag: string | undefined): Promise<ResolvedManifest> {
    return namingImage(this.name, async () => {
      const image = this.#select(await this.#readList(), tag)
      const config = await this.#readSmall(image.config)
      const diffIds = diffIdsOf(parseJsonObject(config, 'its configuration'))
      const layers: Descriptor[] = []
      for (const [i, path] of image.layers.entries()) layers.push(await this.#describeLayer(path, diffIds[i]))
      const configDescriptor = { mediaType: configType, digest: digestOf(config), size: config.length }
      this.#paths.set(configDescriptor.digest, image.config)
      const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: manifestType, config: configDescriptor, layers }))
      const top = { mediaType: manifestType, digest: digestOf(manifest), size: manifest.length }
      return resolveManifest(top, async (_descriptor, role) => role === 'config' ? config : manifest)
    })
  }

  pathOf (digest: string): string | undefined {
    return this.#paths.get(digest)
  }

  async #readList (): Promise<ListedImage[]> {
    const content = await this.#readSmall('manifest.json', () => notFound(`${this.name} is not an archive of docker save: it has no manifest.json; write an OCI archive as oci-archive:${this.name}`))
    let value: unknown
    try {
      value = JSON.parse(content.toString('utf8'))
    } catch {
      // The parser's message quotes the content.
    }
    if (!Array.isArray(value)) throw new ContainedFileError('manifest.json is not a JSON list')
    return value.map(readListed)
  }

  #select (images: ListedImage[], tag: string | undefined): ListedImage {
    const tags = images.flatMap(image => image.tags).sort().slice(0, maxListedTags)
    const advice = tags.length > 0 ? `its images: ${tags.join(', ')}` : 'its images have no names'
    const matching = tag === undefined ? images : images.filter(image => image.tags.some(other => fullName(other) === fullName(tag)))
    const [first, second] = matching
    if (!first) throw notFound(`${this.name} has no image${tag === undefined ? '' : ` ${tag}`}; ${advice}`, { tags })
    if (!second) return first
    if (tag === undefined) throw notFound(`${this.name} has several images; name one as docker-archive:${this.name}:<name>:<tag>; ${advice}`, { tags })
    throw new ContainedFileError(`several images are named ${tag}`)
  }

  /** A layer is named by its diff id; what lies in the archive must have that digest, which its reader sees. */
  async #describeLayer (path: string, diffId: unknown): Promise<Descriptor> {
    await using range = await this.files.open(path)
    if (!range) throw new ContainedFileError(`the layer ${JSON.stringify(path.slice(0, 200))} is missing`)
    const compression = compressionOf(await range.readAt(0, 4))
    const digest = compression === undefined ? String(diffId) : await rangeDigestOf(range, path)
    this.#paths.set(digest, path)
    return { mediaType: typeOf(compression), digest, size: range.sizeBytes }
  }

  async #readSmall (path: string, missing: () => Error = () => new ContainedFileError(`${JSON.stringify(path.slice(0, 200))} is missing`)): Promise<Buffer> {
    await using range = await this.files.open(path)
    if (!range) throw missing()
    if (range.sizeBytes > maxJsonBytes) throw new ContainedFileError(`${JSON.stringify(path.slice(0, 200))} is larger than ${maxJsonBytes} bytes`)
    return range.read()
  }
}

function readListed (value: unknown): ListedImage {
  const { Config: config, RepoTags: tags, Layers: layers } = isObject(value) ? value : {}
  if (typeof config !== 'string' || !isTexts(tags ?? []) || !isTexts(layers ?? [])) throw new ContainedFileError('manifest.json does not describe images')
  return { config, tags: (tags ?? []) as string[], layers: (layers ?? []) as string[] }
}

function isTexts (value: unknown): value is string[] {
  return Array.isArray(value) && value.every(item => typeof item === 'string')
}

function diffIdsOf (config: Record<string, unknown>): unknown[] {
  const list = isObject(config.rootfs) ? config.rootfs.diff_ids : undefined
  return Array.isArray(list) ? list : []
}

/** `docker save` of an image store of containerd keeps layers as they were pulled, under the names of their digests. */
async function rangeDigestOf (range: FileRange, path: string): Promise<string> {
  const named = /^blobs\/sha256\/([a-f0-9]{64})$/.exec(path)?.[1]
  if (named !== undefined) return `sha256:${named}`
  const hash = createHash('sha256')
  for await (const chunk of range.chunks()) hash.update(chunk)
  return `sha256:${hash.digest('hex')}`
}

function typeOf (compression: Compression | undefined): string {
  return compression === undefined ? layerType : `${layerType}+${compression}`
}

/** A name with what Docker leaves out filled in; names that no registry takes stay as they are. */
function fullName (name: string): string {
  try {
    return formatRegistryReference(parseRegistryReference(name))
  } catch {
    return name
  }
}
