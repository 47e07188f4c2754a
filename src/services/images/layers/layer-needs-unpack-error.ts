import { BerthError } from '../../../errors.ts'

const layerNeedsUnpack = 'layer_needs_unpack'

/**
 * A layer that is well-formed, but that cannot be indexed rightly: sparse entries, headers that mkfs.erofs reads otherwise than others do.
 * The image must be unpacked as a whole; no client ever sees this error.
 */
export class LayerNeedsUnpackError extends BerthError {
  constructor (reason: string, options: { cause?: unknown } = {}) {
    super('invalid_argument', layerNeedsUnpack, `a layer of the image cannot be indexed: ${reason}; unpack the image as a whole`, options)
    this.name = 'LayerNeedsUnpackError'
  }
}

/** Also for one that came from another thread or process, where classes are lost. */
export function isLayerNeedsUnpack (error: unknown): boolean {
  return error instanceof BerthError && error.code === layerNeedsUnpack
}
