import { mkdir, readdir, rmdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { mountLayer } from '../../host/erofs.ts'
import { mountPoints, unmount } from '../../host/mount.ts'
import { hexOf } from './digest.ts'
import type { PreparedLayer } from './server/control-protocol.ts'
import { SingleFlight } from './single-flight.ts'

/**
 * Mounted layers, one mount each for all sandboxes of this host:
 *
 *     <dir>/<hex>          a complete layer, on plain files
 *     <dir>/<hex>.<n>      an incomplete one, on a file that image server generation n serves
 *
 * An overlay keeps a layer that it stacks, whatever happens to the mount point. A directory here is a mount point or about to be one:
 * an empty directory must never be taken for a layer.
 */
export class LayerMounts {
  readonly #dir: string
  readonly #mounted = new Set<string>()
  readonly #mounting = new SingleFlight<void>()

  constructor (options: { dir: string }) {
    this.#dir = options.dir
  }

  /** Finds what is mounted, and removes what never came to be. */
  async adopt (): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 })
    const points = await mountPoints()
    for (const name of await readdir(this.#dir)) {
      if (points.has(join(this.#dir, name))) this.#mounted.add(name)
      else await rmdir(join(this.#dir, name))
    }
  }

  /** The mount point of a layer, mounted when this returns. */
  async mount (layer: PreparedLayer & { generation: number }): Promise<string> {
    const name = hexOf(layer.digest) + (layer.isLocal ? '' : `.${layer.generation}`)
    const target = join(this.#dir, name)
    if (this.#mounted.has(name)) return target
    await this.#mounting.run(name, undefined, async () => {
      await mkdir(target, { recursive: true, mode: 0o700 })
      try {
        await mountLayer({ metaPath: layer.metaPath, devicePath: layer.devicePath, target })
      } catch (error) {
        await rmdir(target).catch(() => {})
        throw error
      }
      this.#mounted.add(name)
    })
    return target
  }

  /** Gives back every mount of this layer. */
  async unmount (digest: string): Promise<void> {
    await this.#unmountAll(name => name.split('.')[0] === hexOf(digest))
  }

  /** Whether this is where a layer is or was mounted through a generation of the image server. */
  isOfGeneration (path: string, generation: number): boolean {
    return dirname(path) === this.#dir && path.endsWith(`.${generation}`)
  }

  /** Gives back what was mounted through a generation of the image server. */
  async unmountGeneration (generation: number): Promise<void> {
    await this.#unmountAll(name => name.endsWith(`.${generation}`))
  }

  async unmountEverything (): Promise<void> {
    await this.#unmountAll(() => true)
  }

  async #unmountAll (matches: (name: string) => boolean): Promise<void> {
    for (const name of [...this.#mounted].filter(matches)) {
      await unmount(join(this.#dir, name))
      await rmdir(join(this.#dir, name)).catch(() => {})
      this.#mounted.delete(name)
    }
  }
}
