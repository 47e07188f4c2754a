/** What every place that images come from has in common. */
import { BerthError } from '../../errors.ts'
import { ContainedFileError } from './contained-file.ts'
import type { BlobSource } from './layers/image-layer.ts'
import { OciManifestError, OciPlatformError, type Descriptor, type ResolvedManifest } from './oci-manifest.ts'

/** Where the blobs of an image can be read. */
export interface ImageBlobs {
  /** How the client called it; for messages. */
  readonly name: string
  /**
   * The bytes of a blob. Their digest and number are for the reader to check.
   *
   * @throws BerthError invalid_argument `image_invalid` when it is missing or of another size.
   */
  openBlob (blob: Descriptor): AsyncIterable<Buffer>
  /** Keeps what reading makes beside the source, as a decompressed copy, until it is disposed. */
  hold? (): AsyncDisposable
}

/** A layout or an archive on this host. Its content is not to be trusted. */
export interface ImageSource extends ImageBlobs {
  /**
   * Finds the image of this tag (without one: the only image) for this host's platform; its layers are not yet read.
   *
   * @throws BerthError invalid_argument `image_not_found` or `image_invalid`.
   */
  resolve (tag: string | undefined): Promise<ResolvedManifest>
  /** Where a blob lies for another process to read; undefined when it can be had through `openBlob` alone. */
  locateBlob (blob: Descriptor): Promise<BlobSource | undefined>
}

export function notFound (message: string, details?: Record<string, unknown>): BerthError {
  return new BerthError('invalid_argument', 'image_not_found', message, { details })
}

/** The error for an image that is there and cannot be used; `why` is a clause. */
export function invalidImage (name: string, why: string, cause?: unknown): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', `the image in ${name} cannot be used: ${why}`, { cause })
}

/** The error for a blob whose content does not have the digest it is named by. */
export function corruptBlob (name: string, digest: string): BerthError {
  return invalidImage(name, `blob ${digest} has another digest than its name says`)
}

/** Turns complaints about content into errors that name the image. */
export async function namingImage<T> (name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (error instanceof ContainedFileError || error instanceof OciManifestError) throw invalidImage(name, error.message, error)
    if (error instanceof OciPlatformError) throw notFound(`${name} has ${error.message}`, { platforms: error.platforms })
    throw error
  }
}
