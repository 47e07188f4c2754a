import { imageConfigFromOci, isObject, type ImageConfig } from './image-config.ts'
import type { LayerDescriptor } from './layers/image-layer.ts'

/** Names one blob (OCI image-spec, descriptor.md). */
export interface Descriptor {
  mediaType: string
  digest: string
  size: number
}

/** A descriptor in an index, with the platform that it says its image is for. */
export interface ListedDescriptor extends Descriptor {
  annotations: Record<string, unknown>
  platform: Platform | undefined
}

interface Platform {
  os: string
  architecture: string
  variant: string | undefined
}

/** An image for this host, checked as far as its JSON goes. */
export interface ResolvedManifest {
  /** Of the manifest for this host's platform. */
  digest: string
  /** Of the index it was taken from, if there is one. */
  indexDigest?: string
  config: ImageConfig
  configDescriptor: Descriptor
  /** The lowest first. */
  layers: LayerDescriptor[]
  manifest: Buffer
  configBlob: Buffer
}

/** Reads a small blob whole, verified against its descriptor. */
export type BlobReader = (descriptor: Descriptor, role: 'manifest' | 'config') => Promise<Buffer>

/** What is wrong with an image's JSON, as the end of a sentence. */
export class OciManifestError extends Error {}

/** The image is sound and for other platforms than this host's. */
export class OciPlatformError extends Error {
  readonly platforms: string[]
  constructor (platforms: string[]) {
    super(`no image for ${hostPlatform}; it has ${platforms.join(', ') || 'none that names a platform'}`)
    this.platforms = platforms
  }
}

// Real ones are a few KiB; registries refuse manifests above 4 MiB (distribution-spec).
export const maxJsonBytes = 4 * 1024 ** 2
// An index may list indexes; nobody nests deeper.
const maxIndexDepth = 3
// What the kernel stacks in one overlay mount.
const maxLayers = 500
const maxListedPlatforms = 20
const digestPattern = /^sha256:[a-f0-9]{64}$/
const architectures: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' }
const hostArchitecture = architectures[process.arch] ?? process.arch
/** What images must be built for to run here, as in `linux/amd64`. */
export const hostPlatform = `linux/${hostArchitecture}`
/** Variants that run here, the most fitting first: builders write arm64 with and without its only variant. */
const hostVariants: ReadonlyArray<string | undefined> = hostArchitecture === 'arm64' ? [undefined, 'v8'] : [undefined, 'v1']

export const indexTypes = new Set(['application/vnd.oci.image.index.v1+json', 'application/vnd.docker.distribution.manifest.list.v2+json'])
export const manifestTypes = new Set(['application/vnd.oci.image.manifest.v1+json', 'application/vnd.docker.distribution.manifest.v2+json'])
const configTypes = new Set(['application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json'])
const schema1Types = /^application\/vnd\.docker\.distribution\.manifest\.v1\+/
const layerTypes = new Set([
  'application/vnd.oci.image.layer.v1.tar',
  'application/vnd.oci.image.layer.v1.tar+gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd',
  'application/vnd.docker.image.rootfs.diff.tar',
  'application/vnd.docker.image.rootfs.diff.tar.gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd',
])

/**
 * Goes from a manifest or index down to the image for this host's platform, checking all on the way.
 *
 * @throws OciManifestError, OciPlatformError, and what the reader throws.
 */
export async function resolveManifest (top: Descriptor, read: BlobReader): Promise<ResolvedManifest> {
  const selected = await selectManifest(top, read, 0)
  const manifest = await read(selected, 'manifest')
  const json = parseJsonObject(manifest, `manifest ${selected.digest}`)
  checkKind(json, selected.mediaType)
  const { configDescriptor, layers } = readManifest(json)
  const configBlob = await read(configDescriptor, 'config')
  const config = parseJsonObject(configBlob, `blob ${configDescriptor.digest}`)
  const platform = platformOf(config)
  if (platform !== undefined && rank(platform) < 0) throw new OciPlatformError([formatPlatform(platform)])
  const diffIds = readDiffIds(config, layers.length)
  return {
    digest: selected.digest,
    ...(selected.digest === top.digest ? {} : { indexDigest: top.digest }),
    config: imageConfigFromOci(config.config),
    configDescriptor,
    layers: layers.map((layer, i) => ({ digest: layer.digest, mediaType: layer.mediaType, sizeBytes: layer.size, diffId: diffIds[i] ?? '' })),
    manifest,
    configBlob,
  }
}

/** The descriptors of an index. */
export function readIndex (index: Record<string, unknown>): ListedDescriptor[] {
  if (!Array.isArray(index.manifests)) throw new OciManifestError('an index lists no manifests')
  return index.manifests.map(value => ({
    ...readDescriptor(value),
    annotations: isObject(value) && isObject(value.annotations) ? value.annotations : {},
    platform: isObject(value) ? platformOf(value.platform) : undefined,
  }))
}

/** Reads JSON that must be an object. */
export function parseJsonObject (content: Buffer, what: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(content.toString('utf8'))
  } catch {
    // The parser's message quotes the content.
  }
  if (!isObject(value)) throw new OciManifestError(`${what} is not a JSON object`)
  return value
}

async function selectManifest (descriptor: Descriptor, read: BlobReader, depth: number): Promise<Descriptor> {
  const { mediaType } = descriptor
  if (manifestTypes.has(mediaType)) return descriptor
  if (schema1Types.test(mediaType)) throw new OciManifestError('its manifest has Docker\'s schema 1, which is obsolete; push it again with a builder of this decade')
  if (!indexTypes.has(mediaType)) throw new OciManifestError(`${showType(mediaType)} is not the media type of an image`)
  if (depth >= maxIndexDepth) throw new OciManifestError('its indexes are nested too deeply')
  const index = parseJsonObject(await read(descriptor, 'manifest'), `index ${descriptor.digest}`)
  checkKind(index, mediaType)
  return selectManifest(selectPlatform(readIndex(index)), read, depth + 1)
}

/** The entry for this host: by platform, else an index or the only image that names none. */
function selectPlatform (listed: ListedDescriptor[]): ListedDescriptor {
  const fitting = listed.filter(({ platform }) => platform !== undefined && rank(platform) >= 0)
  const [best] = fitting.sort((a, b) => rank(a.platform) - rank(b.platform))
  if (best) return best
  const unnamed = listed.filter(({ platform }) => platform === undefined)
  const inner = unnamed.find(({ mediaType }) => indexTypes.has(mediaType)) ?? (listed.length === 1 ? unnamed[0] : undefined)
  if (inner) return inner
  const platforms = listed.flatMap(({ platform }) => platform && platform.os !== 'unknown' ? formatPlatform(platform) : [])
  throw new OciPlatformError([...new Set(platforms)].slice(0, maxListedPlatforms))
}

/** Place among hostVariants; below 0 for what does not run here, such as the attestations that builders list as unknown/unknown. */
function rank (platform: Platform | undefined): number {
  if (platform?.os !== 'linux' || platform.architecture !== hostArchitecture) return -1
  return hostVariants.indexOf(platform.variant)
}

function readManifest (json: Record<string, unknown>): { configDescriptor: Descriptor, layers: Descriptor[] } {
  if (!Array.isArray(json.layers)) throw new OciManifestError('its manifest lists no layers')
  if (json.layers.length > maxLayers) throw new OciManifestError(`it has ${json.layers.length} layers, and ${maxLayers} is the most that can be stacked`)
  const configDescriptor = readDescriptor(json.config)
  if (!configTypes.has(configDescriptor.mediaType)) throw new OciManifestError(`it is no container image: its configuration is of type ${showType(configDescriptor.mediaType)}`)
  if (configDescriptor.size > maxJsonBytes) throw new OciManifestError(`its configuration is larger than ${maxJsonBytes} bytes`)
  const layers = json.layers.map(readDescriptor)
  for (const { mediaType } of layers) checkLayerType(mediaType)
  return { configDescriptor, layers }
}

function checkLayerType (mediaType: string): void {
  if (layerTypes.has(mediaType)) return
  const type = showType(mediaType)
  if (/encrypted/.test(mediaType)) throw new OciManifestError(`it has an encrypted layer (${type}); push it unencrypted`)
  if (/foreign|nondistributable/.test(mediaType)) throw new OciManifestError(`it has a layer that its registry does not hold (${type}); rebuild it on a base that may be distributed`)
  throw new OciManifestError(`it has a layer of type ${type}; build it with gzip or zstd layers`)
}

/** One document must not be read as an index by one program and as a manifest by another (CVE-2021-41190). */
function checkKind (json: Record<string, unknown>, mediaType: string): void {
  const both = json.manifests !== undefined && (json.layers !== undefined || json.config !== undefined)
  if (both) throw new OciManifestError('a document of it is index and manifest at once')
  if (json.mediaType !== undefined && json.mediaType !== mediaType) throw new OciManifestError('a document of it is of another media type than its descriptor says')
}

function readDiffIds (config: Record<string, unknown>, count: number): string[] {
  const list = isObject(config.rootfs) ? config.rootfs.diff_ids ?? [] : []
  if (!Array.isArray(list) || !list.every((id): id is string => typeof id === 'string' && digestPattern.test(id))) {
    throw new OciManifestError('its configuration lists diff_ids that are no sha256 digests')
  }
  if (list.length !== count) throw new OciManifestError(`it has ${count} layers and ${list.length} diff_ids`)
  return list
}

function readDescriptor (value: unknown): Descriptor {
  const { mediaType, digest, size } = isObject(value) ? value : {}
  // The digest becomes a file name and part of a URL: nothing but this form may pass.
  if (typeof mediaType !== 'string' || typeof digest !== 'string' || !digestPattern.test(digest) || !Number.isSafeInteger(size) || (size as number) < 0) {
    throw new OciManifestError('a descriptor lacks a media type, a sha256 digest or a size')
  }
  return { mediaType, digest, size: size as number }
}

function platformOf (value: unknown): Platform | undefined {
  if (!isObject(value) || !isWord(value.os) || !isWord(value.architecture)) return undefined
  return { os: value.os, architecture: value.architecture, variant: isWord(value.variant) ? value.variant : undefined }
}

function formatPlatform ({ os, architecture, variant }: Platform): string {
  return [os, architecture, variant].filter(Boolean).join('/')
}

/** These end up in messages. */
function isWord (value: unknown): value is string {
  return typeof value === 'string' && /^[\w.-]{1,64}$/.test(value)
}

function showType (mediaType: string): string {
  return /^[\w.+/-]{1,120}$/.test(mediaType) ? mediaType : 'an unreadable type'
}
