import type { Logger } from 'pino'
import type { SandboxStatus } from '../../schemas/sandbox.ts'
import { writeRecord, type SandboxRecord } from './sandbox-record.ts'
import { canMove, endedStatuses } from './sandbox-status.ts'

export interface SandboxStateOptions {
  recordPath: string
  logger: Logger
  /** Told of each change of status, after it is on disk. */
  onStatus: (record: SandboxRecord, change: { from: SandboxStatus, to: SandboxStatus }) => void
}

/** The record of one sandbox in memory and on disk, and the one place that changes its status. */
export class SandboxState {
  readonly record: SandboxRecord
  readonly #options: SandboxStateOptions
  readonly #watchers = new Set<() => void>()

  constructor (record: SandboxRecord, options: SandboxStateOptions) {
    this.record = record
    this.#options = options
  }

  get status (): SandboxStatus { return this.record.status }
  get hasEnded (): boolean { return endedStatuses.includes(this.record.status) }

  /** Calls back after each change of status, and when the sandbox is deleted; answers how to stop. */
  watch (onChange: () => void): () => void {
    this.#watchers.add(onChange)
    return () => this.#watchers.delete(onChange)
  }

  notify (): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  /** Changes the status: in memory, on disk, then for everybody to see. An illegal move is a defect and throws. */
  async move (to: SandboxStatus, patch: Partial<SandboxRecord> = {}): Promise<void> {
    const from = this.#change(to)
    await this.save(patch)
    this.#announce(from, patch)
  }

  /** A status that is passed through on the way to the next: on disk it stays the one before, which recovery treats alike. */
  passThrough (to: SandboxStatus): void {
    this.#announce(this.#change(to))
  }

  async save (patch: Partial<SandboxRecord>): Promise<void> {
    Object.assign(this.record, patch)
    await writeRecord(this.#options.recordPath, this.record)
  }

  #change (to: SandboxStatus): SandboxStatus {
    const from = this.status
    if (!canMove(from, to)) throw new Error(`a sandbox cannot go from ${from} to ${to}`)
    this.record.status = to
    return from
  }

  #announce (from: SandboxStatus, patch: Partial<SandboxRecord> = {}): void {
    const { id, status: to } = this.record
    this.#options.logger.info({ sandboxId: id, from, to, ...(patch.end ? { end: patch.end } : {}) }, 'sandbox status changed')
    this.#options.onStatus(this.record, { from, to })
    this.notify()
  }
}
