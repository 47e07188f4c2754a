/** Everything an OciRuntime needs to be called directly, without a daemon: directories, a rootfs, cgroups, bundles. */
import assert from 'node:assert/strict'
import { chmod, chown, copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { CgroupManager, type CgroupLimits } from '../../src/host/cgroup.ts'
import { readExitCode } from '../../src/host/conmon.ts'
import { CommandRuntime, runtimeProfiles, type ContainerPlaces, type ContainerStatus, type ExecPlaces, type OciRuntime } from '../../src/host/oci-runtime.ts'
import { buildProcess, buildSpec, initMountPoint, type OciProcess, type ProcessRequest } from '../../src/host/oci-spec.ts'
import { findProgram } from '../../src/host/command.ts'
import { discoverPrograms } from '../../src/host/programs.ts'
import { randomId } from '../../src/lib/id.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { FakeRuntime } from '../support/fake-runtime.ts'
import { findLeftovers } from '../support/leftovers.ts'

/** What a rig needs of node:test's context. */
export interface Teardown {
  after: (release: () => Promise<void>) => void
}

export interface RuntimeRig {
  runtime: OciRuntime
  /** Writes a bundle and creates its container; without argv it idles under init. Ended and deleted with the test. */
  create: (argv?: readonly string[]) => Promise<ContainerPlaces>
  /** The same, and starts it at once. */
  run: (argv?: readonly string[]) => Promise<ContainerPlaces>
}

const user = { uid: 1000, gid: 1000, additionalGids: [] }
const env = { PATH: '/bin', HOME: '/workspace' }
const pids = 64
const memoryBytes = 256 * 1024 ** 2
const applets = ['sh', 'cat', 'echo', 'sleep', 'kill', 'true', 'false']

/** A rig over the fake. */
export async function buildFakeRig (t: Teardown): Promise<RuntimeRig> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-rig-'))
  const runtime = new FakeRuntime()
  t.after(async () => {
    await runtime.close()
    await rm(dir, { recursive: true })
  })
  const make = (verb: 'create' | 'run') => async (argv?: readonly string[]) => {
    const places = await makePlaces(dir)
    await writeSpec(places, { argv, rootfsDir: join(dir, 'rootfs'), initDir: join(dir, 'init'), cgroupPath: '/none', profile: runtime.profile })
    await runtime[verb](places, [])
    return places
  }
  return { runtime, create: make('create'), run: make('run') }
}

/** A rig over a program of this host. At the end nothing of it may be left. */
export async function buildProgramRig (t: Teardown, name: 'runsc' | 'runc'): Promise<RuntimeRig> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-rig-'))
  const hostId = randomId('hst')
  const programs = discoverPrograms()
  const profile = runtimeProfiles[name]
  const path = findProgram(name)
  assert.ok(profile && path, `${name} is installed`)
  const cgroups = await CgroupManager.detect(`/berth/${hostId}`)
  await cgroups.open()
  const joinCgroupPath = fileURLToPath(new URL('../../libexec/join-cgroup', import.meta.url))
  const withoutNetSysctlsPath = fileURLToPath(new URL('../../libexec/without-net-sysctls', import.meta.url))
  const runtime = new CommandRuntime({ profile, path, root: join(dir, 'root'), conmonPath: programs.conmon, joinCgroupPath, startPrefix: name === 'runsc' ? [withoutNetSysctlsPath] : [] })
  const made: ContainerPlaces[] = []
  t.after(async () => {
    const ends = await Promise.allSettled(made.map(places => end(runtime, places)))
    for (const places of made) await cgroups.remove(places.id)
    assert.deepEqual(ends.filter(({ status }) => status === 'rejected'), [], 'each container can be ended')
    await cgroups.close()
    // The monitors leave a moment after the exit codes that they wrote.
    await pollUntil(async () => (await findLeftovers({ dir, hostId })).length === 0, 10_000)
    assert.deepEqual(await findLeftovers({ dir, hostId }), [], 'nothing is left on the host')
    await rm(dir, { recursive: true })
  })
  const rootfsDir = await makeRootfs(join(dir, 'rootfs'), programs.busybox)
  const initDir = join(dir, 'init')
  await mkdir(initDir)
  for (const program of ['init', 'idle', 'busybox'] as const) await copyFile(programs[program], join(initDir, program))
  const make = (verb: 'create' | 'run') => async (argv?: readonly string[]) => {
    const places = await makePlaces(dir)
    await cgroups.create(places.id, cgroupLimits(profile))
    made.push(places)
    await writeSpec(places, { argv, rootfsDir, initDir, cgroupPath: cgroups.ociPath(places.id), profile })
    await runtime[verb](places, cgroups.procsFiles(places.id))
    return places
  }
  return { runtime, create: make('create'), run: make('run') }
}

async function makePlaces (dir: string): Promise<ContainerPlaces> {
  const id = randomId('sbx')
  const own = join(dir, id)
  const places = { id, bundleDir: join(own, 'bundle'), runDir: join(own, 'run'), exitDir: join(own, 'exit'), logPath: join(own, 'log') }
  for (const path of [places.bundleDir, places.runDir, places.exitDir]) await mkdir(path, { recursive: true })
  return places
}

interface BundleOptions {
  argv: readonly string[] | undefined
  rootfsDir: string
  initDir: string
  cgroupPath: string
  profile: OciRuntime['profile']
}

async function writeSpec (places: ContainerPlaces, options: BundleOptions): Promise<void> {
  const { argv, rootfsDir, initDir, cgroupPath, profile } = options
  const cgroup = cgroupLimits(profile)
  const spec = buildSpec({
    id: places.id,
    argv,
    env,
    cwd: '/workspace',
    user,
    hostname: 'rig',
    rootfsDir,
    initDir,
    cgroupPath,
    limits: { cpuMillis: 2000, memoryBytes, pids, cgroupPids: cgroup.pids, cgroupMemoryBytes: cgroup.memoryBytes },
    hasSeccomp: profile.sharesHostKernel,
  })
  await writeFile(join(places.bundleDir, 'config.json'), JSON.stringify(spec))
}

/** The program's limits with what its runtime needs on top. */
function cgroupLimits ({ overhead }: OciRuntime['profile']): CgroupLimits {
  return { cpuMillis: 2000, memoryBytes: memoryBytes + overhead.memoryBytes, pids: pids * overhead.pidsPerPid + overhead.pids }
}

/** The smallest root file system: busybox with its applets, and the mount points. */
async function makeRootfs (rootfsDir: string, busybox: string): Promise<string> {
  for (const path of ['bin', 'etc', 'tmp', 'workspace', 'proc', 'sys', 'dev', initMountPoint]) await mkdir(join(rootfsDir, path), { recursive: true })
  await copyFile(busybox, join(rootfsDir, 'bin/busybox'))
  for (const applet of applets) await symlink('busybox', join(rootfsDir, 'bin', applet))
  await writeFile(join(rootfsDir, 'etc/plain'), 'no program\n')
  await chmod(join(rootfsDir, 'tmp'), 0o1777)
  await chown(join(rootfsDir, 'workspace'), user.uid, user.gid)
  return rootfsDir
}

async function end (runtime: OciRuntime, places: ContainerPlaces): Promise<void> {
  if (await runtime.status(places.id) === 'paused') await runtime.resume(places.id)
  await runtime.kill(places.id, 'KILL', { all: true })
  await waitForStatus(runtime, places.id, ['stopped', undefined])
  await runtime.delete(places.id)
}

/** Generous: shared machines stall. */
const deadlineMs = 60_000

export async function waitForStatus (runtime: OciRuntime, id: string, wanted: ReadonlyArray<ContainerStatus | undefined>): Promise<void> {
  assert.ok(await pollUntil(async () => wanted.includes(await runtime.status(id)), deadlineMs), `the container becomes ${wanted.join(' or ')}`)
}

/** The exit code that the monitor left. */
export async function waitForExit (places: { exitDir: string }, id: string): Promise<number> {
  let exitCode: number | undefined
  await pollUntil(async () => (exitCode = await readExitCode(places.exitDir, id)) !== undefined, deadlineMs)
  assert.notEqual(exitCode, undefined, 'an exit code was written')
  return exitCode ?? -1
}

/** The lines of one stream of a log in the CRI format. */
export async function readLog (path: string, stream: 'stdout' | 'stderr'): Promise<string[]> {
  const lines = (await readFile(path, 'utf8').catch(() => '')).split('\n').filter(Boolean)
  return lines.flatMap(line => {
    const match = /^\d{4}-\d\d-\d\dT\S+ (stdout|stderr) ([FP]) (.*)$/.exec(line)
    assert.ok(match, `a line of the CRI format: ${line}`)
    return match[1] === stream ? [match[3] ?? ''] : []
  })
}

export async function waitForLine (path: string, line: string): Promise<void> {
  assert.ok(await pollUntil(async () => (await readLog(path, 'stdout')).includes(line), deadlineMs), `the log has the line ${line}`)
}

/** Directories for an exec, made. */
export async function placeExec (container: ContainerPlaces): Promise<ExecPlaces> {
  const execId = randomId('exe')
  const dir = join(container.bundleDir, '..', 'execs', execId)
  const places = { execId, containerId: container.id, dir, runDir: join(container.runDir, execId), exitDir: join(dir, 'exit'), logPath: join(dir, 'log') }
  for (const path of [places.runDir, places.exitDir]) await mkdir(path, { recursive: true })
  return places
}

export function processOf (argv: readonly string[], request: Partial<ProcessRequest> = {}): OciProcess {
  return buildProcess({ argv, env, cwd: '/workspace', user, pids, ...request })
}
