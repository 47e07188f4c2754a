import { createHash } from 'node:crypto'
import { access, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../../errors.ts'
import { refuseDevices, unpackImage } from '../../host/umoci.ts'
import { decompressZstd, ZstdError } from '../../lib/zstd.ts'
import { digestOf } from './digest.ts'
import { writeWithinDisk } from './disk-writer.ts'
import { corruptBlob, invalidImage, type ImageBlobs } from './image-source.ts'
import type { LayerDescriptor } from './layers/image-layer.ts'
import type { Descriptor, ResolvedManifest } from './oci-manifest.ts'

const ociManifest = 'application/vnd.oci.image.manifest.v1+json'
const ociConfig = 'application/vnd.oci.image.config.v1+json'
const ociTar = 'application/vnd.oci.image.layer.v1.tar'

/** Layers that umoci takes, with the OCI name for the same format: Docker's differ in name only. */
const layerTypes: Readonly<Record<string, string>> = {
  [ociTar]: ociTar,
  [`${ociTar}+gzip`]: `${ociTar}+gzip`,
  'application/vnd.docker.image.rootfs.diff.tar': ociTar,
  'application/vnd.docker.image.rootfs.diff.tar.gzip': `${ociTar}+gzip`,
}
/** Layers that umoci gets as plain tar. */
const zstdTypes = new Set([`${ociTar}+zstd`, 'application/vnd.docker.image.rootfs.diff.tar.zstd'])

const tag = 'image'

/**
 * Unpacks an image into `<dir>/rootfs`.
 *
 * Every blob is copied into a layout of ours while its digest is checked, so what is unpacked is what was checked,
 * whatever happens to its source meanwhile. `<dir>` holds only `rootfs` afterwards.
 *
 * @throws BerthError invalid_argument `image_invalid`, exhausted `disk_full`, as unpackImage, and what the source throws.
 */
export async function unpackOciImage (source: ImageBlobs, image: ResolvedManifest, dir: string): Promise<void> {
  const layout = join(dir, 'layout')
  await mkdir(join(layout, 'blobs', 'sha256'), { recursive: true, mode: 0o700 })
  const layers = await copyBlobs(source, image, layout)
  const manifest = JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: { ...image.configDescriptor, mediaType: ociConfig }, layers })
  const digest = digestOf(manifest)
  await writeFile(blobFile(layout, digest), manifest)
  await writeFile(join(layout, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  await writeFile(join(layout, 'index.json'), JSON.stringify({
    schemaVersion: 2,
    manifests: [{ mediaType: ociManifest, digest, size: manifest.length, annotations: { 'org.opencontainers.image.ref.name': tag } }],
  }))

  const rootfs = join(dir, 'rootfs')
  await unpackImage({ layout, tag, rootfs })
  await refuseDevices(rootfs)
  await rm(layout, { recursive: true })
}

/** Copies configuration and layers; answers the layers as they lie in our layout. */
async function copyBlobs (source: ImageBlobs, image: ResolvedManifest, layout: string): Promise<Descriptor[]> {
  await using held = source.hold?.()
  void held
  await copyBlob(source, image.configDescriptor, layout)
  // A layer may stand in a manifest more than once.
  const copied = new Map<string, Descriptor>()
  for (const layer of image.layers) {
    const key = `${layer.digest} ${layer.mediaType} ${layer.diffId}`
    if (!copied.has(key)) copied.set(key, await copyLayer(source, layer, layout))
  }
  return image.layers.map(layer => copied.get(`${layer.digest} ${layer.mediaType} ${layer.diffId}`) as Descriptor)
}

async function copyLayer (source: ImageBlobs, layer: LayerDescriptor, layout: string): Promise<Descriptor> {
  const blob = { mediaType: layer.mediaType, digest: layer.digest, size: layer.sizeBytes }
  if (zstdTypes.has(layer.mediaType)) return { mediaType: ociTar, ...await decompressLayer(source, blob, layer.diffId, layout) }
  const mediaType = layerTypes[layer.mediaType]
  if (mediaType === undefined) throw new BerthError('invalid_argument', 'image_invalid', `the image has a layer of type ${layer.mediaType}, which cannot be unpacked here; build it with gzip layers`)
  await copyBlob(source, blob, layout)
  return { ...blob, mediaType }
}

async function copyBlob (source: ImageBlobs, blob: Descriptor, layout: string): Promise<void> {
  const path = blobFile(layout, blob.digest)
  // Whatever has this digest as its name has it as its content.
  if (await exists(path)) return
  await writeWithinDisk(path, verified(source, blob))
}

/** Writes the tar of a zstd layer under its diff id. */
async function decompressLayer (source: ImageBlobs, blob: Descriptor, diffId: string, layout: string): Promise<{ digest: string, size: number }> {
  const hash = createHash('sha256')
  let size = 0
  async function * measured (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      hash.update(chunk)
      size += chunk.length
      yield chunk
    }
  }
  const writing = join(layout, 'layer')
  try {
    await writeWithinDisk(writing, measured(decompressZstd(verified(source, blob))))
  } catch (error) {
    throw error instanceof ZstdError ? invalidImage(source.name, `the zstd compression of layer ${blob.digest} is damaged`, error) : error
  }
  if (`sha256:${hash.digest('hex')}` !== diffId) throw invalidImage(source.name, `layer ${blob.digest} does not have the content that its configuration promises`)
  await rename(writing, blobFile(layout, diffId))
  return { digest: diffId, size }
}

/** The bytes of a blob, no more than its descriptor says; an error at their end when they do not have its digest. */
async function * verified (source: ImageBlobs, blob: Descriptor): AsyncGenerator<Buffer, void, undefined> {
  const hash = createHash('sha256')
  let done = 0
  for await (const chunk of source.openBlob(blob)) {
    done += chunk.length
    // A file that grows while it is copied does not fill the disk.
    if (done > blob.size) throw corruptBlob(source.name, blob.digest)
    hash.update(chunk)
    yield chunk
  }
  if (`sha256:${hash.digest('hex')}` !== blob.digest) throw corruptBlob(source.name, blob.digest)
}

async function exists (path: string): Promise<boolean> {
  return await access(path).then(() => true, () => false)
}

function blobFile (layout: string, digest: string): string {
  return join(layout, 'blobs', digest.replace(':', '/'))
}
