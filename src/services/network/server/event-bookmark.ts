import { writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { ProcessIdentity } from '../../../host/process.ts'

interface Place extends ProcessIdentity {
  seq: number
}

/** How far a daemon has read the events of a server, in a file that the next daemon reads: nothing is heard twice. */
export class EventBookmark {
  readonly #path: string
  readonly #logger: Logger
  #place: Place = { pid: 0, startTicks: '', seq: 0 }
  #isWritten = true

  constructor (options: { path: string, logger: Logger }) {
    this.#path = options.path
    this.#logger = options.logger
  }

  /** Takes up what an earlier daemon has written. */
  async read (): Promise<void> {
    try {
      this.#place = JSON.parse(await readFile(this.#path, 'utf8')) as Place
    } catch { /* none has, or it was killed over it */ }
  }

  /** The number of the last event that was heard of this server. */
  of ({ pid, startTicks }: ProcessIdentity): number {
    if (this.#place.pid !== pid || this.#place.startTicks !== startTicks) this.#place = { pid, startTicks, seq: 0 }
    return this.#place.seq
  }

  /** Moves on within the server that was asked for last; is written once for all that comes in one piece. */
  move (seq: number): void {
    this.#place.seq = seq
    if (this.#isWritten) setImmediate(() => this.write())
    this.#isWritten = false
  }

  /** At once, so that a daemon that is killed the next moment has written it. */
  write (): void {
    if (this.#isWritten) return
    this.#isWritten = true
    try {
      writeFileSync(this.#path, JSON.stringify(this.#place), { mode: 0o600 })
    } catch (error) {
      this.#logger.warn({ err: error }, 'how far the network server was heard could not be written down; the next daemon hears some of it again')
    }
  }
}
