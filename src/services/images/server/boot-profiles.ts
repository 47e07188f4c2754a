import type { Logger } from 'pino'
import type { LayerIndexes } from '../indexes/layer-indexes.ts'
import type { ServedLayer } from './served-layer.ts'

// A boot that takes longer waits for something else than its image.
const recordingMs = 10_000

/** What sandboxes of an image read first: recorded once, fetched ahead from then on. */
export class BootProfiles {
  readonly #indexes: LayerIndexes
  readonly #logger: Logger
  readonly #recording = new Map<string, NodeJS.Timeout>()

  constructor (options: { indexes: LayerIndexes, logger: Logger }) {
    this.#indexes = options.indexes
    this.#logger = options.logger
  }

  /** A sandbox of this image is about to read these layers, none of which is complete. */
  begin (imageDigest: string, layers: readonly ServedLayer[]): void {
    if (this.#recording.has(imageDigest)) return
    this.#replay(imageDigest, layers).then(isKnown => {
      if (!isKnown) this.#record(imageDigest, layers)
    }).catch((error: unknown) => this.#logger.warn({ err: error, imageDigest }, 'what a start of the image needs could not be fetched ahead'))
  }

  close (): void {
    for (const timer of this.#recording.values()) clearTimeout(timer)
  }

  async #replay (imageDigest: string, layers: readonly ServedLayer[]): Promise<boolean> {
    const [first] = layers
    if (!first) return true
    const profile = await this.#indexes.findProfile(imageDigest, first)
    if (!profile) return false
    await Promise.all(profile.map(async ({ digest, spans }) => layers.find(layer => layer.descriptor.digest === digest)?.lazy?.prefetch(spans)))
    return true
  }

  #record (imageDigest: string, layers: readonly ServedLayer[]): void {
    this.#recording.set(imageDigest, setTimeout(() => {
      this.#recording.delete(imageDigest)
      const profile = layers.flatMap(({ descriptor, lazy }) => lazy ? [{ digest: descriptor.digest, spans: lazy.touchedSpans() }] : [])
      const [first] = layers
      if (first && profile.some(({ spans }) => spans.length > 0)) void this.#indexes.addProfile(imageDigest, profile, first)
    }, recordingMs).unref())
  }
}
