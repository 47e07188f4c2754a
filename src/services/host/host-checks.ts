/**
 * What a host needs to run Berth, as a table: for each thing why it is needed, how to see whether it is there and good
 * enough, and the command that mends it.
 */
import { toBerthError } from '../../errors.ts'
import { apt, broken, isAtLeast, missing, ok, parseVersion, probeProgram, thisHost, tooOld, type HostCheckResult, type HostCheckRow, type HostView } from './host-probe.ts'
import { networkChecks } from './network-checks.ts'

export type { HostCheckResult } from './host-probe.ts'

export interface HostCheck {
  name: string
  why: string
  /** Whether Berth cannot run a sandbox at all without it. */
  required: boolean
  /** The command that mends it. */
  fix: string
  /** Looks at the host. Never throws. */
  probe (): Promise<HostCheckResult>
}

/** The first runsc whose systrap platform runs the file calls of current coreutils. */
const minimumRunscDate = 20240701
const minimumConmon = [2, 1] as const
// gVisor's own minimum is 4.14.77.
const minimumKernel = [4, 15] as const
const minimumNode = [24, 0] as const
// The first that mounts EROFS from a file without a loop device.
const minimumErofsKernel = [6, 12] as const
// The first erofs-utils and gztool that image layers are made with.
const minimumImageTool = [1, 8] as const
const neededControllers = ['cpu', 'memory', 'pids'] as const

/** The build date (YYYYMMDD) in the output of `runsc --version`: `release-20240729.0` or Debian's `0.0~20240729.0`. */
export function parseRunscDate (output: string): number | undefined {
  const match = /\b(?:release-|0\.0~)?(20\d{6})(?:\.\d+)?/.exec(output)
  return match === null ? undefined : Number(match[1])
}

/**
 * Where each controller that Berth limits with can be used: `v2` in the unified hierarchy, `v1` in one of its own.
 *
 * @param unifiedControllers text of `cgroup.controllers` at the root of the unified hierarchy
 * @param mountInfo text of /proc/self/mountinfo
 */
export function findControllers (unifiedControllers: string | undefined, mountInfo: string): Map<string, 'v1' | 'v2'> {
  const found = new Map<string, 'v1' | 'v2'>()
  const unified = new Set(unifiedControllers?.trim().split(/\s+/))
  const legacy = new Set<string>()
  for (const line of mountInfo.split('\n')) {
    // After the separator: file system type, source, super options (a v1 hierarchy names its controllers there).
    const [type, , options] = line.split(' - ')[1]?.split(' ') ?? []
    if (type === 'cgroup') for (const option of options?.split(',') ?? []) legacy.add(option)
  }
  for (const controller of neededControllers) {
    if (unified.has(controller)) found.set(controller, 'v2')
    else if (legacy.has(controller)) found.set(controller, 'v1')
  }
  return found
}

async function probeRunsc (host: HostView): Promise<HostCheckResult> {
  const result = await host.run('runsc', ['--version'])
  if (result === undefined) return missing('there is no program runsc on PATH')
  if (result.exitCode !== 0) return broken(`runsc --version ends with exit code ${result.exitCode}`)
  const date = parseRunscDate(result.stdout)
  if (date === undefined) return broken('runsc does not say its version')
  if (date < minimumRunscDate) return tooOld(String(date), `${minimumRunscDate} or later is needed`)
  return ok(String(date))
}

async function probeCgroups (host: HostView): Promise<HostCheckResult> {
  const mountInfo = await host.read('/proc/self/mountinfo') ?? ''
  const unified = await host.read('/sys/fs/cgroup/cgroup.controllers') ?? await host.read('/sys/fs/cgroup/unified/cgroup.controllers')
  const found = findControllers(unified, mountInfo)
  const absent = neededControllers.filter((controller) => !found.has(controller))
  if (absent.length > 0) return missing(`the kernel offers no cgroup controller ${absent.join(', ')}`)
  return ok([...new Set(found.values())].sort().join('+'))
}

async function probeBusybox (host: HostView): Promise<HostCheckResult> {
  const result = await host.run('busybox', ['sh', '-c', 'busybox | busybox head -n 1'])
  if (result === undefined) return missing('there is no program busybox on PATH')
  if (result.exitCode !== 0) return broken(`busybox ends with exit code ${result.exitCode}`)
  // ldd fails for a static program, and is itself absent from some hosts.
  const libraries = await host.run('ldd', ['/bin/busybox'])
  if (libraries?.exitCode === 0) return broken('/bin/busybox is dynamically linked, so the base image could not run it')
  return ok(parseVersion(result.stdout)?.join('.'))
}

async function probeOverlay (host: HostView): Promise<HostCheckResult> {
  const filesystems = await host.read('/proc/filesystems') ?? ''
  return /\boverlay$/m.test(filesystems) ? ok() : missing('the kernel has no overlay file system (its module may not be loaded)')
}

async function probeLayerMount (host: HostView): Promise<HostCheckResult> {
  if (!isAtLeast(parseVersion(host.kernelRelease) ?? [], minimumErofsKernel)) return tooOld(host.kernelRelease, `a kernel of ${minimumErofsKernel.join('.')} or later is needed`)
  if (host.uid !== 0) return broken('only root can try it')
  const result = await host.tryErofs()
  return result.ok ? ok() : broken(result.why)
}

async function probeFuse (host: HostView): Promise<HostCheckResult> {
  if (!await host.exists('/dev/fuse')) return missing('there is no /dev/fuse')
  if (host.uid !== 0) return broken('only root can try it')
  return await host.tryFuse() ? ok() : broken('a FUSE file system cannot be mounted here with a kernel that lets its server be replaced (6.9 or later)')
}

async function probeDevice (host: HostView, path: string): Promise<HostCheckResult> {
  return await host.exists(path) ? ok() : missing(`there is no ${path}`)
}

async function probeVersion (have: string, minimum: readonly number[]): Promise<HostCheckResult> {
  return isAtLeast(parseVersion(have) ?? [], minimum) ? ok(have) : tooOld(have, `${minimum.join('.')} or later is needed`)
}

async function probeRoot (host: HostView): Promise<HostCheckResult> {
  return host.uid === 0 ? ok() : broken(`this runs as uid ${host.uid}; mounts, cgroups and gVisor need root`)
}

/** The table of what a host needs, in the order in which to mend it. */
export function createHostChecks (host: HostView = thisHost): readonly HostCheck[] {
  const rows: HostCheckRow[] = [
    ['linux', true, 'the kernel under every sandbox', 'boot a kernel of 4.15 or later', () => probeVersion(host.kernelRelease, minimumKernel)],
    ['root', true, 'mounts, cgroups and namespaces are made by root', 'sudo bin/berth doctor', () => probeRoot(host)],
    ['node', true, 'runs the daemon', 'npm run setup', () => probeVersion(host.nodeVersion, minimumNode)],
    ['cgroups', true, 'hold a sandbox to its memory, CPU and processes', 'boot with cgroup_enable=memory', () => probeCgroups(host)],
    ['overlayfs', true, 'gives each sandbox its own layer over a shared image', 'sudo modprobe overlay', () => probeOverlay(host)],
    ['runsc', true, 'gVisor, the runtime of every sandbox', 'npm run setup', () => probeRunsc(host)],
    ['conmon', true, 'keeps logs and exit codes while the daemon is away', apt('conmon'), () => probeProgram(host, 'conmon', { minimum: minimumConmon })],
    // The host's own tini is dynamically linked: it cannot start in an image without its libraries.
    ['tini-static', true, 'pid 1 above the program of a sandbox', apt('tini'), () => probeProgram(host, 'tini-static')],
    ['catatonit', true, 'pid 1 of a sandbox that idles', apt('catatonit'), () => probeProgram(host, 'catatonit')],
    ['busybox', true, 'the one program of the base image', apt('busybox-static'), () => probeBusybox(host)],
    ['runc', false, 'the runtime of sandboxes that ask for it', apt('runc'), () => probeProgram(host, 'runc')],
    ['umoci', false, 'unpacks images that cannot be mounted', apt('umoci'), () => probeProgram(host, 'umoci')],
    ['mkfs.ext4', false, 'makes the disk of a sandbox with a disk limit', apt('e2fsprogs'), () => probeProgram(host, 'mkfs.ext4', { args: ['-V'] })],
    ['loop', false, 'attaches the disk of a sandbox with a disk limit', 'sudo modprobe loop', () => probeDevice(host, '/dev/loop-control')],
    ['mkfs.erofs', false, 'makes images mountable layer by layer; without it they are unpacked', 'npm run setup', () => probeProgram(host, 'mkfs.erofs', { minimum: minimumImageTool })],
    ['gztool', false, 'makes images loadable piece by piece; without it they are unpacked', 'npm run setup', () => probeProgram(host, 'gztool', { args: ['-h'], minimum: minimumImageTool })],
    ['erofs', false, 'mounts the layers of images; without it images are unpacked', 'sudo modprobe erofs, on a kernel of 6.12 or later', () => probeLayerMount(host)],
    ['fuse', false, 'serves images that load lazily; without it they are fetched whole before a sandbox starts', 'sudo modprobe fuse', () => probeFuse(host)],
    ...networkChecks(host),
  ]
  return rows.map(([name, required, why, fix, probe]) => ({
    name,
    required,
    why,
    fix,
    probe: () => probe().catch((error: unknown): HostCheckResult => broken(`looking failed: ${toBerthError(error).message}`)),
  }))
}
