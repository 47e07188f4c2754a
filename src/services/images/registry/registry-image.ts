import { BerthError } from '../../../errors.ts'
import type { ImageConfig } from '../image-config.ts'
import type { LayerDescriptor } from '../layers/image-layer.ts'
import { OciManifestError, OciPlatformError, resolveManifest, type Descriptor } from '../oci-manifest.ts'
import type { FetchedManifest, RegistryClient } from './registry-client.ts'
import { formatRegistryReference, type RegistryReference } from './registry-reference.ts'

/** An image of a registry, resolved for this host; its layers are not yet fetched. */
export interface RegistryImage {
  /** Of the manifest for this host's platform. */
  digest: string
  /** Of the index that it was taken from, if the reference names one. */
  indexDigest?: string
  config: ImageConfig
  /** The lowest first. */
  layers: LayerDescriptor[]
  /** The manifest's and the configuration's own bytes. */
  manifest: Buffer
  configBlob: Buffer
}

/**
 * Finds the image that a reference names, for this host's platform; a digest decides over a tag.
 *
 * @throws BerthError as RegistryClient.getManifest; `image_not_found` with `details.platforms` when there is none for this host.
 */
export async function resolveRegistryImage (client: RegistryClient, reference: RegistryReference, options: { signal?: AbortSignal } = {}): Promise<RegistryImage> {
  const name = formatRegistryReference(reference)
  const top = await client.getManifest(reference.digest ?? reference.tag ?? 'latest', options)
  const read = async (descriptor: Descriptor, role: 'manifest' | 'config'): Promise<Buffer> => {
    if (descriptor.digest === top.digest) return top.body
    return role === 'config' ? readBlob(client, descriptor, options.signal) : readManifest(client, descriptor, options.signal)
  }
  try {
    const { configDescriptor, ...image } = await resolveManifest(descriptorOf(top), read)
    return image
  } catch (error) {
    if (error instanceof OciPlatformError) {
      throw new BerthError('invalid_argument', 'image_not_found', `${name} has ${error.message}`, { details: { platforms: error.platforms } })
    }
    if (error instanceof OciManifestError) throw new BerthError('invalid_argument', 'image_invalid', `the image ${name} cannot be used: ${error.message}`)
    throw error
  }
}

async function readManifest (client: RegistryClient, descriptor: Descriptor, signal: AbortSignal | undefined): Promise<Buffer> {
  const { body } = await client.getManifest(descriptor.digest, { signal })
  if (body.length !== descriptor.size) throw new OciManifestError(`manifest ${descriptor.digest} has ${body.length} bytes, its descriptor says ${descriptor.size}`)
  return body
}

async function readBlob (client: RegistryClient, descriptor: Descriptor, signal: AbortSignal | undefined): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of client.streamBlob({ digest: descriptor.digest, sizeBytes: descriptor.size }, { signal })) chunks.push(chunk)
  return Buffer.concat(chunks)
}

function descriptorOf ({ digest, mediaType, body }: FetchedManifest): Descriptor {
  return { digest, mediaType, size: body.length }
}
