import { Semaphore } from 'async-mutex'
import { BerthError } from '../../errors.ts'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { BlockPool } from './block-pool.ts'
import { parseCursor } from './log-cursor.ts'
import { LogDirectory } from './log-directory.ts'
import { LogReading, type ReadingPlaces } from './log-reading.ts'
import { SharedBlocks } from './shared-blocks.ts'
import { LogWatcher } from './log-watcher.ts'

export const maxTailLines = 100_000

const maxBeginnings = 32

export interface LogReadOptions {
  /** The log's directory, which only the daemon and conmon write to. */
  dir: string
  /** Read on behind the record that has this cursor; it wins over `tail`, so that a reconnecting client's URL may keep it. */
  cursor?: string | undefined
  /** Only the last so many lines; an unfinished last line counts. */
  tail?: number | undefined
  /** Go on with what is written later, until the writer has ended. Without: up to the end as it is when reading begins. */
  follow?: boolean | undefined
  stream?: LogStream | undefined
  /** Ends the reading, without an error. */
  signal: AbortSignal
  /** Whether nothing will be written any more. Call `wake` when that changes. */
  isEnded: () => boolean
  /** The cursor where the part that is meant begins: nothing before it is read, and nothing that was unfinished there. */
  from?: string | undefined
  /** The cursor where the part that is meant ends, once it has one: all before it is written. Call `wake` when it gets one. */
  until?: (() => string | undefined) | undefined
}

/**
 * Reads logs, from any place and in constant memory. Each reading has its own place in the file: a slow one costs the
 * others nothing, and reading on from any record's cursor loses and repeats nothing. A follower that waits is little
 * more than its place; those that are equally far share what is read and parsed.
 */
export class LogReader {
  readonly #resources = { beginnings: new Semaphore(maxBeginnings), pool: new BlockPool(), blocks: new SharedBlocks() }
  readonly #watcher = new LogWatcher(this.#resources)

  /** Number of directories with followers. */
  get watchedCount (): number {
    return this.#watcher.size
  }

  /** The records, one by one. Throws at once when the options are wrong. */
  read (options: LogReadOptions): AsyncIterable<LogRecord> {
    return flatten(this.readBatches(options))
  }

  /**
   * The same in arrays of what one block of the file held: several times faster where there is much to read. An array
   * may be given to several readers, so nobody changes it; what is made of it may be kept by it.
   */
  readBatches (options: LogReadOptions): AsyncIterable<LogRecord[]> {
    const { cursor, from, tail } = options
    if (tail !== undefined && (!Number.isInteger(tail) || tail < 0 || tail > maxTailLines)) {
      throw new BerthError('invalid_argument', 'invalid_tail', `tail must be a whole number from 0 to ${maxTailLines}`)
    }
    return this.#batches(options, { asked: cursor === undefined ? undefined : parseCursor(cursor), from: parseCursor(from ?? '0:0') })
  }

  async * #batches (options: LogReadOptions, places: ReadingPlaces): AsyncGenerator<LogRecord[]> {
    const subscription = options.follow ? this.#watcher.subscribe(options.dir) : undefined
    const directory = subscription?.directory ?? new LogDirectory(options.dir, this.#resources, { keepsFiles: false })
    try {
      yield * new LogReading(options, places, directory, subscription).batches()
    } finally {
      await (subscription ?? directory).close()
    }
  }

  /** Makes the followers of a directory look again: something other than its files has changed. */
  wake (dir: string): void {
    this.#watcher.wake(dir)
  }
}

async function * flatten (batches: AsyncIterable<LogRecord[]>): AsyncGenerator<LogRecord> {
  for await (const batch of batches) yield * batch
}
