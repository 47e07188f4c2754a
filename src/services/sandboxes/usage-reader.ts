import { BerthError } from '../../errors.ts'
import type { CgroupManager } from '../../host/cgroup.ts'
import type { Usage } from '../../schemas/usage.ts'
import type { SandboxManager } from './sandbox-manager.ts'
import { liveStatuses } from './sandbox-status.ts'

export interface UsageReaderOptions {
  cgroups: Pick<CgroupManager, 'usage'>
  sandboxes: Pick<SandboxManager, 'all' | 'lifecycle'>
}

/** Read at once by many, a look of this age still serves, in milliseconds. */
const freshMs = 1000

/** What sandboxes that run use at this moment, from their cgroups. */
export class UsageReader {
  readonly #options: UsageReaderOptions
  #all: { atMs: number, items: Promise<Usage[]> } | undefined

  constructor (options: UsageReaderOptions) {
    this.#options = options
  }

  /** @throws BerthError not_found, or conflict `invalid_state` where it does not run. */
  async of (id: string): Promise<Usage> {
    const { status } = this.#options.sandboxes.lifecycle(id)
    const usage = liveStatuses.includes(status) ? await this.#read(id) : undefined
    if (!usage) throw new BerthError('conflict', 'invalid_state', `a sandbox that is ${status} uses nothing; what it used at most is in its \`end\``, { details: { status } })
    return usage
  }

  /** Of all that run. */
  async all (): Promise<Usage[]> {
    const now = performance.now()
    if (!this.#all || now - this.#all.atMs > freshMs) this.#all = { atMs: now, items: this.#readAll() }
    return await this.#all.items
  }

  async #readAll (): Promise<Usage[]> {
    const live = this.#options.sandboxes.all().filter(({ status }) => liveStatuses.includes(status))
    const found = await Promise.all(live.map(async ({ record }) => await this.#read(record.id).catch(() => undefined)))
    return found.filter(usage => usage !== undefined)
  }

  async #read (sandboxId: string): Promise<Usage | undefined> {
    const usage = await this.#options.cgroups.usage(sandboxId)
    if (!usage) return undefined
    const { cpuTimeMs, memoryBytes, peakMemoryBytes, pids } = usage
    return { sandboxId, at: new Date().toISOString(), cpuTimeMs, memoryBytes, peakMemoryBytes, pids }
  }
}
