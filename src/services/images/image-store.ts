import { randomUUID } from 'node:crypto'
import { renameSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../../errors.ts'
import { measureDirectory, syncFileSystem } from '../../host/umoci.ts'
import { syncPath, writeDurably } from '../../lib/durable-file.ts'
import { hexOf } from './digest.ts'
import { isObject, type ImageConfig } from './image-config.ts'
import type { SourcedLayer } from './layers/image-layer.ts'

/** Kinds of image, each in a directory of this name. */
const storedKinds = ['base', 'unpacked', 'layered'] as const
export type StoredKind = typeof storedKinds[number]

/** What an image is made of: a directory of its own, or layers that it shares with others. */
export type ImageContent =
  | { kind: 'base' | 'unpacked', layers?: undefined }
  | {
    kind: 'layered'
    /** The bottom one first. */
    layers: SourcedLayer[]
  }

/** An image in the store. */
export type StoredImage = ImageContent & {
  digest: string
  /** Host path of the root file system; of a layered image nothing is there. */
  rootfs: string
  config: ImageConfig
  /** Disk space of what is in the image's own directory. */
  sizeBytes: number
  createdAt: string
  lastUsedAt: string
}

type ImageFile = ImageContent & {
  digest: string
  config: ImageConfig
  sizeBytes: number
  createdAt: string
}

/**
 * Images on disk:
 *
 *     <dir>/<kind>/<hex of digest>/{rootfs/, image.json}   whole; its mtime is when it was last used; a layered one has no rootfs
 *     <dir>/tmp/<uuid>/                                    being made or being deleted; no one's after a crash
 *
 * An image appears in and leaves its place by rename, so it is there as a whole or not at all.
 */
export class ImageStore {
  readonly #dir: string
  readonly #temp: string

  constructor (options: { dir: string }) {
    this.#dir = options.dir
    this.#temp = join(options.dir, 'tmp')
  }

  /** Removes what a crash left half made or half deleted. Nothing may be going on in the store. */
  async clear (): Promise<void> {
    await rm(this.#temp, { recursive: true, force: true })
  }

  /** The image if it is there; counts as a use of it. */
  async find (kind: StoredKind, digest: string): Promise<StoredImage | undefined> {
    const dir = this.#place(kind, digest)
    const image = await this.#read(kind, dir)
    if (!image) return undefined
    const now = new Date()
    await utimes(dir, now, now)
    return { ...image, lastUsedAt: now.toISOString() }
  }

  /**
   * Adds an image; one that is there is replaced. `build` makes `<dir>/rootfs` in the directory it is given; a layered image has none.
   * On disk when this returns.
   *
   * @throws BerthError exhausted `disk_full`; what `build` throws.
   */
  async add (digest: string, content: ImageContent, config: ImageConfig, build?: (dir: string) => Promise<void>): Promise<StoredImage> {
    const { kind } = content
    const building = join(this.#temp, randomUUID())
    await mkdir(building, { recursive: true, mode: 0o700 })
    try {
      await build?.(building)
      const sizeBytes = build ? await measureDirectory(building) : 0
      const file: ImageFile = { ...content, digest, config, sizeBytes, createdAt: new Date().toISOString() }
      await writeDurably(join(building, 'image.json'), JSON.stringify(file))
      // Before the rename, or a power cut could leave an image in its place without its content.
      if (build) await syncFileSystem(building)
      await mkdir(join(this.#dir, kind), { recursive: true, mode: 0o700 })
      await this.#displace(this.#place(kind, digest))
      await rename(building, this.#place(kind, digest))
      await syncPath(join(this.#dir, kind))
    } catch (error) {
      await rm(building, { recursive: true, force: true })
      const code = (error as NodeJS.ErrnoException).code
      if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
      throw new BerthError('exhausted', 'disk_full', 'the host has no disk space left to unpack the image; free some or use a smaller image', { cause: error })
    }
    const image = await this.#read(kind, this.#place(kind, digest))
    if (!image) throw new Error(`image ${digest} is not in the store after it was added`)
    return image
  }

  /** All images, the longest unused first. */
  async list (): Promise<StoredImage[]> {
    const images: StoredImage[] = []
    for (const kind of storedKinds) {
      for (const name of await namesIn(join(this.#dir, kind))) {
        const image = await this.#read(kind, join(this.#dir, kind, name))
        if (image) images.push(image)
      }
    }
    return images.sort((a, b) => a.lastUsedAt.localeCompare(b.lastUsedAt))
  }

  /**
   * Removes an image unless `isHeld` says that someone needs it. The question and the rename happen in one turn of
   * the event loop: nobody can begin to hold it in between.
   */
  async remove (image: StoredImage, isHeld: () => boolean): Promise<boolean> {
    await mkdir(this.#temp, { recursive: true, mode: 0o700 })
    const removing = join(this.#temp, randomUUID())
    if (isHeld()) return false
    try {
      renameSync(this.#place(image.kind, image.digest), removing)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
    await rm(removing, { recursive: true, force: true })
    return true
  }

  /** Moves away what is in an image's place but cannot be read as one; the next start deletes it. */
  async #displace (place: string): Promise<void> {
    try {
      await rename(place, join(this.#temp, randomUUID()))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }

  #place (kind: StoredKind, digest: string): string {
    // Without the colon of "sha256:": overlay's option syntax has a use for it.
    return join(this.#dir, kind, hexOf(digest))
  }

  async #read (kind: StoredKind, dir: string): Promise<StoredImage | undefined> {
    try {
      const file = parseImageFile(await readFile(join(dir, 'image.json'), 'utf8'))
      if (file?.kind !== kind) return undefined
      return { ...file, rootfs: join(dir, 'rootfs'), lastUsedAt: (await stat(dir)).mtime.toISOString() }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }
}

function parseImageFile (text: string): ImageFile | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // A damaged image is no image: it is made anew.
  }
  const isWhole = isObject(value) && storedKinds.some(kind => kind === value.kind) && typeof value.digest === 'string' && isObject(value.config) && isObject(value.config.env) &&
    typeof value.sizeBytes === 'number' && typeof value.createdAt === 'string' && (value.kind !== 'layered' || Array.isArray(value.layers))
  return isWhole ? value as unknown as ImageFile : undefined
}

async function namesIn (dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
