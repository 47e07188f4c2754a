import type { FleetTaskTable } from '../../services/fleet-queue/fleet-queue-types.ts'

export interface TaskPrunerOptions {
  table: Pick<FleetTaskTable, 'prune'>
  /** Comes before each time; what it refuses is put off with the rest. */
  before: () => Promise<void>
  isReady: () => boolean
  onError: (error: unknown) => void
  everyMs: number
}

/**
 * Forgets ended tasks past their time, from time to time, until there are none: however many a second there were, Redis keeps those of
 * the time for which they are kept, and no more. It goes in small steps, so that others have their turn between. Every gateway does it:
 * whichever comes first finds the work.
 */
export class TaskPruner {
  readonly #options: TaskPrunerOptions
  readonly #timer: NodeJS.Timeout
  #turn: Promise<void> | undefined
  #isClosed = false

  /** Begins at once, with a pause. */
  constructor (options: TaskPrunerOptions) {
    this.#options = options
    this.#timer = setInterval(() => { this.#begin() }, options.everyMs)
  }

  /** Lets a step under way come to its end. */
  async close (): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#timer)
    await this.#turn
  }

  #begin (): void {
    const { isReady, onError } = this.#options
    if (this.#turn !== undefined || !isReady()) return
    this.#turn = this.#forgetAll().catch(onError).finally(() => { this.#turn = undefined })
  }

  async #forgetAll (): Promise<void> {
    const { table, before, isReady } = this.#options
    await before()
    while (!this.#isClosed && isReady() && await table.prune() > 0);
  }
}
