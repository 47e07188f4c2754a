import { constants } from 'node:fs'
import { copyFile, link, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { readJson } from '../../../lib/durable-file.ts'
import { hexOf } from '../digest.ts'
import type { BlobSource, LayerDescriptor, RegistryCredentials } from '../layers/image-layer.ts'
import { compressionOf } from '../layers/layer-builder.ts'
import type { LayerFacts } from '../layers/layer-directory.ts'
import { decodeSpanTable, maxTableBytes, type SpanTable } from '../layers/span-table.ts'
import { SingleFlight } from '../single-flight.ts'
import { decodeProfile, encodeProfile, maxProfileBytes, type BootProfile } from './boot-profile.ts'
import type { BundlePart } from './index-bundle.ts'
import { IndexDirectory } from './index-directory.ts'
import type { RemoteIndexes } from './remote-indexes.ts'

/** The index of a layer: what makes it readable before its blob is here. The same files as in a LayerDirectory. */
export interface LayerIndexFiles {
  factsPath: string
  metaPath: string
  spansPath: string
}

/** An index that fits its layer, with what was read of it. */
export interface FoundIndex extends LayerIndexFiles {
  spans: Buffer
  table: SpanTable
  implicitDirectories: string[]
}

/** Where the image comes from, and as whom: a registry may keep its indexes beside it. */
export interface IndexContext {
  sources: readonly BlobSource[]
  credentials?: RegistryCredentials | undefined
  /** Ends the wait of the caller, nothing else. */
  signal?: AbortSignal | undefined
}

export interface LayerIndexesOptions {
  dir: string
  /** What indexes and profiles may take on this host. */
  maxBytes?: number
  /** Shared with other hosts; without it indexes stay on this host. */
  remote?: RemoteIndexes | undefined
  logger: Logger
}

const defaultMaxBytes = 4 * 1024 ** 3
// A table is at most as large as its format allows; the others are far below their bounds for any layer that can be built.
const indexParts: readonly BundlePart[] = [
  { name: 'layer.json', maxBytes: 16 * 1024 ** 2, isCompressed: false },
  { name: 'meta.erofs', maxBytes: 2 * 1024 ** 3, isCompressed: false },
  { name: 'spans', maxBytes: maxTableBytes, isCompressed: true },
]
const profileParts: readonly BundlePart[] = [{ name: 'profile.json', maxBytes: maxProfileBytes, isCompressed: false }]

/**
 * The indexes of layers and the boot profiles of images, on this host and where they are shared. They outlive the layers themselves: an image
 * that was evicted is lazy again at once. Nothing of a remote store is used that this fleet's key has not sealed, and its failures are logged,
 * never thrown.
 */
export class LayerIndexes {
  readonly #directory: IndexDirectory
  readonly #remote: RemoteIndexes | undefined
  readonly #logger: Logger
  readonly #finding = new SingleFlight<boolean>()
  readonly #keeping = new SingleFlight<void>()

  constructor (options: LayerIndexesOptions) {
    this.#directory = new IndexDirectory({ dir: options.dir, maxBytes: options.maxBytes ?? defaultMaxBytes })
    this.#remote = options.remote
    this.#logger = options.logger
  }

  /** Clears what a crash has left. Once, before anything else. */
  async open (): Promise<void> {
    await this.#directory.open()
  }

  /**
   * The index of a layer, from this host or the shared store; undefined when nobody has one that fits. The files are to be linked or read at once:
   * they may be evicted later.
   *
   * @throws the signal's reason.
   */
  async find (layer: LayerDescriptor, context: IndexContext): Promise<FoundIndex | undefined> {
    const name = hexOf(layer.digest)
    if (!isIndexable(layer)) return undefined
    const found = await this.#findLocal(layer, name)
    if (found) return found
    const remote = this.#remote
    if (!remote) return undefined
    const subject = subjectOf(layer)
    // The diff id is the image's word: who gives another one waits for another answer.
    const isHere = await this.#finding.run(`${name} ${layer.diffId}`, context.signal, () => this.#guard(layer.digest, context, () => this.#directory.create(name, async dir => {
      await remote.fetch(subject, context, indexParts, dir)
      await checkIndex(layer, filesIn(dir))
    })))
    return isHere ? this.#findLocal(layer, name) : undefined
  }

  /** Keeps an index and shares it in the background; whatever goes wrong is logged. A layer without spans has none. */
  async add (layer: LayerDescriptor, files: LayerIndexFiles, context: IndexContext): Promise<void> {
    if (!isIndexable(layer)) return
    const name = hexOf(layer.digest)
    try {
      await this.#keeping.run(name, undefined, async () => {
        if (await this.#findLocal(layer, name)) return
        await this.#directory.create(name, async dir => {
          const target = filesIn(dir)
          await linkOrCopy(files.factsPath, target.factsPath)
          await linkOrCopy(files.metaPath, target.metaPath)
          await linkOrCopy(files.spansPath, target.spansPath)
          await checkIndex(layer, target)
        })
      })
      const dir = await this.#directory.find(name)
      if (dir !== undefined) this.#remote?.push(subjectOf(layer), context, indexParts, dir)
    } catch (error) {
      this.#logger.warn({ digest: layer.digest, err: error }, 'index of a layer not kept')
    }
  }

  /** @throws the signal's reason. */
  async findProfile (imageDigest: string, context: IndexContext): Promise<BootProfile | undefined> {
    const name = `profile-${hexOf(imageDigest)}`
    const local = await this.#readProfile(name)
    if (local) return local
    const remote = this.#remote
    if (!remote) return undefined
    const isHere = await this.#finding.run(name, context.signal, () => this.#guard(imageDigest, context, () => this.#directory.create(name, async dir => {
      await remote.fetch(profileSubject(imageDigest), context, profileParts, dir)
      if (!decodeProfile(await readFile(join(dir, 'profile.json')))) throw new Error('a boot profile is malformed')
    })))
    return isHere ? this.#readProfile(name) : undefined
  }

  /** Keeps a profile, in the place of another, and shares it in the background; whatever goes wrong is logged. */
  async addProfile (imageDigest: string, profile: BootProfile, context: IndexContext): Promise<void> {
    const name = `profile-${hexOf(imageDigest)}`
    try {
      await this.#keeping.run(name, undefined, () => this.#directory.create(name, dir => writeFile(join(dir, 'profile.json'), encodeProfile(profile), { mode: 0o600 })))
      const dir = await this.#directory.find(name)
      if (dir !== undefined) this.#remote?.push(profileSubject(imageDigest), context, profileParts, dir)
    } catch (error) {
      this.#logger.warn({ imageDigest, err: error }, 'boot profile not kept')
    }
  }

  /** Resolves when nothing is fetched or shared any more, however it ended. */
  async settled (): Promise<void> {
    await this.#finding.settled()
    await this.#keeping.settled()
    await this.#remote?.settled()
  }

  /** Gives up what is under way. */
  async close (): Promise<void> {
    await this.#remote?.close()
    await this.settled()
  }

  async #findLocal (layer: LayerDescriptor, name: string): Promise<FoundIndex | undefined> {
    try {
      const dir = await this.#directory.find(name)
      if (dir === undefined) return undefined
      const files = filesIn(dir)
      return { ...files, ...await checkIndex(layer, files) }
    } catch (error) {
      // Of an image whose words differ from what its blob is, the index is right and the image wrong.
      if (!(error instanceof OtherLayerError)) await this.#directory.remove(name).catch(() => undefined)
      this.#logger.warn({ digest: layer.digest, err: error }, 'index of a layer not used')
      return undefined
    }
  }

  async #readProfile (name: string): Promise<BootProfile | undefined> {
    const dir = await this.#directory.find(name).catch(() => undefined)
    return dir === undefined ? undefined : decodeProfile(await readFile(join(dir, 'profile.json')).catch(() => Buffer.alloc(0)))
  }

  /** Whether the work succeeded; why not is in the log. */
  async #guard (digest: string, context: IndexContext, work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (error) {
      this.#remote?.report(digest, context, error)
      return false
    }
  }
}

/** The index is whole, and of another layer than was asked for. */
class OtherLayerError extends Error {}

/** @throws Error unless these files are an index of this layer. */
async function checkIndex (layer: LayerDescriptor, files: LayerIndexFiles): Promise<Pick<FoundIndex, 'spans' | 'table' | 'implicitDirectories'>> {
  if ((await stat(files.spansPath)).size > maxTableBytes) throw new Error('the table of spans is too large')
  const spans = await readFile(files.spansPath)
  const table = decodeSpanTable(spans)
  const facts = await readJson(files.factsPath) as LayerFacts | undefined
  if (facts?.version !== 1 || !Array.isArray(facts.implicitDirectories)) throw new Error('the facts of a layer are malformed')
  if ((await stat(files.metaPath)).size === 0) throw new Error('the metadata of a layer is empty')
  const isSame = [table, facts].every(({ digest, diffId, blobBytes, tarBytes }) =>
    digest === layer.digest && diffId === layer.diffId && blobBytes === layer.sizeBytes && tarBytes === table.tarBytes)
  if (!isSame || table.kind !== compressionOf(layer.mediaType)) throw new OtherLayerError('the index of a layer does not fit what the image says of the layer')
  return { spans, table, implicitDirectories: facts.implicitDirectories }
}

/** Layers that can be read in parts. */
function isIndexable ({ mediaType }: LayerDescriptor): boolean {
  try {
    return compressionOf(mediaType) !== 'zstd'
  } catch {
    return false
  }
}

function subjectOf ({ digest, diffId, mediaType, sizeBytes }: LayerDescriptor) {
  return { kind: 'index' as const, digest, diffId, mediaType, blobBytes: sizeBytes }
}

function profileSubject (digest: string) {
  return { kind: 'profile' as const, digest, diffId: '', mediaType: '', blobBytes: 0 }
}

function filesIn (dir: string): LayerIndexFiles {
  return { factsPath: join(dir, 'layer.json'), metaPath: join(dir, 'meta.erofs'), spansPath: join(dir, 'spans') }
}

/** Hard links cost no space while the layer itself is here; another file system, or a file system without them, gets a copy. */
async function linkOrCopy (from: string, to: string): Promise<void> {
  await link(from, to).catch(() => copyFile(from, to, constants.COPYFILE_FICLONE))
}
