/**
 * Start-up reconciliation: what the disk says, what the host has, and the difference between the two.
 * Everything here is best effort and idempotent: one thing that cannot be cleaned never keeps another from being.
 */
import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Logger } from 'pino'
import type { CgroupManager } from '../../host/cgroup.ts'
import { mountPoints, unmount } from '../../host/mount.ts'
import type { OciRuntime } from '../../host/oci-runtime.ts'
import { findProcessesBelow, signalProcess } from '../../host/process.ts'
import { removeTrees } from '../../host/remove.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { SandboxLifecycle } from './sandbox-lifecycle.ts'
import type { HostPlaces } from './sandbox-places.ts'

export interface ReconcilerOptions {
  places: HostPlaces
  cgroups: CgroupManager
  runtimes: ReadonlyMap<string, OciRuntime>
  logger: Logger
}

/** One kind of host resource: how those that carry our names are found, and how one is reclaimed by its sandbox's id. */
interface Reclaimer {
  kind: string
  find: () => Promise<string[]>
  reclaim: (id: string) => Promise<void>
}

const processEndMs = 5000

export class SandboxReconciler {
  readonly #options: ReconcilerOptions

  constructor (options: ReconcilerOptions) {
    this.#options = options
  }

  /** Every sandbox is adopted, settled or cleaned up; one that fails is logged and tried again by the keeper. */
  async adopt (sandboxes: readonly SandboxLifecycle[], facts: { hasHostRestarted: boolean }): Promise<void> {
    await Promise.all(sandboxes.map(async sandbox => {
      try {
        await sandbox.adopt(facts)
      } catch (error) {
        this.#options.logger.error({ sandboxId: sandbox.record.id, err: error }, 'a sandbox could not be reconciled')
      }
    }))
  }

  /** Reclaims what belongs to these directories but to no sandbox of this list. Answers how much it found, by kind. */
  async reclaimStrangers (sandboxes: readonly SandboxLifecycle[]): Promise<Record<string, number>> {
    const known = new Set(sandboxes.filter(({ record }) => record.holdsRun).map(({ record }) => record.id))
    const found: Record<string, number> = {}
    for (const { kind, find, reclaim } of this.#reclaimers()) {
      const strangers = (await find().catch(error => this.#failed(kind, error))).filter(id => !known.has(id))
      for (const id of strangers) {
        found[kind] = (found[kind] ?? 0) + 1
        await reclaim(id).catch(error => this.#failed(kind, error))
      }
    }
    return found
  }

  /** The order is that of a release: processes first, then what lies under them. */
  #reclaimers (): Reclaimer[] {
    const { places, cgroups, runtimes } = this.#options
    return [
      {
        kind: 'process',
        find: async () => [...new Set(findProcessesBelow(places.runDir).map(({ id }) => id))],
        reclaim: async id => {
          const processes = findProcessesBelow(places.runDir).filter(process => process.id === id).map(({ identity }) => identity)
          for (const identity of processes) signalProcess(identity, 'SIGKILL')
          await pollUntil(async () => !findProcessesBelow(places.runDir).some(process => process.id === id), processEndMs)
        },
      },
      { kind: 'cgroup processes', find: () => cgroups.list(), reclaim: id => cgroups.killAll(id) },
      ...[...runtimes.values()].map(runtime => ({
        kind: `${runtime.profile.name} container`,
        find: () => runtime.list(),
        reclaim: (id: string) => runtime.delete(id),
      })),
      { kind: 'cgroup', find: () => cgroups.list(), reclaim: id => cgroups.remove(id) },
      ...['rootfs', 'disk'].map(name => ({
        kind: `${name} mount`,
        find: () => this.#mountedIds(name),
        reclaim: (id: string) => unmount(join(places.sandboxesDir, id, name)),
      })),
      { kind: 'run directory', find: () => readdir(places.runSandboxesDir), reclaim: id => removeTrees([join(places.runSandboxesDir, id)]) },
    ]
  }

  /** Ids whose directory has exactly this mount point. */
  async #mountedIds (name: string): Promise<string[]> {
    const ids: string[] = []
    for (const point of await mountPoints()) {
      const id = basename(join(point, '..'))
      if (point === join(this.#options.places.sandboxesDir, id, name)) ids.push(id)
    }
    return ids
  }

  #failed (kind: string, error: unknown): string[] {
    this.#options.logger.error({ kind, err: error }, 'a host resource could not be reclaimed')
    return []
  }
}
