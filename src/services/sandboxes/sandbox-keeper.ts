import type { Logger } from 'pino'
import { reopenLog } from '../../host/conmon.ts'
import type { ExecManager } from '../execs/exec-manager.ts'
import type { LogRotator } from '../logs/log-rotator.ts'
import type { SandboxLifecycle } from './sandbox-lifecycle.ts'
import type { SandboxManager } from './sandbox-manager.ts'
import type { HostPlaces } from './sandbox-places.ts'
import { liveStatuses } from './sandbox-status.ts'

export interface SandboxKeeperOptions {
  sandboxes: SandboxManager
  execs: ExecManager
  /** Ends terminals that nobody uses. */
  terminals: { sweep: (now: number) => Promise<void> }
  rotator: LogRotator
  places: HostPlaces
  deletedRetentionMs: number
  /** Looks whether the rules of networks are in force. */
  checkNetwork: () => Promise<void>
  /** Prunes what grows beside the sandboxes: events, idempotency keys. */
  prune: () => Promise<void>
  logger: Logger
}

/** What is looked after while sandboxes run, each with how often, in milliseconds. */
const chores = [
  { name: 'deadlines', everyMs: 1000 },
  { name: 'network', everyMs: 1000 },
  { name: 'logs', everyMs: 1000 },
  { name: 'monitors', everyMs: 5000 },
  { name: 'clocks', everyMs: 10_000 },
  { name: 'leaks', everyMs: 30_000 },
  { name: 'retention', everyMs: 60_000 },
] as const
type Chore = typeof chores[number]['name']

/** Keeps deadlines, bounds logs, notices lost monitors, tries leaked resources again, and forgets old records. */
export class SandboxKeeper {
  readonly #options: SandboxKeeperOptions
  readonly #timers: NodeJS.Timeout[] = []
  readonly #running = new Set<Chore>()

  constructor (options: SandboxKeeperOptions) {
    this.#options = options
  }

  start (): void {
    for (const { name, everyMs } of chores) this.#timers.push(setInterval(() => { void this.#do(name) }, everyMs).unref())
  }

  close (): void {
    for (const timer of this.#timers.splice(0)) clearInterval(timer)
  }

  async #do (chore: Chore): Promise<void> {
    // A slow round is not overtaken by the next.
    if (this.#running.has(chore)) return
    this.#running.add(chore)
    try {
      await this.#chores[chore]()
    } catch (error) {
      this.#options.logger.error({ chore, err: error }, 'a chore failed')
    } finally {
      this.#running.delete(chore)
    }
  }

  readonly #chores: Record<Chore, () => Promise<void>> = {
    deadlines: async () => {
      const now = Date.now()
      for (const sandbox of this.#live()) {
        const reason = sandbox.clock.expired(now)
        // The stop takes its grace; other sandboxes do not wait for it.
        if (reason && sandbox.status !== 'stopping') void sandbox.stop({ reason }).catch(error => this.#failed(sandbox, error))
      }
      await this.#options.execs.sweep(now)
      await this.#options.terminals.sweep(now)
    },
    network: () => this.#options.checkNetwork(),
    logs: async () => {
      const { rotator, places, execs } = this.#options
      const sandboxLogs = this.#live().map(({ record }) => ({ sandboxId: record.id, dir: places.logDir(record), bundleDir: places.sandbox(record.id).bundleDir }))
      for (const { dir, bundleDir, ...ids } of [...sandboxLogs, ...execs.growingLogs()]) {
        await rotator.check(dir, async () => { await reopenLog(bundleDir) }).catch(error => this.#options.logger.warn({ ...ids, err: error }, 'a log could not be rotated'))
      }
    },
    monitors: async () => {
      for (const sandbox of this.#live()) await sandbox.checkMonitor()
    },
    clocks: async () => {
      for (const sandbox of this.#live()) await sandbox.flush()
    },
    leaks: async () => {
      for (const sandbox of this.#options.sandboxes.all()) await sandbox.retryLeaks()
    },
    retention: async () => {
      const oldest = Date.now() - this.#options.deletedRetentionMs
      for (const { record } of this.#options.sandboxes.all()) {
        if (record.deletedAt !== undefined && Date.parse(record.deletedAt) < oldest) await this.#options.sandboxes.forget(record.id)
      }
      await this.#options.prune()
    },
  }

  #live (): SandboxLifecycle[] {
    return this.#options.sandboxes.all().filter(({ status }) => liveStatuses.includes(status))
  }

  #failed (sandbox: SandboxLifecycle, error: unknown): void {
    this.#options.logger.error({ sandboxId: sandbox.record.id, err: error }, 'an expired sandbox could not be stopped')
  }
}
