import { join } from 'node:path'
import { Semaphore } from 'async-mutex'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { Image, ImageDetail, PullProgress } from '../../schemas/image.ts'
import { ImageCollector } from './image-collector.ts'
import type { ImageConfig } from './image-config.ts'
import { ImagePins } from './image-pins.ts'
import { nameOfReference, parseImageReference, type ImageReference } from './image-reference.ts'
import { ImageResolver, type ImageToStore } from './image-resolver.ts'
import { ImageStore, type StoredImage } from './image-store.ts'
import { resolveImageUser, type ResolvedUser } from './image-user.ts'
import { describeImage, detailImage } from './image-view.ts'
import { pullProgress, type LayeredImages, type PrepareOptions } from './layered-images.ts'
import type { LayerProgress, PullMode, RegistryCredentials } from './layers/image-layer.ts'
import { isLayerNeedsUnpack } from './layers/layer-needs-unpack-error.ts'
import { LeaseStore } from './lease-store.ts'
import { isOverlayPath } from './local-path.ts'
import type { ServerEvent } from './server/control-protocol.ts'
import { ReferenceTable } from './reference-table.ts'
import { formatRegistryReference } from './registry/registry-reference.ts'
import { defaultRegistrySettings, type RegistrySettings } from './registry/registry-settings.ts'
import { SingleFlight } from './single-flight.ts'

export interface ImageManagerOptions {
  /** Where images and leases are kept; the daemon's alone. */
  imagesDir: string
  /** The host's static busybox, from which berth/base is made. */
  busyboxPath: string
  logger: Logger
  /** Host directories below which `dir:`, `oci:` and archives may point. Default: anywhere. */
  dirRoots?: readonly string[]
  /** Directories of Berth's own that no image may hold or lie in; imagesDir is always one. */
  privateDirs?: readonly string[]
  registry?: RegistrySettings
  /** Where layers are made ready and mounted. Absent: images are unpacked. */
  layers?: LayeredImages
  /** Images that no lease holds are removed, the longest unused first, while all take more than this. Default: no limit. */
  diskBytes?: number
  /** Images that nobody has used for this long, in milliseconds, are removed. Default: never. */
  maxUnusedMs?: number
  /** Told of what happens to images. */
  onEvent?: (type: ImageEventType, data: Record<string, unknown>) => void
}

// A quarter of the threads that a daemon has (bin/berth).
const maxLookups = 4

type ImageEventType = 'image.pulled' | 'image.removed' | 'image.stalled' | 'image.recovered' | 'image.damaged'

/** When the place that an image comes from is asked: `missing`: when it is not on this host; `always`; `never`. */
export type PullPolicy = 'missing' | 'always' | 'never'

export interface PrepareRootfsOptions {
  signal?: AbortSignal
  pull?: PullPolicy
  credentials?: RegistryCredentials
}

export interface PullImageOptions {
  mode?: PullMode
  credentials?: RegistryCredentials
  signal?: AbortSignal
  onProgress?: (progress: PullProgress) => void
}

interface HoldOptions {
  reference: string
  credentials?: RegistryCredentials | undefined
  signal?: AbortSignal | undefined
}

/** An image's root file system, ready to be stacked below a sandbox's own layer. */
export interface PreparedImage {
  reference: string
  /** Digest of the image's manifest; absent for a directory, whose content may change. */
  digest?: string
  /** Host paths, the top one first; none holds a character that overlay's option syntax uses. */
  lowerDirs: string[]
  config: ImageConfig
}

/**
 * Root file systems for sandboxes: finds out what a reference stands for, brings it here once, and keeps it while a lease holds it.
 *
 * Everything on disk is crash-only: an image is in its place as a whole or not at all, a lease is a file, and `adopt`
 * clears what a killed daemon left. Call `adopt` before anything else.
 */
export class ImageManager {
  readonly #options: ImageManagerOptions
  readonly #store: ImageStore
  readonly #leases: LeaseStore
  readonly #references: ReferenceTable
  readonly #resolver: ImageResolver
  readonly #layers: LayeredImages | undefined
  readonly #collector: ImageCollector
  readonly #logger: Logger
  /** Each may hold a thread for as long as a registry is waited for. */
  readonly #lookups = new Semaphore(maxLookups)
  readonly #preparing = new SingleFlight<StoredImage>()
  /** Calls that need an image, from before they look for it until their lease is written. */
  readonly #pins = new ImagePins()

  constructor (options: ImageManagerOptions) {
    const { imagesDir, busyboxPath, logger, layers } = options
    if (!isOverlayPath(imagesDir)) throw new TypeError('the path of the images directory must not hold ":", "," or "\\": overlay mounts cannot take it')
    this.#options = options
    this.#store = new ImageStore({ dir: imagesDir })
    this.#leases = new LeaseStore({ dir: join(imagesDir, 'leases') })
    this.#references = new ReferenceTable({ path: join(imagesDir, 'references.json') })
    this.#resolver = new ImageResolver({
      busyboxPath,
      rules: { roots: options.dirRoots ?? ['/'], privateDirs: [imagesDir, ...options.privateDirs ?? []] },
      registry: options.registry ?? defaultRegistrySettings,
      tempDir: join(imagesDir, 'tmp'),
      logger,
    })
    this.#layers = layers
    this.#logger = logger
    this.#collector = new ImageCollector({
      store: this.#store,
      leases: this.#leases,
      references: this.#references,
      layers,
      isPinned: digest => this.#pins.count(digest) > 0,
      onRemoved: digest => options.onEvent?.('image.removed', { digest }),
      logger,
    })
  }

  /** Takes over from a daemon that is gone: drops leases whose holder is not in the set, clears half-done work, finds the image server. */
  async adopt (leaseIds: ReadonlySet<string>): Promise<void> {
    await this.#store.clear()
    const dropped = await this.#leases.load(leaseIds)
    if (dropped.length > 0) this.#logger.info({ leaseIds: dropped }, 'dropped image leases without holder')
    await this.#references.load()
    await this.#layers?.adopt()
    // The next start of a sandbox need not wait for it.
    if ((await this.#store.list()).some(image => image.kind === 'layered')) this.#layers?.warm()
  }

  /**
   * Makes the image's root file system ready to be mounted and leases it to `leaseId` until that is released.
   * The lease is on disk before this returns; when this throws there is none.
   *
   * Concurrent first uses share one preparation: its failure reaches them all, an abort only the one that aborts.
   *
   * @throws BerthError invalid_argument `invalid_image_reference`, `image_source_unsupported`, `image_not_found`,
   * `image_invalid`; permission_denied `image_path_not_allowed`, `image_auth_required`; unavailable `registry_unavailable`;
   * exhausted `disk_full`. The signal's reason on abort.
   */
  async prepareRootfs (reference: string, leaseId: string, options: PrepareRootfsOptions = {}): Promise<PreparedImage> {
    const { signal, credentials, pull = 'missing' } = options
    const parsed = parseImageReference(reference)
    const known = await this.#prepareKnown(parsed, leaseId, { reference, pull, credentials, signal })
    if (known) return known
    // While the registry is asked.
    if (parsed.kind === 'registry') this.#layers?.warm()
    const source = await this.#resolver.resolve(parsed, { credentials, signal })
    signal?.throwIfAborted()
    if ('inPlace' in source) {
      await this.#lease(leaseId, null, signal)
      return { reference, lowerDirs: [source.inPlace.dir], config: source.inPlace.config }
    }
    const { digest } = source.stored
    const prepared = await this.#pins.hold(digest, async () => {
      const held = await this.#hold(source.stored, leaseId, { reference, credentials, signal })
      await this.#references.set(nameOfReference(parsed, reference), digest)
      return held
    })
    this.#sweepSoon()
    return prepared
  }

  /**
   * Mount points of a leased layered image, mounted when this returns: they do not outlive a restart of the host.
   * undefined for every other image, whose directories are always there.
   */
  async mountRootfs (digest: string, options: { signal?: AbortSignal } = {}): Promise<string[] | undefined> {
    const image = await this.#findAny(digest)
    if (image?.kind !== 'layered') return undefined
    const dirs = await this.#lowerDirs(image, { mode: 'lazy', signal: options.signal })
    // What a start reads is fetched ahead from here on, when nobody has to wait for something else of the image.
    await this.#layers?.boot(image)
    return dirs
  }

  /** Gives a lease back; fine when there is none. */
  async release (leaseId: string): Promise<void> {
    await this.#leases.release(leaseId)
  }

  /**
   * A user of a prepared image as numbers; names are looked up in the image, whose content is not trusted.
   *
   * @throws BerthError invalid_argument `user_not_found`, `group_not_found`, `image_invalid`.
   */
  async resolveUser (prepared: Pick<PreparedImage, 'lowerDirs'>, user: string): Promise<ResolvedUser> {
    return await this.#lookups.runExclusive(() => resolveImageUser(prepared.lowerDirs, user))
  }

  /**
   * Brings an image onto this host: asks its source what the reference stands for, and makes that usable (`lazy`) or complete (`eager`).
   * An abort ends this wait alone.
   *
   * @throws BerthError as prepareRootfs; invalid_argument `image_source_unsupported` for a directory, of which nothing is kept.
   */
  async pull (reference: string, options: PullImageOptions = {}): Promise<Image> {
    const { mode = 'lazy', credentials, signal, onProgress } = options
    const startedAt = performance.now()
    const parsed = parseImageReference(reference)
    onProgress?.({ phase: 'resolving', reference, layers: [], fetchedBytes: 0, sizeBytes: 0 })
    const source = await this.#resolver.resolve(parsed, { credentials, signal })
    if ('inPlace' in source) throw new BerthError('invalid_argument', 'image_source_unsupported', `${reference} is used where it lies; there is nothing to pull`)
    const { digest } = source.stored
    let last: LayerProgress[] = []
    const report = onProgress && ((layers: LayerProgress[]) => {
      last = layers
      onProgress(pullProgress(reference, digest, layers))
    })
    await this.#pins.hold(digest, async () => {
      await this.#bring(source.stored, signal, async image => {
        if (image.kind === 'layered') await this.#needLayers().mount(image, { mode, credentials, signal, onProgress: report })
      })
      await this.#references.set(nameOfReference(parsed, reference), digest)
    })
    this.#sweepSoon()
    this.#options.onEvent?.('image.pulled', { digest, reference })
    this.#logger.info({ reference, digest, mode, durationMs: Math.round(performance.now() - startedAt) }, 'pulled an image')
    const pulled = await this.get(digest)
    onProgress?.({ ...pullProgress(reference, digest, last), phase: 'done' })
    return pulled
  }

  /** Images on this host, the longest unused first. */
  async list (): Promise<Image[]> {
    const images = await this.#store.list()
    const states = await this.#states(images)
    return images.map(image => describeImage(image, this.#facts(image), states))
  }

  /** @throws BerthError not_found `image_not_found`. */
  async get (digest: string): Promise<ImageDetail> {
    const image = await this.#mustFind(digest)
    return detailImage(image, this.#facts(image), await this.#states([image]))
  }

  /** Removes an image. @throws BerthError not_found `image_not_found`; conflict `image_in_use`. */
  async remove (digest: string): Promise<{ freedBytes: number }> {
    return await this.#collector.remove(await this.#mustFind(digest))
  }

  /** Removes images that no lease holds: those last used `unusedForMs` ago, the longest unused first, until at most `keepBytes` (default 0) are left. */
  async prune (options: { keepBytes?: number, unusedForMs?: number } = {}): Promise<{ digests: string[], freedBytes: number }> {
    return await this.#collector.prune(options)
  }

  /** Keeps to the disk budget and the age that are configured, and removes layers that no image needs. */
  async sweep (): Promise<void> {
    const { diskBytes, maxUnusedMs } = this.#options
    await this.#collector.sweep({ diskBytes, maxUnusedMs })
  }

  /** Takes what the image server has to tell: passed on in terms of images, of which several may share a layer. */
  async hear (event: ServerEvent): Promise<void> {
    const { type, digest, message } = event
    this.#logger[type === 'completed' ? 'debug' : 'warn']({ layerDigest: digest, reason: message }, `the image server says of a layer: ${type}`)
    if (type === 'completed') return
    const images = (await this.#store.list()).filter(image => image.kind === 'layered' && image.layers.some(layer => layer.digest === digest))
    for (const image of images) this.#options.onEvent?.(`image.${type}`, { digest: image.digest, layerDigest: digest, ...(message ? { message } : {}) })
  }

  /** Resolves when no preparation is going on, also none whose callers have all gone; lets go of the image server. */
  async close (): Promise<void> {
    await this.settled()
    await this.#layers?.close()
  }

  /** Resolves when no preparation is going on, also none whose callers have all gone. */
  async settled (): Promise<void> {
    await this.#preparing.settled()
  }

  /** Removes every image and ends the image server. No sandbox may be left. */
  async reclaim (): Promise<void> {
    await this.prune()
    await this.#layers?.end()
  }

  /** As prepareRootfs, for a registry's reference that this host knows already. */
  async #prepareKnown (parsed: ImageReference, leaseId: string, options: HoldOptions & { pull: PullPolicy }): Promise<PreparedImage | undefined> {
    if (parsed.kind !== 'registry' || options.pull === 'always') return undefined
    const name = formatRegistryReference(parsed.reference)
    // What a digest names may be an index: then the table knows which of its images is this host's.
    const digest = this.#references.find(name) ?? parsed.reference.digest
    // Before it is looked for: what is found cannot be removed meanwhile.
    const find = async (known: string) => {
      const image = await this.#findAny(known)
      return image && this.#hold(image, leaseId, options)
    }
    const prepared = digest === undefined ? undefined : await this.#pins.hold(digest, () => find(digest))
    if (prepared || options.pull === 'missing') return prepared
    throw new BerthError('invalid_argument', 'image_not_found', `${name} is not on this host, and the request asks not to pull it; pull it first or leave imagePull out`)
  }

  /** Brings a pinned image, mounts what it needs and leases it. */
  async #hold (wanted: ImageToStore | StoredImage, leaseId: string, { reference, credentials, signal }: HoldOptions): Promise<PreparedImage> {
    const { image, result: lowerDirs } = await this.#bring(wanted, signal, found => this.#lowerDirs(found, { mode: 'lazy', credentials, signal }))
    await this.#lease(leaseId, image.digest, signal)
    return { reference, digest: image.digest, lowerDirs, config: structuredClone(image.config) }
  }

  /** Something has come: keeps to the budget without making anybody wait. */
  #sweepSoon (): void {
    if (this.#options.diskBytes === undefined) return
    this.sweep().catch((error: unknown) => this.#logger.error({ err: error }, 'images could not be kept to their budget; it is tried again in a minute'))
  }

  async #findAny (digest: string): Promise<StoredImage | undefined> {
    return await this.#store.find('unpacked', digest) ?? await this.#store.find('layered', digest) ?? await this.#store.find('base', digest)
  }

  async #mustFind (digest: string): Promise<StoredImage> {
    const image = (await this.#store.list()).find(candidate => candidate.digest === digest)
    if (!image) throw new BerthError('not_found', 'image_not_found', 'there is no image with this digest on this host; GET /v1/images lists those there are')
    return image
  }

  /** The image in the store, found there or added, and what `use` makes of it. One whose layers cannot be mounted is unpacked. */
  async #bring<T> (wanted: ImageToStore | StoredImage, signal: AbortSignal | undefined, use: (image: StoredImage) => Promise<T>): Promise<{ image: StoredImage, result: T }> {
    const { digest } = wanted
    const found = 'build' in wanted ? await this.#findAny(digest) ?? await this.#preparing.run(digest, signal, () => this.#add(wanted)) : wanted
    // Where it can be had at this moment may be another place than when it was added.
    const image = found.kind === 'layered' && wanted.layers ? { ...found, layers: wanted.layers } : found
    try {
      return { image, result: await use(image) }
    } catch (error) {
      if (!isLayerNeedsUnpack(error) || !('build' in wanted)) throw await this.#abandon(image, error)
    }
    const unpacked = await this.#preparing.run(digest, signal, () => this.#unpack(wanted))
    // It is held as what it is from here on; nobody has come so far as to use its layers.
    if (await this.#store.remove(image, () => false)) await this.#collector.collectLayers(image)
    return { image: unpacked, result: await use(unpacked) }
  }

  async #add (wanted: ImageToStore): Promise<StoredImage> {
    const { digest, config, layers } = wanted
    // A preparation may have ended between the caller's look and this run.
    const present = await this.#findAny(digest)
    if (present) return present
    if (!layers || !this.#layers) return await this.#unpack(wanted)
    // The image stands in the store before its layers are here: from then on nobody takes them for surplus.
    return await this.#layers.changing.runExclusive(() => this.#store.add(digest, { kind: 'layered', layers }, config))
  }

  async #unpack ({ digest, config, kind, build }: ImageToStore): Promise<StoredImage> {
    const present = await this.#store.find(kind, digest)
    if (present) return present
    const startedAt = performance.now()
    const image = await this.#store.add(digest, { kind }, config, build)
    this.#logger.info({ kind, digest, sizeBytes: image.sizeBytes, durationMs: Math.round(performance.now() - startedAt) }, 'unpacked an image')
    return image
  }

  /** An image that has proved unusable does not stay; what a registry, a disk or a caller that went kept from being fetched goes on where it was. */
  async #abandon (image: StoredImage, error: unknown): Promise<unknown> {
    const isFinal = error instanceof BerthError && (error.kind === 'invalid_argument' || error.kind === 'permission_denied')
    // One pin is that of the caller that failed.
    const isWanted = () => this.#leases.holds(image.digest) || this.#pins.count(image.digest) > 1 || this.#references.of(image.digest).length > 0
    if (isFinal && await this.#store.remove(image, isWanted)) await this.#collector.collectLayers(image)
    return error
  }

  async #lowerDirs (image: StoredImage, options: PrepareOptions): Promise<string[]> {
    if (image.kind !== 'layered') return [image.rootfs]
    return await this.#needLayers().mount(image, options)
  }

  #needLayers (): LayeredImages {
    if (this.#layers) return this.#layers
    throw new BerthError('unavailable', 'image_layers_unusable', 'the image was fetched as layers, which this host cannot mount any more; run: berth doctor')
  }

  async #states (images: readonly StoredImage[]): Promise<Map<string, LayerProgress>> {
    return images.some(image => image.kind === 'layered') && this.#layers ? await this.#layers.states() : new Map()
  }

  #facts (image: StoredImage): { references: string[], leaseIds: string[] } {
    return { references: this.#references.of(image.digest), leaseIds: this.#leases.holdersOf(image.digest) }
  }

  async #lease (leaseId: string, held: string | null, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    await this.#leases.acquire(leaseId, held)
    if (!signal?.aborted) return
    // The caller has gone meanwhile and will not release it.
    await this.#leases.release(leaseId)
    throw signal.reason
  }
}
