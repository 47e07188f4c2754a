import { randomBytes } from 'node:crypto'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { readJson, syncPath } from '../../../lib/durable-file.ts'
import { hexOf } from '../digest.ts'
import type { LayerDescriptor } from './image-layer.ts'
import { decodeSpanTable, maxTableBytes, type SpanTable } from './span-table.ts'

/** What is known of a layer that is here, as `layer.json` has it. */
export interface LayerFacts {
  version: 1
  digest: string
  mediaType: string
  diffId: string
  blobBytes: number
  tarBytes: number
  /** Without spans it could only be made from its whole blob. */
  hasSpans: boolean
  entries: number
  /** Directories without an entry of their own, of which the layer says owner and mode only by default. The first 1,000. */
  implicitDirectories: string[]
}

export interface LayerFiles {
  dir: string
  factsPath: string
  metaPath: string
  spansPath: string
  tarPath: string
  presentPath: string
  completePath: string
}

/** The files of a layer, wherever its directory is. */
export function layerFiles (dir: string): LayerFiles {
  const [factsPath, metaPath, spansPath, tarPath, presentPath, completePath] = ['layer.json', 'meta.erofs', 'spans', 'layer.tar', 'present', 'complete'].map(name => join(dir, name)) as
    [string, string, string, string, string, string]
  return { dir, factsPath, metaPath, spansPath, tarPath, presentPath, completePath }
}

const digestPattern = /^sha256:([0-9a-f]{64})$/
const makingPrefix = '.making-'
const removingPrefix = '.removing-'

/**
 * The layers of this host, one directory each, by the digest of the blob:
 *
 *     <dir>/<hex>/layer.json      what it is; durable before the directory has its name
 *                 meta.erofs      its metadata
 *                 spans           its table of spans, where its blob can be read in parts
 *                 layer.tar       its data; sparse while it is lazy
 *                 present         which spans of a lazy one are here
 *                 complete        made last: all of layer.tar is here and has the diff id
 *     <dir>/.making-<hex>-…       being made;    nobody's after a crash
 *     <dir>/.removing-<hex>-…     being deleted; nobody's after a crash
 */
export class LayerDirectory {
  readonly dir: string

  constructor (options: { dir: string }) {
    this.dir = options.dir
  }

  /** Makes the directory, and clears what a crash has left. Once, before anything else. */
  async open (): Promise<void> {
    await mkdir(this.dir, { recursive: true, mode: 0o700 })
    for (const name of await readdir(this.dir)) {
      if (name.startsWith(makingPrefix) || name.startsWith(removingPrefix)) await rm(join(this.dir, name), { recursive: true, force: true })
    }
  }

  files (digest: string): LayerFiles {
    return layerFiles(join(this.dir, hexOf(digest)))
  }

  /** Digests of the layers that are here, lazy or complete. */
  async list (): Promise<string[]> {
    return (await readdir(this.dir)).map(name => `sha256:${name}`).filter(digest => digestPattern.test(digest))
  }

  /** What is known of a layer, and whether all of it is here; undefined when it is not here. */
  async find (digest: string): Promise<{ facts: LayerFacts, isComplete: boolean } | undefined> {
    const files = this.files(digest)
    const facts = await readJson(files.factsPath) as LayerFacts | undefined
    if (facts?.version !== 1 || facts.digest !== digest) return undefined
    return { facts, isComplete: await exists(files.completePath) }
  }

  /** The table of a layer. Reading it checks it. */
  async readSpans (digest: string): Promise<SpanTable> {
    const { spansPath } = this.files(digest)
    if ((await stat(spansPath)).size > maxTableBytes) throw new Error('the table of spans is too large')
    return decodeSpanTable(await readFile(spansPath))
  }

  /**
   * Makes a layer: `make` fills a directory that gets its name only when everything in it is on disk. What a failure leaves is removed.
   * A layer that is here already is replaced. One that is not durable may be gone, or without its facts, after a loss of power.
   */
  async create (layer: LayerDescriptor, make: (files: LayerFiles) => Promise<void>, options: { isDurable: boolean } = { isDurable: true }): Promise<void> {
    const dir = join(this.dir, `${makingPrefix}${hexOf(layer.digest)}-${randomBytes(4).toString('hex')}`)
    await mkdir(dir, { mode: 0o700 })
    try {
      await make(layerFiles(dir))
      if (options.isDurable) {
        for (const name of await readdir(dir)) await syncPath(join(dir, name))
        await syncPath(dir)
      }
      await this.remove(layer.digest)
      await rename(dir, this.files(layer.digest).dir)
      if (options.isDurable) await syncPath(this.dir)
    } catch (error) {
      await rm(dir, { recursive: true, force: true })
      throw error
    }
  }

  /** Everything of a layer goes. Nobody may have it mounted. One that is not here is fine. */
  async remove (digest: string): Promise<void> {
    const doomed = join(this.dir, `${removingPrefix}${hexOf(digest)}-${randomBytes(4).toString('hex')}`)
    try {
      await rename(this.files(digest).dir, doomed)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw error
    }
    await rm(doomed, { recursive: true, force: true })
  }
}

export async function exists (path: string): Promise<boolean> {
  return stat(path).then(() => true, (error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return false
    throw error
  })
}
