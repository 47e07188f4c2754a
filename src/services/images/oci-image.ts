import { createHash } from 'node:crypto'
import { mkdir, open, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../../errors.ts'
import { refuseDevices, unpackImage } from '../../host/umoci.ts'
import type { OciLayout } from './oci-layout.ts'
import type { Descriptor, ResolvedManifest } from './oci-manifest.ts'

const ociManifest = 'application/vnd.oci.image.manifest.v1+json'
const ociConfig = 'application/vnd.oci.image.config.v1+json'
const ociTar = 'application/vnd.oci.image.layer.v1.tar'

/** Layers that can be unpacked, with the OCI name for the same format: Docker's differ in name only. */
const layerTypes: Readonly<Record<string, string>> = {
  [ociTar]: ociTar,
  [`${ociTar}+gzip`]: `${ociTar}+gzip`,
  'application/vnd.docker.image.rootfs.diff.tar': ociTar,
  'application/vnd.docker.image.rootfs.diff.tar.gzip': `${ociTar}+gzip`,
}

const copyChunkBytes = 1024 ** 2
const tag = 'image'

/**
 * Unpacks an image of a client's layout into `<dir>/rootfs`.
 *
 * Every blob is copied into a layout of ours while its digest is checked, so what is unpacked is what was checked,
 * whatever happens to the client's files meanwhile. `<dir>` holds only `rootfs` afterwards.
 *
 * @throws BerthError invalid_argument `image_invalid`, and as unpackImage.
 */
export async function unpackOciImage (source: OciLayout, image: ResolvedManifest, dir: string): Promise<void> {
  const layers = image.layers.map(({ digest, mediaType, sizeBytes }) => ({ mediaType: usableLayerType(mediaType), digest, size: sizeBytes }))
  const layout = join(dir, 'layout')
  await mkdir(join(layout, 'blobs', 'sha256'), { recursive: true, mode: 0o700 })
  // A layer may stand in a manifest more than once.
  const blobs = new Map([image.configDescriptor, ...layers].map(blob => [blob.digest, blob]))
  for (const blob of blobs.values()) await copyBlob(source, blob, layout)

  const manifest = JSON.stringify({ schemaVersion: 2, mediaType: ociManifest, config: { ...image.configDescriptor, mediaType: ociConfig }, layers })
  const digest = `sha256:${createHash('sha256').update(manifest).digest('hex')}`
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

function usableLayerType (mediaType: string): string {
  const type = layerTypes[mediaType]
  if (type !== undefined) return type
  throw new BerthError('invalid_argument', 'image_invalid', `the image has a layer of type ${mediaType}, which cannot be unpacked here; build it with gzip layers`)
}

async function copyBlob (source: OciLayout, blob: Descriptor, layout: string): Promise<void> {
  const from = await source.openBlob(blob)
  try {
    const to = await open(blobFile(layout, blob.digest), 'wx', 0o600)
    try {
      const hash = createHash('sha256')
      const buffer = Buffer.allocUnsafe(copyChunkBytes)
      // Bounded by the descriptor: a file that grows while it is copied does not fill the disk.
      for (let left = blob.size; left > 0;) {
        const { bytesRead } = await from.read(buffer, 0, Math.min(left, buffer.length))
        if (bytesRead === 0) break
        const chunk = buffer.subarray(0, bytesRead)
        hash.update(chunk)
        await to.writeFile(chunk)
        left -= bytesRead
      }
      if (`sha256:${hash.digest('hex')}` !== blob.digest) throw source.corruptBlob(blob)
    } finally {
      await to.close()
    }
  } finally {
    await from.close()
  }
}

function blobFile (layout: string, digest: string): string {
  return join(layout, 'blobs', digest.replace(':', '/'))
}
