import { mkdir, rm } from 'node:fs/promises'
import type { AttachedProcess, ExecOptions, ExecPlaces } from '../../host/oci-runtime.ts'
import type { OciProcess } from '../../host/oci-spec.ts'
import { randomId } from '../../lib/id.ts'
import type { SandboxLifecycle } from '../sandboxes/sandbox-lifecycle.ts'
import type { HostPlaces } from '../sandboxes/sandbox-places.ts'

/** A process inside that is attached to this daemon by pipes, with its place in the run directory: what another daemon ends it by. */
export interface PlacedExec {
  id: string
  attached: AttachedProcess
  /** Ends the process inside; its client alone would leave it running. */
  kill: () => Promise<void>
  /** Gives the place back when the process has ended. Until then the sandbox counts as active. */
  release: () => Promise<void>
}

export interface PlacedOptions extends ExecOptions {
  id?: string
}

/** Starts one. What it throws has left nothing behind. */
export async function startPlaced (hostPlaces: HostPlaces, sandbox: SandboxLifecycle, process: OciProcess, options: PlacedOptions = {}): Promise<PlacedExec> {
  const { id = randomId('exe'), ...execOptions } = options
  const places: ExecPlaces = hostPlaces.exec(sandbox.record.id, id)
  const endActivity = sandbox.clock.beginActivity()
  const release = async () => {
    endActivity()
    await rm(places.runDir, { recursive: true, force: true })
  }
  try {
    await mkdir(places.runDir, { recursive: true })
    const attached = await sandbox.runtime.exec(places, process, execOptions)
    return { id, attached, kill: () => sandbox.runtime.signalExec(places, 'KILL'), release }
  } catch (error) {
    await release()
    throw error
  }
}
