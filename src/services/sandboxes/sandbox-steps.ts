/**
 * The set-up of a sandbox as a list, read forwards to set up and backwards to release.
 *
 * A release works from the record alone, is idempotent, and finds nothing to do where its acquire never ran:
 * deletion, roll-back and start-up reconciliation all read the same list.
 */
import { chmod, copyFile, mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { BerthError } from '../../errors.ts'
import type { CgroupManager } from '../../host/cgroup.ts'
import { signalNumber } from '../../host/command.ts'
import { readContainerPid, readExitCode, readMonitorPid } from '../../host/conmon.ts'
import { createDiskImage, mountDiskImage, mountOverlay, unmount } from '../../host/mount.ts'
import { buildSpec } from '../../host/oci-spec.ts'
import type { OciRuntime } from '../../host/oci-runtime.ts'
import { isAlive, signalProcess, type ProcessIdentity } from '../../host/process.ts'
import { pollUntil } from '../../lib/poll.ts'
import type { ImageManager, PreparedImage, PrepareRootfsOptions } from '../images/image-manager.ts'
import { closedNetwork, type NetworkManager } from '../network/network-manager.ts'
import type { HostPlaces, SandboxPlaces } from './sandbox-places.ts'
import type { SandboxRecord } from './sandbox-record.ts'
import { writeNames, writeSeed } from './seed-layer.ts'

export interface SandboxStep {
  name: string
  /** sandbox: kept until deletion. run: kept while a container exists, released when it has ended. */
  scope: 'sandbox' | 'run'
  deadlineMs: number
  /** May add to the record what it learns. */
  acquire: (record: SandboxRecord, signal: AbortSignal, request: SetUpRequest) => Promise<void>
  release: (record: SandboxRecord) => Promise<void>
}

/** What a request says about its set-up that no record keeps. */
export interface SetUpRequest extends Pick<PrepareRootfsOptions, 'pull' | 'credentials'> {
  /** Done when nothing is left but to start the container. */
  beforeStart?: (() => Promise<void>) | undefined
}

export interface StepParts {
  places: HostPlaces
  images: Pick<ImageManager, 'prepareRootfs' | 'mountRootfs' | 'resolveUser' | 'release'>
  network: NetworkManager
  cgroups: CgroupManager
  runtimes: ReadonlyMap<string, OciRuntime>
}

const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const defaultWorkingDir = '/workspace'
const defaultUser = '1000:1000'

/** How long a killed container's monitor may take to write the exit code. */
const exitDeadlineMs = 10_000

export function sandboxSteps (parts: StepParts): SandboxStep[] {
  const { places, images, network, cgroups } = parts
  const placesOf = (record: SandboxRecord): SandboxPlaces => places.sandbox(record.id, record.resources.diskBytes !== undefined)
  return [
    {
      name: 'image',
      scope: 'sandbox',
      deadlineMs: 600_000,
      async acquire (record, signal, request) {
        const prepared = await images.prepareRootfs(record.image.reference, record.id, { ...request, signal })
        record.image = { reference: prepared.reference, ...(prepared.digest ? { digest: prepared.digest } : {}) }
        record.lowerDirs = [...prepared.lowerDirs]
        record.process = await resolveProcess(record, prepared, images)
      },
      release: record => images.release(record.id),
    },
    {
      name: 'files',
      scope: 'sandbox',
      deadlineMs: 30_000,
      acquire: record => writeSeed(record, placesOf(record).seedDir),
      // Removed with the sandbox's directory, which the manager does last.
      async release () {},
    },
    {
      // Before the rootfs, whose seed layer it completes.
      name: 'network',
      scope: 'run',
      deadlineMs: 30_000,
      async acquire (record, signal) {
        record.heldNetwork = await network.setup(record.id, record.network ?? closedNetwork, signal)
        await writeNames(record, placesOf(record).seedDir)
      },
      async release (record) {
        await network.tearDown(record.id)
        delete record.heldNetwork
      },
    },
    {
      name: 'disk',
      scope: 'run',
      deadlineMs: 60_000,
      async acquire (record) {
        const { diskBytes } = record.resources
        if (diskBytes === undefined) return
        const { diskImagePath, diskDir } = placesOf(record)
        await mkdir(diskDir, { recursive: true })
        if (!record.wasCreated) await createDiskImage(diskImagePath, diskBytes)
        await mountDiskImage(diskImagePath, diskDir)
      },
      async release (record) {
        if (record.resources.diskBytes !== undefined) await unmount(placesOf(record).diskDir)
      },
    },
    {
      name: 'rootfs',
      scope: 'run',
      deadlineMs: 30_000,
      async acquire (record, signal) {
        const { upperDir, workDir, rootfsDir, seedDir } = placesOf(record)
        // Mounts of layers do not outlive the host, nor the image server that they may need.
        const mounted = record.image.digest === undefined ? undefined : await images.mountRootfs(record.image.digest, { signal })
        if (mounted) record.lowerDirs = mounted
        for (const dir of [upperDir, workDir, rootfsDir]) await mkdir(dir, { recursive: true, mode: 0o755 })
        mountOverlay({ lowerDirs: [seedDir, ...(record.lowerDirs ?? [])], upperDir, workDir, target: rootfsDir })
      },
      release: record => unmount(placesOf(record).rootfsDir),
    },
    {
      name: 'cgroup',
      scope: 'run',
      deadlineMs: 30_000,
      async acquire (record) {
        const limits = cgroupLimits(record, runtimeOf(parts, record))
        await cgroups.create(record.id, { cpuMillis: record.resources.cpuMillis, memoryBytes: limits.cgroupMemoryBytes, pids: limits.cgroupPids })
      },
      release: record => cgroups.remove(record.id),
    },
    {
      name: 'bundle',
      scope: 'run',
      deadlineMs: 30_000,
      async acquire (record) {
        const { bundleDir, exitDir, runDir } = placesOf(record)
        await Promise.all([mkdir(bundleDir, { recursive: true }), mkdir(exitDir, { recursive: true }), mkdir(runDir, { recursive: true })])
        await rm(join(exitDir, record.id), { force: true })
        await writeFile(join(bundleDir, 'config.json'), JSON.stringify(specOf(record, parts, placesOf(record))), { mode: 0o600 })
      },
      async release (record) {
        const { bundleDir, runDir } = placesOf(record)
        await rm(bundleDir, { recursive: true, force: true })
        await rm(runDir, { recursive: true, force: true })
      },
    },
    {
      name: 'container',
      scope: 'run',
      deadlineMs: 60_000,
      async acquire (record, signal, { beforeStart }) {
        const runtime = runtimeOf(parts, record)
        await beforeStart?.()
        const make = record.isStarting ? runtime.run.bind(runtime) : runtime.create.bind(runtime)
        const { monitor } = await make(places.container(record), cgroups.procsFiles(record.id), signal)
        record.monitor = monitor
      },
      release: record => releaseContainer(record, parts),
    },
  ]
}

/**
 * Ends whatever is left of a container: its processes, its monitor, the runtime's state.
 * A container that ended by itself costs one call of the runtime.
 */
async function releaseContainer (record: SandboxRecord, parts: StepParts): Promise<void> {
  const runtime = runtimeOf(parts, record)
  const places = parts.places.container(record)
  const monitor = record.monitor ?? await readMonitorPid(places.runDir)
  const hasEnded = async () => await readExitCode(places.exitDir, record.id) !== undefined || !(monitor && isAlive(monitor))
  // Also where the monitor is gone: one that was killed in the middle of a create leaves a runtime at work in the cgroup.
  await parts.cgroups.killAll(record.id, await readContainerPid(places.runDir))
  await pollUntil(hasEnded, exitDeadlineMs)
  await runtime.delete(record.id)
  await endMonitor(monitor)
  delete record.monitor
}

async function endMonitor (monitor: ProcessIdentity | undefined): Promise<void> {
  if (!monitor || await pollUntil(async () => !isAlive(monitor), 2000)) return
  signalProcess(monitor, 'SIGKILL')
}

function runtimeOf (parts: StepParts, record: SandboxRecord): OciRuntime {
  const runtime = parts.runtimes.get(record.runtime)
  if (!runtime) throw new BerthError('unavailable', 'runtime_missing', `the OCI runtime ${record.runtime} is not on this host; run: berth doctor`)
  return runtime
}

function cgroupLimits (record: SandboxRecord, runtime: OciRuntime): { cgroupPids: number, cgroupMemoryBytes: number } {
  const { overhead } = runtime.profile
  return {
    cgroupPids: record.resources.pids * overhead.pidsPerPid + overhead.pids,
    cgroupMemoryBytes: record.resources.memoryBytes + overhead.memoryBytes,
  }
}

function specOf (record: SandboxRecord, parts: StepParts, places: SandboxPlaces): Record<string, unknown> {
  const process = record.process
  if (!process) throw new Error('the image step has not run')
  const runtime = runtimeOf(parts, record)
  return buildSpec({
    id: record.id,
    argv: process.argv,
    env: process.env,
    cwd: process.cwd,
    user: process,
    hostname: record.hostname,
    rootfsDir: places.rootfsDir,
    initDir: parts.places.initDir,
    cgroupPath: parts.cgroups.ociPath(record.id),
    ...(record.heldNetwork ? { netnsPath: record.heldNetwork.netnsPath } : {}),
    limits: { ...record.resources, ...cgroupLimits(record, runtime) },
    hasSeccomp: runtime.profile.sharesHostKernel,
  })
}

/** What runs: the request over the image's configuration, as Docker merges them. */
async function resolveProcess (record: SandboxRecord, prepared: PreparedImage, images: StepParts['images']): Promise<NonNullable<SandboxRecord['process']>> {
  const { config } = prepared
  const { request } = record
  const imageArgv = [...(config.entrypoint ?? []), ...(config.cmd ?? [])]
  const argv = request.entrypoint ?? (imageArgv.length > 0 ? imageArgv : undefined)
  const userName = request.user ?? (config.user || defaultUser)
  const user = await images.resolveUser(prepared, userName)
  const cwd = request.workingDir ?? (config.workingDir || defaultWorkingDir)
  const stopSignal = config.stopSignal === undefined ? undefined : signalNumber(config.stopSignal)
  return {
    ...(argv ? { argv } : {}),
    env: { PATH: defaultPath, HOME: user.home ?? '/', HOSTNAME: record.hostname, ...config.env, ...request.env },
    cwd,
    user: userName,
    uid: user.uid,
    gid: user.gid,
    additionalGids: [...user.additionalGids],
    ...(stopSignal === undefined ? {} : { stopSignal }),
  }
}

/** Puts the inits and the helper programs where every sandbox sees them, read-only. Replaced by rename: a running program is never overwritten. */
export async function installInit (initDir: string, { init, idle, busybox, files }: { init: string, idle: string, busybox: string, files: string }): Promise<void> {
  await mkdir(initDir, { recursive: true, mode: 0o755 })
  for (const [name, source] of Object.entries({ init, idle, busybox, files })) {
    const temporary = join(initDir, `.${name}.tmp`)
    await copyFile(source, temporary)
    await chmod(temporary, 0o755)
    await rename(temporary, join(initDir, name))
  }
}
