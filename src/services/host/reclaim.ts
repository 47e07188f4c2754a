/** Takes back a host: everything that belongs to a daemon's directories. */
import { rm } from 'node:fs/promises'
import { BerthError } from '../../errors.ts'
import type { CgroupManager } from '../../host/cgroup.ts'
import type { ImageManager } from '../images/image-manager.ts'
import type { OpenNetwork } from '../network/open-network.ts'
import type { SandboxManager } from '../sandboxes/sandbox-manager.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'
import type { SandboxReconciler } from '../sandboxes/sandbox-reconciler.ts'
import type { TerminalManager } from '../terminals/terminal-manager.ts'

export interface ReclaimParts {
  sandboxes: SandboxManager
  terminals: TerminalManager
  images: ImageManager
  reconciler: SandboxReconciler
  cgroups: CgroupManager
  network: OpenNetwork
  places: HostPlaces
  socketPath: string
}

/**
 * Ends and removes everything that belongs to these directories, and the directories' content.
 *
 * @throws BerthError internal `leaked` when a resource could not be released.
 */
export async function reclaimHost ({ sandboxes, terminals, images, reconciler, cgroups, network, places, socketPath }: ReclaimParts): Promise<void> {
  await Promise.all(sandboxes.all().map(({ record }) => sandboxes.remove(record.id, { force: true })))
  const leaks = sandboxes.all().flatMap(({ record }) => record.leaks.map(({ step }) => `${record.id}: ${step}`))
  await terminals.endAll()
  await reconciler.reclaimStrangers([])
  if (leaks.length > 0) throw new BerthError('internal', 'leaked', `some resources could not be released: ${leaks.join(', ')}; see the log, then run this again`)
  await Promise.all(sandboxes.all().map(({ record }) => sandboxes.forget(record.id)))
  await images.reclaim()
  await network.reclaim()
  await cgroups.close()
  await rm(socketPath, { force: true })
  const trees = [
    places.sandboxesDir, places.imagesDir, places.runSandboxesDir, places.imageServerDir, places.layerMountsDir, places.initDir, places.runtimesDir, places.bootMarkerPath,
    places.imageServerLogPath, places.networkServerDir, places.networkServerLogPath, places.tasksDir,
    places.ptyHostDir, places.ptyHostLogPath, `${places.ptyHostLogPath}.1`,
    ...['', '-wal', '-shm'].map(suffix => `${places.taskDatabasePath}${suffix}`),
  ]
  for (const path of trees) {
    await rm(path, { recursive: true, force: true })
  }
}
