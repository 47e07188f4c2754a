import { mkdir } from 'node:fs/promises'
import { constants } from 'node:os'
import { buildProcess, initMountPoint } from '../../host/oci-spec.ts'
import type { OciRuntime } from '../../host/oci-runtime.ts'
import type { HostPlaces } from './sandbox-places.ts'
import type { SandboxRecord } from './sandbox-record.ts'

// Waits until nothing is left but init and the helper itself.
const waitForAll = `while :; do set -- /proc/[0-9]*; [ $# -le 2 ] && exit 0; ${initMountPoint}/busybox sleep 0.05; done`

/**
 * Asks every process of a sandbox but its init to end, by the signal that its image wants for that (SIGTERM), once each. A helper on the read-only init mount does it from
 * inside: init would end at once and take the others with it. For a sandbox that idles, returns when all have ended.
 */
export async function askToEnd (record: SandboxRecord, runtime: OciRuntime, places: HostPlaces): Promise<void> {
  const isIdle = record.process?.argv === undefined
  const execPlaces = places.exec(record.id, 'terminator')
  const signal = record.process?.stopSignal ?? constants.signals.SIGTERM
  const signalAll = `kill -${signal} -1`
  const process = buildProcess({
    argv: [`${initMountPoint}/busybox`, 'sh', '-c', isIdle ? `${signalAll}; ${waitForAll}` : signalAll],
    env: {},
    cwd: '/',
    user: { uid: 0, gid: 0, additionalGids: [] },
    pids: record.resources.pids,
  })
  await mkdir(execPlaces.runDir, { recursive: true })
  const exitCode = await runtime.exec(execPlaces, process).then(async attached => {
    attached.child.stdout.resume()
    attached.child.stderr.resume()
    attached.child.stdin.end()
    return (await attached.ended).exitCode
  }).catch(() => undefined)
  // The helper cannot start where the sandbox has used up its processes or memory: then the runtime signals all, init too.
  if (exitCode !== 0) await runtime.kill(record.id, String(signal), { all: true })
}
