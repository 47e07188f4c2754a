import type { FuseFile } from '../../../host/fuse-directory.ts'
import { hexOf } from '../digest.ts'
import type { BlobSource, LayerDescriptor, LayerProgress, RegistryCredentials } from '../layers/image-layer.ts'
import type { LazyLayer } from '../layers/lazy-layer.ts'
import { granuleBytes } from '../layers/span-presence.ts'

/** How one layer stands in the image server. */
export class ServedLayer {
  readonly descriptor: LayerDescriptor
  /** The latest word first. */
  sources: BlobSource[] = []
  credentials: RegistryCredentials | undefined
  /** Its data comes when it is read. */
  lazy: LazyLayer | undefined
  isComplete = false
  /** Of the tar; 0 while it is not known. */
  tarBytes = 0
  /** Being streamed as a whole: bytes of the blob that came. */
  streamedBytes: number | undefined
  readonly #listeners = new Set<(progress: LayerProgress) => void>()

  constructor (descriptor: LayerDescriptor) {
    this.descriptor = descriptor
  }

  /** Takes what a request says of where the layer can be had. */
  learn (sources: readonly BlobSource[], credentials: RegistryCredentials | undefined): void {
    const isKnown = (source: BlobSource) => sources.some(other => JSON.stringify(other) === JSON.stringify(source))
    this.sources = [...sources, ...this.sources.filter(source => !isKnown(source))]
    this.credentials = credentials ?? this.credentials
  }

  progress (): LayerProgress {
    const { digest, sizeBytes } = this.descriptor
    const common = { digest, sizeBytes, totalBytes: this.tarBytes }
    if (this.isComplete) return { ...common, state: 'complete', fetchedBytes: sizeBytes, localBytes: this.tarBytes }
    if (this.lazy) {
      const { fetchedBytes, localBytes } = this.lazy.statistics()
      return { ...common, state: 'lazy', fetchedBytes: Math.min(fetchedBytes, sizeBytes), localBytes }
    }
    return { ...common, state: this.streamedBytes === undefined ? 'absent' : 'fetching', fetchedBytes: this.streamedBytes ?? 0, localBytes: 0 }
  }

  /** Calls back while the layer comes further; the answer ends it. */
  watch (listener: (progress: LayerProgress) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  tell (): void {
    const progress = this.progress()
    for (const listener of this.#listeners) listener(progress)
  }

  /** The layer's tar as a file of the FUSE mount. */
  fuseFile (tarPath: string): FuseFile {
    const hex = hexOf(this.descriptor.digest)
    return {
      name: hex,
      // 60 bits of the digest, above the nodes that FUSE itself has: the same for every server.
      nodeId: BigInt(`0x${hex.slice(0, 15)}`) + 16n,
      sizeBytes: this.tarBytes,
      dataPath: tarPath,
      present: this.lazy?.present ?? allPresent(this.tarBytes),
      granuleBytes,
    }
  }
}

function allPresent (bytes: number): SharedArrayBuffer {
  const bits = new SharedArrayBuffer(Math.ceil(Math.ceil(bytes / granuleBytes) / 8))
  new Uint8Array(bits).fill(0xff)
  return bits
}
