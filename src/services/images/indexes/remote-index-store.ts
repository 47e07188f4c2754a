import type { BlobSource, RegistryCredentials } from '../layers/image-layer.ts'

/** Where an image comes from, and as whom. */
export interface StoreContext {
  sources: readonly BlobSource[]
  credentials?: RegistryCredentials | undefined
}

/** Something stored: its size as the store says it, and its bytes, to be read once or left. */
export interface StoredBundle {
  sizeBytes: number
  body: AsyncIterable<Buffer>
}

/** A place that hosts share, for small bundles by name. It is not trusted: what it hands out is checked by who reads it. */
export interface RemoteIndexStore {
  /** The place that is asked for images of this context, as logs name it; undefined where there is none. */
  placeOf (context: StoreContext): string | undefined
  /** @throws StoreRefusedError when asking again is no use; another Error when it cannot tell; the signal's reason. */
  find (name: string, context: StoreContext, signal: AbortSignal): Promise<StoredBundle | undefined>
  /** @throws StoreRefusedError when asking again is no use; another Error when it may be; the signal's reason. */
  put (name: string, content: Buffer, context: StoreContext, signal: AbortSignal): Promise<void>
  close (): Promise<void>
}

/** The place gives nothing to this host, or takes nothing from it. */
export class StoreRefusedError extends Error {
  constructor (why: string, options?: ErrorOptions) {
    super(why, options)
    this.name = 'StoreRefusedError'
  }
}
