import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino, type Logger } from 'pino'
import { IndexKey } from '../../src/services/images/indexes/index-key.ts'
import { LayerIndexes, type LayerIndexFiles } from '../../src/services/images/indexes/layer-indexes.ts'
import { RemoteIndexes } from '../../src/services/images/indexes/remote-indexes.ts'
import { StoreRefusedError, type RemoteIndexStore, type StoredBundle } from '../../src/services/images/indexes/remote-index-store.ts'
import type { LayerDescriptor } from '../../src/services/images/layers/image-layer.ts'
import type { LayerFacts } from '../../src/services/images/layers/layer-directory.ts'
import { encodeSpanTable } from '../../src/services/images/layers/span-table.ts'
import type { Teardown } from './registry.ts'

export interface IndexedLayer {
  layer: LayerDescriptor
  files: LayerIndexFiles
}

export interface LogLine {
  level: number
  msg: string
  err?: { message: string }
  place?: string
}

export const fleetKey = new IndexKey(Buffer.alloc(32, 7))

/** A directory that goes with the test. */
export function tempDir (t: Teardown): string {
  const dir = realpathSync(mkdtempSync(join(tmpdir(), 'berth-indexes-')))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** An uncompressed layer of random bytes and its index, with metadata of so many bytes. */
export function makeLayer (t: Teardown, metaBytes = 4096): IndexedLayer {
  const dir = tempDir(t)
  const spanBytes = 64 * 1024
  const tar = randomBytes(3 * spanBytes)
  const digest = `sha256:${createHash('sha256').update(tar).digest('hex')}`
  const spans = [0, 1, 2].map(i => {
    const [start, end] = [i * spanBytes, (i + 1) * spanBytes]
    return { blobStart: start, blobEnd: end, tarStart: start, tarEnd: end, window: Buffer.alloc(0), sha256: createHash('sha256').update(tar.subarray(start, end)).digest() }
  })
  const sizes = { blobBytes: tar.length, tarBytes: tar.length }
  const mediaType = 'application/vnd.oci.image.layer.v1.tar'
  const facts: LayerFacts = { version: 1, digest, diffId: digest, mediaType, ...sizes, hasSpans: true, entries: 2, implicitDirectories: ['usr'] }
  const files = { factsPath: join(dir, 'layer.json'), metaPath: join(dir, 'meta.erofs'), spansPath: join(dir, 'spans') }
  writeFileSync(files.factsPath, JSON.stringify(facts))
  writeFileSync(files.metaPath, randomBytes(metaBytes))
  writeFileSync(files.spansPath, encodeSpanTable({ digest, diffId: digest, ...sizes, kind: 'plain', spans }))
  return { layer: { digest, diffId: digest, mediaType, sizeBytes: tar.length }, files }
}

export function contentOf (files: LayerIndexFiles): string[] {
  return [files.factsPath, files.metaPath, files.spansPath].map(path => createHash('sha256').update(readFileSync(path)).digest('hex'))
}

/** A logger, and what it has logged from `warn` on. */
export function recordingLogger (): { logger: Logger, warnings: LogLine[] } {
  const warnings: LogLine[] = []
  const logger = pino({ level: 'warn' }, { write: line => void warnings.push(JSON.parse(line) as LogLine) })
  return { logger, warnings }
}

/** A store in a directory, so that tests can change what it holds. */
export class FolderStore implements RemoteIndexStore {
  readonly dir: string
  puts = 0
  finds = 0
  /** What happens in the place of a put. */
  failure: Error | undefined

  constructor (dir: string) {
    this.dir = dir
    mkdirSync(dir, { recursive: true })
  }

  placeOf (): string {
    return 'the folder'
  }

  async find (name: string): Promise<StoredBundle | undefined> {
    this.finds++
    if (!readdirSync(this.dir).includes(name)) return undefined
    const content = readFileSync(join(this.dir, name))
    return { sizeBytes: content.length, body: (async function * () { for (let at = 0; at < content.length; at += 1000) yield content.subarray(at, at + 1000) })() }
  }

  async put (name: string, content: Buffer): Promise<void> {
    this.puts++
    if (this.failure) throw this.failure
    writeFileSync(join(this.dir, name), content)
  }

  async close (): Promise<void> {
    // A directory needs none.
  }

  /** The only one that is stored. */
  get path (): string {
    const [name, ...more] = readdirSync(this.dir)
    if (name === undefined || more.length > 0) throw new Error('there is not exactly one bundle')
    return join(this.dir, name)
  }
}

export function refusal (): Error {
  return new StoreRefusedError('it is read-only')
}

interface TestHostOptions {
  store?: RemoteIndexStore
  key?: IndexKey
  maxBytes?: number
  dir?: string
  lookupMs?: number
}

/** The indexes of one host, with what they log. */
export async function startHost (t: Teardown, { store, key = fleetKey, maxBytes, dir = tempDir(t), lookupMs }: TestHostOptions = {}) {
  const { logger, warnings } = recordingLogger()
  const remote = store && new RemoteIndexes({ store, key, logger, retryDelaysMs: [1, 1], ...(lookupMs === undefined ? {} : { lookupMs }) })
  const indexes = new LayerIndexes({ dir, remote, logger, ...(maxBytes === undefined ? {} : { maxBytes }) })
  await indexes.open()
  t.after(() => indexes.close())
  return { indexes, dir, warnings }
}
