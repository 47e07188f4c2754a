import { statfs } from 'node:fs/promises'
import { availableParallelism, freemem, hostname, loadavg, release, totalmem } from 'node:os'
import type { Host, HostDrainRequest, HostGateway, HostQueue, RuntimeInfo } from '../../schemas/host.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import { liveStatuses } from '../sandboxes/sandbox-status.ts'
import type { HostDrain } from './host-drain.ts'

export interface HostInfoOptions {
  id: string
  version: string
  stateDir: string
  cgroupVersion: number
  runtimes: readonly RuntimeInfo[]
  sandboxes: SandboxManager
  drain: Pick<HostDrain, 'state' | 'drain' | 'undrain'>
  /** Of a host that belongs to a fleet. */
  gateway?: (() => HostGateway) | undefined
  queue?: (() => HostQueue) | undefined
}

/** What this machine and daemon are, and whether they can take work. */
export class HostInfo {
  readonly #options: HostInfoOptions
  readonly #startedAt = new Date().toISOString()
  #status: Host['status'] = 'starting'

  constructor (options: HostInfoOptions) {
    this.#options = options
  }

  setStatus (status: Host['status']): void {
    this.#status = status
  }

  readiness (): { ready: boolean, problems: string[] } {
    if (this.#status === 'ready') return { ready: true, problems: [] }
    return { ready: false, problems: [this.#status === 'starting' ? 'the daemon is starting: it is taking over the sandboxes that it finds' : 'the daemon is ending'] }
  }

  /** @throws what the disk throws: then it is as before. */
  async drain (request: HostDrainRequest): Promise<Host> {
    await this.#options.drain.drain(request)
    return await this.describe()
  }

  /** @throws what the disk throws: then it is as before. */
  async undrain (): Promise<Host> {
    await this.#options.drain.undrain()
    return await this.describe()
  }

  async describe (): Promise<Host> {
    const { id, version, stateDir, cgroupVersion, runtimes, sandboxes, gateway, queue } = this.#options
    const drain = this.#options.drain.state
    const disk = await statfs(stateDir)
    const live = sandboxes.all().filter(sandbox => liveStatuses.includes(sandbox.status))
    const sum = (pick: (resources: { cpuMillis: number, memoryBytes: number }) => number) => live.reduce((total, { record }) => total + pick(record.resources), 0)
    return {
      id,
      hostname: hostname(),
      version,
      status: drain && this.#status === 'ready' ? 'draining' : this.#status,
      startedAt: this.#startedAt,
      pid: process.pid,
      kernel: release(),
      node: process.version,
      cgroupVersion,
      runtimes: [...runtimes],
      capacity: { cpuMillis: availableParallelism() * 1000, memoryBytes: totalmem(), diskBytes: disk.blocks * disk.bsize },
      usage: {
        sandboxes: sandboxes.countByStatus(),
        requestedCpuMillis: sum(({ cpuMillis }) => cpuMillis),
        requestedMemoryBytes: sum(({ memoryBytes }) => memoryBytes),
        memoryBytes: totalmem() - freemem(),
        diskBytes: (disk.blocks - disk.bfree) * disk.bsize,
        loadAverage: loadavg(),
      },
      ...(drain && { drain }),
      ...(gateway && { gateway: gateway() }),
      ...(queue && { queue: queue() }),
    }
  }
}
