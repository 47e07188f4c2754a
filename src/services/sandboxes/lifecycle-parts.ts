import type { Logger } from 'pino'
import type { CgroupManager } from '../../host/cgroup.ts'
import type { OciRuntime } from '../../host/oci-runtime.ts'
import type { EndReason } from '../../schemas/sandbox.ts'
import type { NetworkManager } from '../network/network-manager.ts'
import type { HostPlaces } from './sandbox-places.ts'
import type { SandboxStateOptions } from './sandbox-state.ts'
import type { StepLadder } from './step-ladder.ts'

/** What the life of a sandbox is made with. */
export interface LifecycleParts {
  places: HostPlaces
  cgroups: CgroupManager
  runtimes: ReadonlyMap<string, OciRuntime>
  ladder: StepLadder
  network: Pick<NetworkManager, 'change'>
  logger: Logger
  onStatus: SandboxStateOptions['onStatus']
}

export interface StopOptions {
  reason: EndReason
  force?: boolean
  graceMs?: number
}
