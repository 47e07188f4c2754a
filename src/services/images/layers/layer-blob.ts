import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { BerthError, errorKinds } from '../../../errors.ts'
import type { LayerDescriptor } from './image-layer.ts'

export interface ReadBlobOptions {
  layer: LayerDescriptor
  /** The blob from this byte on, to its end. */
  openBlob: (offset: number) => AsyncIterable<Buffer>
  onBytes?: (fetchedBytes: number) => void
  signal?: AbortSignal
}

// Attempts that bring nothing; one that brings data begins the count anew.
const maxVainAttempts = 3
const firstPauseMs = 200

/**
 * The whole blob of a layer, taken up again where its source broke off. It ends without an error only when the blob has
 * its size and its digest.
 *
 * @throws BerthError invalid_argument `image_invalid`, or what the source throws when it keeps failing.
 */
export async function * readBlob ({ layer, openBlob, onBytes, signal }: ReadBlobOptions): AsyncGenerator<Buffer, void, void> {
  const hash = createHash('sha256')
  let fetchedBytes = 0
  for (let vainAttempts = 0; ;) {
    try {
      for await (const chunk of openBlob(fetchedBytes)) {
        signal?.throwIfAborted()
        vainAttempts = 0
        fetchedBytes += chunk.length
        if (fetchedBytes > layer.sizeBytes) throw wrong('larger than its image says', layer)
        hash.update(chunk)
        onBytes?.(fetchedBytes)
        yield chunk
      }
      break
    } catch (error) {
      signal?.throwIfAborted()
      if (!(error instanceof BerthError) || !errorKinds[error.kind].retryable || ++vainAttempts >= maxVainAttempts) throw error
      await delay(firstPauseMs * 2 ** vainAttempts, undefined, { signal })
    }
  }
  if (fetchedBytes !== layer.sizeBytes) throw wrong('smaller than its image says', layer)
  if (`sha256:${hash.digest('hex')}` !== layer.digest) throw wrong('not what its digest says', layer)
}

function wrong (what: string, { digest }: LayerDescriptor): BerthError {
  return new BerthError('invalid_argument', 'image_invalid', `a layer of the image is ${what}; push the image again`, { details: { digest } })
}
