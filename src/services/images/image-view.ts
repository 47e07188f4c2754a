import type { Image, ImageDetail } from '../../schemas/image.ts'
import type { StoredImage } from './image-store.ts'
import type { LayerDescriptor, LayerProgress } from './layers/image-layer.ts'

interface ImageFacts {
  references: string[]
  leaseIds: string[]
}

/** An image as the API shows it; `states` says how far layers are, by digest. */
export function describeImage (image: StoredImage, { references, leaseIds }: ImageFacts, states: ReadonlyMap<string, LayerProgress>): Image {
  const layers = layersOf(image).map(layer => stateOf(layer, states))
  const sum = (pick: (layer: LayerProgress) => number) => layers.reduce((total, layer) => total + pick(layer), image.sizeBytes)
  return {
    digest: image.digest,
    references,
    kind: image.kind,
    state: layers.every(layer => layer.state === 'complete') ? 'complete' : 'partial',
    // A layer that was never looked into has at least the size of its blob.
    sizeBytes: sum(layer => layer.totalBytes || layer.sizeBytes),
    localBytes: sum(layer => layer.localBytes),
    createdAt: image.createdAt,
    lastUsedAt: image.lastUsedAt,
    leases: leaseIds.length,
  }
}

export function detailImage (image: StoredImage, facts: ImageFacts, states: ReadonlyMap<string, LayerProgress>): ImageDetail {
  const layers = layersOf(image).map(layer => {
    const { state, totalBytes, localBytes } = stateOf(layer, states)
    return { digest: layer.digest, mediaType: layer.mediaType, sizeBytes: layer.sizeBytes, totalBytes, localBytes, state }
  })
  return { ...describeImage(image, facts, states), config: structuredClone(image.config), layers, leaseIds: facts.leaseIds }
}

function layersOf (image: StoredImage): readonly LayerDescriptor[] {
  return image.kind === 'layered' ? image.layers : []
}

function stateOf (layer: LayerDescriptor, states: ReadonlyMap<string, LayerProgress>): LayerProgress {
  return states.get(layer.digest) ?? { digest: layer.digest, state: 'absent', fetchedBytes: 0, sizeBytes: layer.sizeBytes, localBytes: 0, totalBytes: 0 }
}
