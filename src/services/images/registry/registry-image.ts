import { BerthError } from '../../../errors.ts'
import { OciManifestError, OciPlatformError, resolveManifest, type Descriptor, type ResolvedManifest } from '../oci-manifest.ts'
import type { FetchedManifest, RegistryClient } from './registry-client.ts'
import { formatRegistryReference, type RegistryReference } from './registry-reference.ts'

/**
 * Finds the image that a reference names, for this host's platform; a digest decides over a tag.
 *
 * @throws BerthError as RegistryClient.getManifest; `image_not_found` with `details.platforms` when there is none for this host.
 */
export async function resolveRegistryImage (client: RegistryClient, reference: RegistryReference, options: { signal?: AbortSignal } = {}): Promise<ResolvedManifest> {
  const name = formatRegistryReference(reference)
  const top = await client.getManifest(reference.digest ?? reference.tag ?? 'latest', options)
  const read = async (descriptor: Descriptor, role: 'manifest' | 'config'): Promise<Buffer> => {
    if (descriptor.digest === top.digest) return top.body
    return role === 'config' ? readBlob(client, descriptor, options.signal) : readManifest(client, descriptor, options.signal)
  }
  try {
    return await resolveManifest(descriptorOf(top), read)
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
  const read = async (skipMirrors: boolean) => {
    const chunks: Buffer[] = []
    for await (const chunk of client.streamBlob({ digest: descriptor.digest, sizeBytes: descriptor.size }, { signal, skipMirrors })) chunks.push(chunk)
    return Buffer.concat(chunks)
  }
  return await read(false).catch((error: unknown) => {
    // A mirror may have anything; what the registry itself says is final.
    if (error instanceof BerthError && error.code === 'image_invalid') return read(true)
    throw error
  })
}

function descriptorOf ({ digest, mediaType, body }: FetchedManifest): Descriptor {
  return { digest, mediaType, size: body.length }
}
