import { Mutex } from 'async-mutex'
import type { Logger } from 'pino'
import type { PullProgress } from '../../schemas/image.ts'
import { findOverriddenDirectory } from './implicit-directories.ts'
import type { LayerMounts } from './layer-mounts.ts'
import type { LayerDescriptor, LayerProgress, PullMode, RegistryCredentials, SourcedLayer } from './layers/image-layer.ts'
import { LayerDirectory } from './layers/layer-directory.ts'
import { LayerNeedsUnpackError } from './layers/layer-needs-unpack-error.ts'
import type { ImageServerSupervisor } from './server/image-server-supervisor.ts'

/** The layers of one image. */
export interface LayerStack {
  /** Of the image. */
  digest: string
  /** The bottom one first. */
  layers: readonly SourcedLayer[]
}

export interface PrepareOptions {
  mode: PullMode
  credentials?: RegistryCredentials
  signal?: AbortSignal
  /** Told of all layers whenever one of them has come further. */
  onProgress?: (layers: LayerProgress[]) => void
}

/** Images as stacks of layers: each layer is on this host once, mounted once, whatever number of images and sandboxes use it. */
export class LayeredImages {
  readonly #supervisor: ImageServerSupervisor
  readonly #mounts: LayerMounts
  readonly #directory: LayerDirectory
  readonly #logger: Logger
  /** Where layers are to be mounted from: what need not be asked of the server. */
  readonly #current = new Map<string, { dir: string, isLocal: boolean }>()
  /** Held by whoever removes layers, and by whoever makes known that an image needs some. */
  readonly changing = new Mutex()

  constructor (options: { supervisor: ImageServerSupervisor, mounts: LayerMounts, layersDir: string, logger: Logger }) {
    this.#supervisor = options.supervisor
    this.#mounts = options.mounts
    this.#directory = new LayerDirectory({ dir: options.layersDir })
    this.#logger = options.logger
  }

  /** Finds what is mounted and served. Servers that are gone are reported as lost. */
  async adopt (): Promise<void> {
    await this.#mounts.adopt()
    await this.#supervisor.adopt()
  }

  /** A layer will be needed in a moment. */
  warm (): void {
    this.#supervisor.warm()
  }

  /**
   * Mount points of the image's layers, the top one first.
   *
   * @throws LayerNeedsUnpackError (see `isLayerNeedsUnpack`) when the layers cannot be stacked rightly; what the image server throws.
   */
  async mount (stack: LayerStack, options: PrepareOptions): Promise<string[]> {
    const layers = uniqueLayers(stack.layers)
    const known = layers.flatMap(layer => this.#current.get(layer.digest) ?? [])
    const isFound = known.length === layers.length && (options.mode === 'lazy' || known.every(({ isLocal }) => isLocal))
    if (isFound) return known.map(({ dir }) => dir).toReversed()
    const dirs = await this.#each(layers, options, async prepared => {
      const dir = await this.#mounts.mount(prepared)
      this.#current.set(prepared.digest, { dir, isLocal: prepared.isLocal })
      return dir
    })
    await this.#checkStack(layers, dirs)
    return dirs.toReversed()
  }

  /** A layer is complete: who comes from now on mounts it without a server. */
  markComplete (digest: string): void {
    if (!this.#current.get(digest)?.isLocal) this.#current.delete(digest)
  }

  /** A server is gone, and what was mounted through it. */
  markLost (): void {
    for (const [digest, { isLocal }] of this.#current) if (!isLocal) this.#current.delete(digest)
  }

  /** Tells the server that a sandbox of the image is about to start. */
  async boot (stack: LayerStack): Promise<void> {
    if (stack.layers.every(layer => this.#current.get(layer.digest)?.isLocal)) return
    await this.#supervisor.boot({ imageDigest: stack.digest, digests: stack.layers.map(layer => layer.digest) })
      .catch((error: unknown) => this.#logger.debug({ err: error }, 'the image server was not told of a start'))
  }

  /** How far layers are, by digest; those that are not here at all are missing. */
  async states (): Promise<Map<string, LayerProgress>> {
    const present = await this.#present()
    if (present.size === 0) return new Map()
    return new Map((await this.#supervisor.layers()).map(layer => [layer.digest, layer]))
  }

  /** Removes every layer that is not needed; those that are given up may still be on their way here. Answers the bytes that were freed. */
  async collect (needed: ReadonlySet<string>, givenUp: readonly string[] = []): Promise<number> {
    const surplus = [...new Set([...await this.#present(), ...givenUp])].filter(digest => !needed.has(digest))
    if (surplus.length === 0) return 0
    const states = await this.states()
    for (const digest of surplus) {
      this.#current.delete(digest)
      await this.#mounts.unmount(digest)
    }
    await this.#supervisor.forget(surplus)
    return surplus.reduce((sum, digest) => sum + (states.get(digest)?.localBytes ?? 0), 0)
  }

  /** Lets go of the server. */
  async close (): Promise<void> {
    await this.#supervisor.close()
  }

  /** Unmounts every layer and ends the server. */
  async end (): Promise<void> {
    await this.#mounts.unmountEverything()
    await this.#supervisor.end()
  }

  /** `dirs` are the layers' mount points; the bottom one first. */
  async #checkStack (layers: readonly SourcedLayer[], dirs: readonly string[]): Promise<void> {
    await Promise.all(layers.map(async ({ digest }, index) => {
      if (index === 0) return
      const { implicitDirectories = [] } = (await this.#directory.find(digest))?.facts ?? {}
      const overridden = await findOverriddenDirectory(implicitDirectories, dirs.slice(0, index).toReversed())
      if (overridden !== undefined) throw new LayerNeedsUnpackError(`it changes /${overridden}, a directory that it has no entry for`)
    }))
  }

  async #each<T> (layers: readonly SourcedLayer[], options: PrepareOptions, use: (prepared: Awaited<ReturnType<ImageServerSupervisor['prepare']>>) => Promise<T>): Promise<T[]> {
    const { mode, credentials, signal, onProgress } = options
    const progress = new Map(layers.map(layer => [layer.digest, notBegun(layer)]))
    const report = (one: LayerProgress) => {
      progress.set(one.digest, one)
      onProgress?.([...progress.values()])
    }
    onProgress?.([...progress.values()])
    // The first failure ends the waits for the others; the server goes on with what it has begun.
    const failing = new AbortController()
    const waiting = signal ? AbortSignal.any([signal, failing.signal]) : failing.signal
    const waits = { signal: waiting, ...(onProgress ? { onProgress: report } : {}) }
    try {
      return await Promise.all(layers.map(async ({ sources, ...layer }) => {
        // What lies on this host is taken whole: a client may remove its files at any time.
        const isLocal = sources.every(({ kind }) => kind === 'file')
        return use(await this.#supervisor.prepare({ layer, sources, mode: isLocal ? 'eager' : mode, ...(credentials ? { credentials } : {}) }, waits))
      }))
    } catch (error) {
      failing.abort(error)
      throw error
    }
  }

  async #present (): Promise<Set<string>> {
    return new Set(await this.#directory.list())
  }
}

/** A layer that stands in an image twice hides its lower self; overlayfs refuses a directory that it has already. The bottom one first. */
function uniqueLayers (layers: readonly SourcedLayer[]): SourcedLayer[] {
  return layers.filter((layer, index) => !layers.slice(index + 1).some(above => above.digest === layer.digest))
}

function notBegun (layer: LayerDescriptor): LayerProgress {
  return { digest: layer.digest, state: 'absent', fetchedBytes: 0, sizeBytes: layer.sizeBytes, localBytes: 0, totalBytes: 0 }
}

/** A pull's progress from that of its layers. */
export function pullProgress (reference: string, digest: string, layers: LayerProgress[]): PullProgress {
  const sum = (pick: (layer: LayerProgress) => number) => layers.reduce((total, layer) => total + pick(layer), 0)
  return { phase: 'fetching', reference, digest, layers, fetchedBytes: sum(layer => layer.fetchedBytes), sizeBytes: sum(layer => layer.sizeBytes) }
}
