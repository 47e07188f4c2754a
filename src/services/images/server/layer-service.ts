import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Mutex, Semaphore } from 'async-mutex'
import type { Logger } from 'pino'
import { BerthError } from '../../../errors.ts'
import type { FuseFileServer } from '../../../host/fuse-file-server.ts'
import { readJson, writeDurably } from '../../../lib/durable-file.ts'
import { hexOf } from '../digest.ts'
import type { LayerIndexes } from '../indexes/layer-indexes.ts'
import type { LayerProgress } from '../layers/image-layer.ts'
import { buildLayer } from '../layers/layer-builder.ts'
import type { LayerDirectory, LayerFacts } from '../layers/layer-directory.ts'
import { attachIndex } from '../layers/layer-index.ts'
import { LazyLayer } from '../layers/lazy-layer.ts'
import type { SpanTable } from '../layers/span-table.ts'
import { granuleBytes } from '../layers/span-presence.ts'
import { SingleFlight } from '../single-flight.ts'
import { BootProfiles } from './boot-profiles.ts'
import type { BootRequest, PreparedLayer, PrepareRequest } from './control-protocol.ts'
import { LayerFilling } from './layer-filling.ts'
import type { LayerSources } from './layer-sources.ts'
import { ServedLayer } from './served-layer.ts'
import type { ServerEvents } from './server-events.ts'

export interface LayerServiceOptions {
  directory: LayerDirectory
  sources: LayerSources
  events: ServerEvents
  logger: Logger
  readTimeoutMs: number
  fillDelayMs: number
  indexes: LayerIndexes
  /** Where incomplete layers are served from; absent where that is impossible. */
  fuse?: { server: Pick<FuseFileServer, 'add' | 'remove'>, dir: string }
  /** Told when what is known of a layer's sources has changed. */
  onLearnt: () => void
}

// Each takes a core to decompress; one more keeps the line busy.
const buildsAtOnce = availableParallelism() + 1
const progressEveryMs = 100

/** All layers of this host: makes them ready, serves the incomplete ones, completes them when nothing else is to be done. */
export class LayerService {
  readonly #options: LayerServiceOptions
  readonly #layers = new Map<string, ServedLayer>()
  /** One change of a layer at a time. */
  readonly #locks = new Map<string, Mutex>()
  readonly #making = new SingleFlight<void>()
  readonly #builds = new Semaphore(buildsAtOnce)
  readonly #building = new Map<string, AbortController>()
  readonly #filling: LayerFilling
  readonly #boots: BootProfiles

  constructor (options: LayerServiceOptions) {
    this.#options = options
    this.#filling = new LayerFilling({ delayMs: options.fillDelayMs, logger: options.logger, next: () => this.#lazyLayers()[0] })
    this.#boots = new BootProfiles({ indexes: options.indexes, logger: options.logger })
  }

  /** Finds the layers that are here, and serves them all: a mount of another server's time may need any of them. */
  async open (): Promise<void> {
    const { directory, logger } = this.#options
    await directory.open()
    for (const digest of await directory.list()) {
      try {
        await this.#reopen(digest)
      } catch (error) {
        logger.error({ err: error, layerDigest: digest }, 'a layer cannot be used and is removed')
        await directory.remove(digest)
      }
    }
    if (this.#lazyLayers().length > 0) this.#filling.schedule()
  }

  /** @throws BerthError as buildLayer and the layer's sources have it. */
  async prepare (request: PrepareRequest, onProgress: (progress: LayerProgress) => void): Promise<PreparedLayer> {
    const { layer, mode } = request
    const served = this.#layers.get(layer.digest) ?? new ServedLayer(layer)
    this.#layers.set(layer.digest, served)
    served.learn(request.sources, request.credentials)
    const stop = served.watch(throttled(onProgress))
    try {
      // Who comes while it is being made has part in it, in its failure too.
      await this.#making.run(layer.digest, undefined, () => this.#lock(layer.digest).runExclusive(() => this.#make(served, mode === 'lazy')))
      if (mode === 'eager' && served.lazy) await this.#filling.complete(served, () => served.tell())
      onProgress(served.progress())
      return this.#prepared(served)
    } catch (error) {
      if (!served.lazy && !served.isComplete && this.#layers.get(layer.digest) === served) this.#layers.delete(layer.digest)
      throw error
    } finally {
      stop()
    }
  }

  layers (): LayerProgress[] {
    return [...this.#layers.values()].map(layer => layer.progress())
  }

  /** Removes layers; whatever is being done for them is ended. */
  async forget (digests: readonly string[]): Promise<void> {
    for (const digest of digests) {
      const served = this.#layers.get(digest)
      // Who waits for the lock to build it finds that it is nobody's any more.
      this.#layers.delete(digest)
      this.#building.get(digest)?.abort(removed())
      this.#filling.abandon(digest)
      await this.#lock(digest).runExclusive(async () => {
        this.#options.fuse?.server.remove(hexOf(digest))
        await served?.lazy?.close()
        await this.#options.directory.remove(digest)
      })
      this.#locks.delete(digest)
    }
  }

  /** A sandbox is about to start: what its like have read is fetched ahead, or what it reads is recorded; what is not needed by it waits. */
  boot (request: BootRequest): void {
    const lazy = request.digests.flatMap(digest => this.#layers.get(digest) ?? []).filter(layer => layer.lazy && !layer.isComplete)
    if (lazy.length === 0) return
    this.#filling.schedule()
    this.#boots.begin(request.imageDigest, lazy)
  }

  /** Fetches what a read of the FUSE mount misses. */
  async fetchMissing (name: string, startByte: number, endByte: number): Promise<void> {
    const lazy = this.#layers.get(`sha256:${name}`)?.lazy
    if (!lazy) throw new BerthError('not_found', 'layer_not_found', 'no such layer is served')
    // A granule is there when every span that it touches is.
    await lazy.ensure(Math.floor(startByte / granuleBytes) * granuleBytes, Math.ceil(endByte / granuleBytes) * granuleBytes)
  }

  /** What must be known of layers when this process is followed by another. */
  credentials (): Record<string, ServedLayer['credentials']> {
    return Object.fromEntries([...this.#layers].flatMap(([digest, { credentials }]) => credentials ? [[digest, credentials]] : []))
  }

  restoreCredentials (credentials: Record<string, ServedLayer['credentials']>): void {
    for (const [digest, value] of Object.entries(credentials)) {
      const layer = this.#layers.get(digest)
      if (layer) layer.credentials = value
    }
  }

  /** Stops filling, and saves how far lazy layers are. */
  async close (): Promise<void> {
    this.#filling.close()
    this.#boots.close()
    await Promise.all([...this.#layers.values()].map(async layer => layer.lazy?.close()))
  }

  async #reopen (digest: string): Promise<void> {
    const { directory } = this.#options
    const found = await directory.find(digest)
    if (!found) return await directory.remove(digest)
    const { mediaType, diffId, blobBytes, tarBytes } = found.facts
    const served = new ServedLayer({ digest, mediaType, diffId, sizeBytes: blobBytes })
    served.tarBytes = tarBytes
    const sources = await readJson(this.#sourcesPath(digest)) as ServedLayer['sources'] | undefined
    if (Array.isArray(sources)) served.sources = sources
    if (found.isComplete) served.isComplete = true
    else await this.#openLazy(served)
    this.#layers.set(digest, served)
    this.#serve(served)
  }

  /** Under the layer's lock: brings it at least so far that it can be mounted. */
  async #make (served: ServedLayer, mayBeLazy: boolean): Promise<void> {
    if (served.isComplete) return
    if (served.lazy) return await this.#rememberSources(served)
    if (mayBeLazy && await this.#attach(served)) return
    await this.#build(served)
  }

  /** Makes the layer lazy by an index that was made before, here or by another host. Answers false where there is none that can be used. */
  async #attach (served: ServedLayer): Promise<boolean> {
    const { directory, fuse, indexes, logger } = this.#options
    const { descriptor: layer, sources, credentials } = served
    const found = fuse && await indexes.find(layer, { sources, credentials })
    if (!found) return false
    try {
      const table = await attachIndex({ layer, index: { ...found, meta: await readFile(found.metaPath), kept: found }, directory })
      await this.#openLazy(served, table)
    } catch (error) {
      logger.warn({ err: error, layerDigest: layer.digest }, 'the index of a layer cannot be used; the layer is fetched whole')
      return false
    }
    await this.#rememberSources(served)
    this.#serve(served)
    return true
  }

  async #build (served: ServedLayer): Promise<void> {
    const { directory, indexes, events } = this.#options
    const layer = served.descriptor
    if (this.#layers.get(layer.digest) !== served) throw removed()
    const ending = new AbortController()
    this.#building.set(layer.digest, ending)
    let facts: LayerFacts
    try {
      facts = await this.#builds.runExclusive(() => this.#buildFrom(served, { signal: ending.signal, skipMirrors: false }).catch((error: unknown) => {
        // A mirror may have anything; what the registry itself says is final.
        if (!(error instanceof BerthError) || error.code !== 'image_invalid' || !this.#options.sources.hasMirrors(served.sources)) throw error
        return this.#buildFrom(served, { signal: ending.signal, skipMirrors: true })
      }))
    } finally {
      served.streamedBytes = undefined
      this.#building.delete(layer.digest)
    }
    served.tarBytes = facts.tarBytes
    served.isComplete = true
    events.append('completed', layer.digest)
    this.#serve(served)
    if (facts.hasSpans) await indexes.add(layer, directory.files(layer.digest), served)
  }

  async #buildFrom (served: ServedLayer, options: { signal: AbortSignal, skipMirrors: boolean }): Promise<LayerFacts> {
    const { directory, sources } = this.#options
    const layer = served.descriptor
    options.signal.throwIfAborted()
    served.streamedBytes = 0
    const reader = sources.reader(layer, served.sources, served.credentials)
    return await buildLayer({
      layer,
      directory,
      openBlob: offset => reader.stream(offset, options),
      onProgress: ({ fetchedBytes }) => {
        served.streamedBytes = fetchedBytes
        served.tell()
      },
      signal: options.signal,
    })
  }

  async #openLazy (served: ServedLayer, table?: SpanTable): Promise<void> {
    const { directory, sources, events, readTimeoutMs } = this.#options
    const { digest } = served.descriptor
    served.lazy = await LazyLayer.open({
      directory,
      digest,
      ...(table ? { table } : {}),
      readTimeoutMs,
      fetchRange: (start, end, { signal, isSecondTry }) => {
        return sources.reader(served.descriptor, served.sources, served.credentials).range(start, end, { signal, skipMirrors: isSecondTry })
      },
      onEvent: ({ type, message }) => {
        if (type === 'completed') served.isComplete = true
        if (type === 'damaged') this.#layers.delete(digest)
        events.append(type, digest, message)
        served.tell()
      },
    })
    served.tarBytes = served.lazy.table.tarBytes
  }

  #serve (served: ServedLayer): void {
    const { fuse, directory } = this.#options
    fuse?.server.add(served.fuseFile(directory.files(served.descriptor.digest).tarPath))
  }

  #prepared (served: ServedLayer): PreparedLayer {
    const { directory, fuse } = this.#options
    const { digest } = served.descriptor
    const { metaPath, tarPath } = directory.files(digest)
    if (served.isComplete || !fuse) return { digest, metaPath, devicePath: tarPath, isLocal: true }
    return { digest, metaPath, devicePath: join(fuse.dir, hexOf(digest)), isLocal: false }
  }

  /** A server that follows this one must know where to go on. */
  async #rememberSources (served: ServedLayer): Promise<void> {
    await writeDurably(this.#sourcesPath(served.descriptor.digest), JSON.stringify(served.sources))
    this.#options.onLearnt()
  }

  #sourcesPath (digest: string): string {
    return join(this.#options.directory.files(digest).dir, 'sources.json')
  }

  #lazyLayers (): ServedLayer[] {
    return [...this.#layers.values()].filter(layer => layer.lazy && !layer.isComplete)
  }

  #lock (digest: string): Mutex {
    const lock = this.#locks.get(digest) ?? new Mutex()
    this.#locks.set(digest, lock)
    return lock
  }
}

function removed (): BerthError {
  return new BerthError('conflict', 'image_removed', 'the image was removed while it was being pulled; pull it again')
}

/** Passes on at most ten calls a second. */
function throttled (listener: (progress: LayerProgress) => void): (progress: LayerProgress) => void {
  let lastMs = 0
  return progress => {
    const nowMs = performance.now()
    if (nowMs - lastMs < progressEveryMs) return
    lastMs = nowMs
    listener(progress)
  }
}
