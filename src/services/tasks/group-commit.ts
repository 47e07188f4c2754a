import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { BerthError } from '../../errors.ts'

interface Operation {
  work: () => unknown
  resolve: (value: unknown) => void
  reject: (error: unknown) => void
}

export interface GroupCommitOptions {
  db: DatabaseSync
  /** Makes what is known in memory agree with the database: called before the first operation, and after writes were taken back. */
  load: () => void
  /** Called after each commit, when promises have been settled. */
  afterCommit: () => void
  /** Called when a whole group has failed. */
  afterFailure: () => void
}

/** A group that takes longer is committed, and the rest of it left for the next turn, so that others run between. In milliseconds. */
const longestGroupMs = 20

/**
 * Operations that are asked for in one turn of the event loop share a transaction, and so its fsync. Each is told how it went only
 * after the commit.
 *
 * An operation refuses by throwing a BerthError before it has written anything. One that fails in another way is taken back alone.
 * When the transaction fails (a full disk), all of its operations do.
 */
export class GroupCommit {
  readonly #options: GroupCommitOptions
  readonly #statements: Record<'begin' | 'commit' | 'mark' | 'keep' | 'takeBack', StatementSync>
  #waiting: Operation[] = []
  #flush: NodeJS.Immediate | undefined
  #isLoaded = false
  #isClosed = false

  constructor (options: GroupCommitOptions) {
    this.#options = options
    const { db } = options
    this.#statements = {
      begin: db.prepare('BEGIN IMMEDIATE'),
      commit: db.prepare('COMMIT'),
      mark: db.prepare('SAVEPOINT operation'),
      keep: db.prepare('RELEASE operation'),
      takeBack: db.prepare('ROLLBACK TO operation'),
    }
  }

  /**
   * Carries out work in the transaction of this turn.
   * @throws BerthError unavailable `disk_full`, `storage_failed`, `stopping`: it has not been carried out.
   */
  run<T> (work: () => T): Promise<T> {
    if (this.#isClosed) return Promise.reject(new BerthError('unavailable', 'stopping', 'the daemon is stopping; ask again when it is back'))
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({ work, resolve: resolve as (value: unknown) => void, reject })
      this.#flush ??= setImmediate(() => this.#commit())
    })
  }

  /** Carries out what was asked for, and refuses what comes later. */
  async close (): Promise<void> {
    this.#isClosed = true
    while (this.#waiting.length > 0) this.#commit()
  }

  #commit (): void {
    clearImmediate(this.#flush)
    this.#flush = undefined
    const { db, afterCommit, afterFailure } = this.#options
    const group: Operation[] = []
    const answers: Array<() => void> = []
    try {
      this.#statements.begin.run()
      const end = performance.now() + longestGroupMs
      do {
        const operation = this.#waiting.shift()
        if (operation === undefined) break
        group.push(operation)
        answers.push(this.#carryOut(operation))
      } while (performance.now() < end)
      this.#statements.commit.run()
    } catch (error) {
      if (db.isTransaction) db.exec('ROLLBACK')
      this.#isLoaded = false
      // Without a transaction nobody was carried out: those that had not their turn fail too, or they would try for ever.
      for (const { reject } of [...group, ...this.#waiting.splice(0)]) reject(storageError(error))
      afterFailure()
      return
    }
    for (const answer of answers) answer()
    if (this.#waiting.length > 0) this.#flush ??= setImmediate(() => this.#commit())
    afterCommit()
  }

  #carryOut ({ work, resolve, reject }: Operation): () => void {
    if (!this.#isLoaded) this.#options.load()
    this.#isLoaded = true
    this.#statements.mark.run()
    try {
      const value = work()
      this.#statements.keep.run()
      return () => resolve(value)
    } catch (error) {
      // On a full disk SQLite may have rolled everything back by itself.
      if (!this.#options.db.isTransaction) throw error
      this.#statements.takeBack.run()
      this.#statements.keep.run()
      if (!(error instanceof BerthError)) this.#isLoaded = false
      return () => reject(storageError(error))
    }
  }
}

/** Result codes of SQLite (sqlite.org/rescode.html), without their extensions. */
const sqliteFull = 13
const sqliteErrors = new Set([5, 6, 7, 8, 10, 14])

function storageError (error: unknown): unknown {
  const code = (error as { errcode?: number } | undefined)?.errcode
  if (error instanceof BerthError || code === undefined) return error
  if ((code & 0xff) === sqliteFull) {
    return new BerthError('unavailable', 'disk_full', 'the disk of the state directory is full, so nothing can be queued or settled; free some space, then ask again', { cause: error })
  }
  if (!sqliteErrors.has(code & 0xff)) return error
  return new BerthError('unavailable', 'storage_failed', 'the task database could not be written; ask again, and see the log of the daemon if it goes on', { cause: error })
}
