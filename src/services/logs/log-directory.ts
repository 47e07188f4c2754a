import { stat } from 'node:fs/promises'
import type { Semaphore } from 'async-mutex'
import { ignoreMissing } from '../../lib/ignore-missing.ts'
import type { LogStream } from '../../schemas/log.ts'
import type { BlockPool } from './block-pool.ts'
import { currentLogPath, listLogFiles, openLogFile, rotatedLogPath, type OpenLogFile } from './log-files.ts'
import { LogParser, offsetOf, type ParserState } from './log-parser.ts'
import type { ParsedBlock, SharedBlocks } from './shared-blocks.ts'

/** The newest file that is there. */
export interface NewestFile {
  generation: number
  bytes: number
}

interface SharedFile {
  file: OpenLogFile
  leases: number
  /** Nobody had it at the last look; it is closed at the next. */
  isIdle: boolean
}

export interface BlockRequest {
  file: OpenLogFile
  state: ParserState
  stream: LogStream | undefined
  /** Read no more than this. */
  maxBytes: number
  /** Share the block with others that are as far; and of which version on to believe that there is nothing more. undefined: read it alone. */
  sharedVersion: number | undefined
}

/** What all logs' readings share. */
export interface ReadingResources {
  /** Finding the place to begin at takes memory for a moment: not for all at once. */
  beginnings: Semaphore
  pool: BlockPool
  blocks: SharedBlocks
}

let directories = 0

/** What the readings of one log share: open files, blocks, and the look at what is there. */
export class LogDirectory {
  readonly #dir: string
  readonly #resources: ReadingResources
  readonly #prefix = `${++directories}:`
  readonly #keepsFiles: boolean
  readonly #files = new Map<number, SharedFile>()
  readonly #opening = new Map<number, Promise<unknown>>()
  #newest: { version: number, found: Promise<NewestFile | undefined> } | undefined

  /** `keepsFiles`: a file that is given back stays open for a while, as somebody may ask for it again. */
  constructor (dir: string, resources: ReadingResources, options: { keepsFiles: boolean }) {
    this.#dir = dir
    this.#keepsFiles = options.keepsFiles
    this.#resources = resources
  }

  /** Finds where a reading begins, when it is its turn. */
  async begin (find: () => Promise<void>): Promise<void> {
    await this.#resources.beginnings.runExclusive(find)
  }

  /** The oldest file that is there whose generation is at least the given one; the caller gives it back. */
  async acquire (atLeast: number): Promise<OpenLogFile | undefined> {
    // Many ask for a file at once when it grows again; that somebody else found none says nothing.
    await this.#opening.get(atLeast)
    const known = this.#files.get(atLeast)
    if (known) return lease(known)
    const opening = this.#open(atLeast)
    const done = opening.then(() => {}, () => {}).then(() => { if (this.#opening.get(atLeast) === done) this.#opening.delete(atLeast) })
    this.#opening.set(atLeast, done)
    const shared = await opening
    return shared && lease(shared)
  }

  async #open (atLeast: number): Promise<SharedFile | undefined> {
    const file = await openLogFile(this.#dir, atLeast)
    if (!file) return undefined
    const other = this.#files.get(file.generation)
    if (other) {
      await file.handle.close()
      return other
    }
    const shared = { file, leases: 0, isIdle: false }
    this.#files.set(file.generation, shared)
    return shared
  }

  /** Gives a file back: who waits for more holds none. */
  async release (file: OpenLogFile): Promise<void> {
    const shared = this.#files.get(file.generation)
    if (shared?.file !== file) return
    shared.leases--
    if (shared.leases > 0 || this.#keepsFiles) return
    this.#files.delete(file.generation)
    await file.handle.close()
  }

  /** The newest file, as it was at this version or later; without a version, as it is now. */
  async newest (version?: number): Promise<NewestFile | undefined> {
    if (version === undefined) return await findNewest(this.#dir)
    if (this.#newest?.version !== version) this.#newest = { version, found: findNewest(this.#dir) }
    return await this.#newest.found
  }

  /** The next block of a file, parsed. */
  async read (request: BlockRequest): Promise<ParsedBlock> {
    const { state, stream, sharedVersion } = request
    if (sharedVersion === undefined) return await this.#load(request)
    const { generation, lineStart, split, isSettled } = state
    const key = `${this.#prefix}${generation}:${lineStart}:${offsetOf(state)}:${split.stdout.toString('hex')}:${split.stderr.toString('hex')}:${isSettled}:${stream}`
    return await this.#resources.blocks.get(key, sharedVersion, () => this.#load(request))
  }

  /** Forgets blocks of files that did not only grow. */
  forgetBlocks (): void {
    this.#resources.blocks.forget(this.#prefix)
  }

  /** Closes files that nobody has had since the last time. */
  async closeIdle (): Promise<void> {
    const idle = [...this.#files].filter(([, { leases, isIdle }]) => leases === 0 && isIdle)
    for (const [generation] of idle) this.#files.delete(generation)
    for (const shared of this.#files.values()) shared.isIdle = shared.leases === 0
    await Promise.all(idle.map(([, { file }]) => file.handle.close()))
  }

  async close (): Promise<void> {
    this.forgetBlocks()
    const files = [...this.#files.values()]
    this.#files.clear()
    await Promise.all(files.map(({ file }) => file.handle.close()))
  }

  async #load ({ file, state, stream, maxBytes }: BlockRequest): Promise<ParsedBlock> {
    return await this.#resources.pool.use(async block => {
      const { bytesRead } = await file.handle.read(block, 0, Math.min(maxBytes, block.length), offsetOf(state))
      if (bytesRead === 0) return { bytes: 0, records: [], next: state }
      const parser = new LogParser(state, stream)
      const records = parser.push(block.subarray(0, bytesRead))
      return { bytes: bytesRead, records, next: parser.state }
    })
  }
}

function lease (shared: SharedFile): OpenLogFile {
  shared.leases++
  shared.isIdle = false
  return shared.file
}

/** With the same care as the opening of a file: `log` may be rotated between two looks. */
async function findNewest (dir: string): Promise<NewestFile | undefined> {
  for (;;) {
    const { rotated, current, hasCurrent } = await listLogFiles(dir)
    const generation = hasCurrent ? current : rotated.at(-1)
    if (generation === undefined) return undefined
    const found = await stat(hasCurrent ? currentLogPath(dir) : rotatedLogPath(dir, generation)).catch(ignoreMissing)
    if (found && (!hasCurrent || (await listLogFiles(dir)).current === current)) return { generation, bytes: found.size }
  }
}
