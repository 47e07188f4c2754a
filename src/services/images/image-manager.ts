import { join } from 'node:path'
import type { Logger } from 'pino'
import { BaseImage, baseImageConfig } from './base-image.ts'
import { locateDirImage } from './dir-image.ts'
import type { ImageConfig } from './image-config.ts'
import { parseImageReference, type ImageReference } from './image-reference.ts'
import { ImageStore, type StoredImage, type StoredKind } from './image-store.ts'
import { resolveImageUser, type ResolvedUser } from './image-user.ts'
import { LeaseStore } from './lease-store.ts'
import { isOverlayPath, resolveClientDirectory, type PathRules } from './local-path.ts'
import { unpackOciImage } from './oci-image.ts'
import { OciLayout } from './oci-layout.ts'
import { SingleFlight } from './single-flight.ts'

export interface ImageManagerOptions {
  /** Where images and leases are kept; the daemon's alone. */
  imagesDir: string
  /** The host's static busybox, from which berth/base is made. */
  busyboxPath: string
  logger: Logger
  /** Host directories below which `dir:` and `oci:` may point. Default: anywhere. */
  dirRoots?: readonly string[]
  /** Directories of Berth's own that no image may hold or lie in; imagesDir is always one. */
  privateDirs?: readonly string[]
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

/** An image on this host's disk. */
export interface LocalImage extends StoredImage {
  /** Ids of the leases that keep it from eviction. */
  leaseIds: string[]
}

/** What a reference stands for at this moment, before anything is unpacked. */
type ResolvedSource =
  | { inPlace: { dir: string, config: ImageConfig } }
  | { stored: { kind: StoredKind, digest: string, config: ImageConfig, build: (dir: string) => Promise<void> } }

/**
 * Root file systems for sandboxes: resolves a reference, unpacks an image once, and keeps it while a lease holds it.
 *
 * Everything on disk is crash-only: an image is in its place as a whole or not at all, a lease is a file, and `adopt`
 * clears what a killed daemon left. Call `adopt` before anything else.
 */
export class ImageManager {
  readonly #store: ImageStore
  readonly #leases: LeaseStore
  readonly #base: BaseImage
  readonly #rules: PathRules
  readonly #logger: Logger
  readonly #preparing = new SingleFlight<StoredImage>()
  /** How many calls need an image, by digest, from before they look for it until their lease is written. */
  readonly #pins = new Map<string, number>()

  constructor (options: ImageManagerOptions) {
    if (!isOverlayPath(options.imagesDir)) throw new TypeError('the path of the images directory must not hold ":", "," or "\\": overlay mounts cannot take it')
    this.#store = new ImageStore({ dir: options.imagesDir })
    this.#leases = new LeaseStore({ dir: join(options.imagesDir, 'leases') })
    this.#base = new BaseImage({ busyboxPath: options.busyboxPath })
    this.#rules = { roots: options.dirRoots ?? ['/'], privateDirs: [options.imagesDir, ...options.privateDirs ?? []] }
    this.#logger = options.logger
  }

  /** Takes over from a daemon that is gone: drops leases whose holder is not in the set, clears half-done work. */
  async adopt (leaseIds: ReadonlySet<string>): Promise<void> {
    await this.#store.clear()
    const dropped = await this.#leases.load(leaseIds)
    if (dropped.length > 0) this.#logger.info({ leaseIds: dropped }, 'dropped image leases without holder')
  }

  /**
   * Makes the image's root file system ready to be mounted and leases it to `leaseId` until that is released.
   * The lease is on disk before this returns; when this throws there is none.
   *
   * Concurrent first uses share one preparation: its failure reaches them all, an abort only the one that aborts.
   *
   * @throws BerthError invalid_argument `invalid_image_reference`, `image_source_unsupported`, `image_not_found`,
   * `image_invalid`; permission_denied `image_path_not_allowed`; exhausted `disk_full`. The signal's reason on abort.
   */
  async prepareRootfs (reference: string, leaseId: string, options: { signal?: AbortSignal } = {}): Promise<PreparedImage> {
    const { signal } = options
    const source = await this.#resolve(parseImageReference(reference))
    signal?.throwIfAborted()
    if ('inPlace' in source) {
      await this.#lease(leaseId, null, signal)
      return { reference, lowerDirs: [source.inPlace.dir], config: source.inPlace.config }
    }
    const { kind, digest, config, build } = source.stored
    this.#pin(digest)
    try {
      const image = await this.#store.find(kind, digest) ?? await this.#preparing.run(`${kind} ${digest}`, signal, () => this.#add(kind, digest, config, build))
      await this.#lease(leaseId, digest, signal)
      return { reference, digest, lowerDirs: [image.rootfs], config: structuredClone(image.config) }
    } finally {
      this.#unpin(digest)
    }
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
    return resolveImageUser(prepared.lowerDirs, user)
  }

  /** Images unpacked on this host, the longest unused first. */
  async list (): Promise<LocalImage[]> {
    const images = await this.#store.list()
    return images.map(image => ({ ...image, leaseIds: this.#leases.holdersOf(image.digest) }))
  }

  /** Removes images that no lease holds, the longest unused first, until at most `keepBytes` (default 0) are left. */
  async evict (options: { keepBytes?: number } = {}): Promise<{ digests: string[], freedBytes: number }> {
    const images = await this.#store.list()
    const digests: string[] = []
    let freedBytes = 0
    let leftBytes = images.reduce((sum, image) => sum + image.sizeBytes, 0)
    for (const image of images) {
      if (leftBytes <= (options.keepBytes ?? 0)) break
      if (!await this.#store.remove(image, () => this.#isHeld(image.digest))) continue
      digests.push(image.digest)
      freedBytes += image.sizeBytes
      leftBytes -= image.sizeBytes
    }
    if (digests.length > 0) this.#logger.info({ digests, freedBytes }, 'evicted images')
    return { digests, freedBytes }
  }

  /** Resolves when no preparation is going on, also none whose callers have all gone. */
  async settled (): Promise<void> {
    await this.#preparing.settled()
  }

  async #resolve (reference: ImageReference): Promise<ResolvedSource> {
    switch (reference.kind) {
      case 'base': {
        const digest = await this.#base.digest()
        return { stored: { kind: 'base', digest, config: baseImageConfig, build: dir => this.#base.build(dir) } }
      }
      case 'dir':
        return { inPlace: { dir: await locateDirImage(reference.path, this.#rules), config: { env: {} } } }
      case 'oci': {
        const layout = new OciLayout({ dir: await resolveClientDirectory(reference.path, this.#rules), name: reference.path })
        const image = await layout.resolve(reference.tag)
        return { stored: { kind: 'oci', digest: image.digest, config: image.config, build: dir => unpackOciImage(layout, image, dir) } }
      }
    }
  }

  async #add (kind: StoredKind, digest: string, config: ImageConfig, build: (dir: string) => Promise<void>): Promise<StoredImage> {
    // A preparation may have ended between the caller's look and this run.
    const present = await this.#store.find(kind, digest)
    if (present) return present
    const startedAt = performance.now()
    const image = await this.#store.add(kind, digest, config, build)
    this.#logger.info({ kind, digest, sizeBytes: image.sizeBytes, durationMs: Math.round(performance.now() - startedAt) }, 'unpacked an image')
    return image
  }

  async #lease (leaseId: string, held: string | null, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    await this.#leases.acquire(leaseId, held)
    if (!signal?.aborted) return
    // The caller has gone meanwhile and will not release it.
    await this.#leases.release(leaseId)
    throw signal.reason
  }

  #isHeld (digest: string): boolean {
    return this.#pins.has(digest) || this.#leases.holds(digest)
  }

  #pin (digest: string): void {
    this.#pins.set(digest, (this.#pins.get(digest) ?? 0) + 1)
  }

  #unpin (digest: string): void {
    const count = (this.#pins.get(digest) ?? 1) - 1
    if (count > 0) this.#pins.set(digest, count)
    else this.#pins.delete(digest)
  }
}
