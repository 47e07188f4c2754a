import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { ImageStore, StoredImage } from './image-store.ts'
import type { LayeredImages } from './layered-images.ts'
import type { LeaseStore } from './lease-store.ts'
import type { ReferenceTable } from './reference-table.ts'

export interface ImageCollectorOptions {
  store: ImageStore
  leases: LeaseStore
  references: ReferenceTable
  layers: LayeredImages | undefined
  /** Whether somebody is about to need the image: asked in the turn in which it goes. */
  isPinned: (digest: string) => boolean
  onRemoved: (digest: string) => void
  logger: Logger
}

/** Removes images that nobody uses, and layers that no image needs. What is leased or being prepared stays, whatever is asked. */
export class ImageCollector {
  readonly #options: ImageCollectorOptions

  constructor (options: ImageCollectorOptions) {
    this.#options = options
  }

  /** @throws BerthError conflict `image_in_use`. */
  async remove (image: StoredImage): Promise<{ freedBytes: number }> {
    if (await this.#remove(image)) return { freedBytes: image.sizeBytes + await this.collectLayers(image) }
    const leases = this.#options.leases.holdersOf(image.digest)
    if (leases.length === 0) throw new BerthError('conflict', 'image_in_use', 'the image is being prepared for a sandbox or a pull; try again when that is done')
    const [who, whom] = leases.length === 1 ? ['1 sandbox', 'it'] : [`${leases.length} sandboxes`, 'them']
    throw new BerthError('conflict', 'image_in_use', `the image is used by ${who}; delete ${whom} first`, { details: { leases } })
  }

  /** As ImageManager.prune. */
  async prune (options: { keepBytes?: number, unusedForMs?: number }): Promise<{ digests: string[], freedBytes: number }> {
    const { keepBytes = 0, unusedForMs = 0 } = options
    const unusedSince = new Date(Date.now() - unusedForMs).toISOString()
    const digests: string[] = []
    let freedBytes = 0
    // Without a budget every one goes, whatever they take.
    const usedBytes = keepBytes > 0 ? await this.#usedBytes() : Infinity
    for (const image of await this.#options.store.list()) {
      if (image.lastUsedAt > unusedSince || usedBytes - freedBytes <= keepBytes) break
      if (!await this.#remove(image)) continue
      digests.push(image.digest)
      freedBytes += image.sizeBytes + await this.collectLayers(image)
    }
    if (digests.length > 0) this.#options.logger.info({ digests, freedBytes }, 'removed images that nobody uses')
    return { digests, freedBytes }
  }

  async sweep ({ diskBytes, maxUnusedMs }: { diskBytes?: number | undefined, maxUnusedMs?: number | undefined }): Promise<void> {
    await this.collectLayers()
    if (maxUnusedMs !== undefined) await this.prune({ unusedForMs: maxUnusedMs })
    if (diskBytes !== undefined && await this.#usedBytes() > diskBytes) await this.prune({ keepBytes: diskBytes })
  }

  /** Removes layers that no image needs, also such of an image that has just gone as are still on their way. Answers the bytes that were freed. */
  async collectLayers (gone?: StoredImage): Promise<number> {
    const { layers, store } = this.#options
    if (!layers) return 0
    return await layers.changing.runExclusive(async () => {
      const images = await store.list()
      return await layers.collect(new Set(images.flatMap(digestsOf)), gone ? digestsOf(gone) : [])
    })
  }

  async #remove (image: StoredImage): Promise<boolean> {
    const { store, leases, references, isPinned, onRemoved } = this.#options
    const { digest } = image
    if (!await store.remove(image, () => isPinned(digest) || leases.holds(digest))) return false
    await references.drop(digest)
    onRemoved(digest)
    return true
  }

  /** Disk space of all images; a layer counts once. */
  async #usedBytes (): Promise<number> {
    const { store, layers } = this.#options
    const images = await store.list()
    const states = await layers?.states() ?? new Map<string, { localBytes: number }>()
    const sum = (sizes: number[]) => sizes.reduce((total, size) => total + size, 0)
    return sum(images.map(image => image.sizeBytes)) + sum([...states.values()].map(layer => layer.localBytes))
  }
}

function digestsOf (image: StoredImage): string[] {
  return image.layers?.map(layer => layer.digest) ?? []
}
