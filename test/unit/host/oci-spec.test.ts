import assert from 'node:assert/strict'
import { test } from 'node:test'
import { buildProcess, buildSpec, initArgv, type OciProcess, type SpecRequest } from '../../../src/host/oci-spec.ts'

const MiB = 1024 ** 2
const agent = { uid: 1000, gid: 1000, additionalGids: [] }
const root = { uid: 0, gid: 0, additionalGids: [] }

const request: SpecRequest = {
  id: 'sbx_1',
  argv: ['echo', 'hi'],
  env: { PATH: '/bin' },
  cwd: '/workspace',
  user: agent,
  hostname: 'box',
  rootfsDir: '/state/rootfs',
  initDir: '/run/init',
  cgroupPath: '/berth/hst_1/sbx_1',
  limits: { cpuMillis: 1500, memoryBytes: 256 * MiB, pids: 64, cgroupPids: 448, cgroupMemoryBytes: 320 * MiB },
  hasSeccomp: true,
}

interface Spec {
  ociVersion: string
  process: OciProcess
  root: unknown
  hostname: string
  mounts: Array<{ destination: string, type: string, source: string, options: string[] }>
  linux: {
    cgroupsPath: string
    namespaces: Array<{ type: string, path?: string }>
    resources: Record<string, unknown>
    rootfsPropagation: string
    maskedPaths: string[]
    readonlyPaths: string[]
    seccomp?: { defaultAction: string, syscalls: Array<{ names: string[], action: string, errnoRet: number, args?: Array<{ value: number, op: string }> }> }
  }
  annotations: Record<string, string>
  hooks?: unknown
}

function build (overrides: Partial<SpecRequest> = {}): Spec {
  return buildSpec({ ...request, ...overrides }) as unknown as Spec
}

test('a spec has exactly the parts that were reviewed', () => {
  const spec = build()
  assert.deepEqual(Object.keys(spec).sort(), ['annotations', 'hostname', 'linux', 'mounts', 'ociVersion', 'process', 'root'])
  assert.deepEqual(Object.keys(spec.linux).sort(), ['cgroupsPath', 'maskedPaths', 'namespaces', 'readonlyPaths', 'resources', 'rootfsPropagation', 'seccomp'])
  assert.equal(spec.hooks, undefined, 'nothing runs on the host')
  assert.deepEqual(spec.root, { path: '/state/rootfs', readonly: false })
  assert.equal(spec.hostname, 'box')
  assert.deepEqual(spec.annotations, { 'io.berth.sandbox': 'sbx_1' })
})

test('the process runs as uid 1000 with no capability and no way to gain one', () => {
  const { process } = build()
  assert.deepEqual(process, {
    terminal: false,
    user: { uid: 1000, gid: 1000, additionalGids: [], umask: 0o022 },
    args: ['/.berth/init', '--', 'echo', 'hi'],
    env: ['PATH=/bin'],
    cwd: '/workspace',
    capabilities: { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] },
    rlimits: [
      { type: 'RLIMIT_NPROC', soft: 64, hard: 64 },
      { type: 'RLIMIT_NOFILE', soft: 16_384, hard: 16_384 },
      { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
    ],
    noNewPrivileges: true,
    oomScoreAdj: 500,
  })
})

test('root inside has the small set of capabilities, and hands none of them on', () => {
  const { capabilities, noNewPrivileges } = build({ user: root }).process
  const small = ['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_FSETID', 'CAP_KILL', 'CAP_NET_BIND_SERVICE', 'CAP_SETGID', 'CAP_SETUID']
  assert.deepEqual(capabilities, { bounding: small, effective: small, permitted: small, inheritable: [], ambient: [] })
  assert.equal(noNewPrivileges, true)
})

test('an exec is held exactly like the main process', () => {
  const { oomScoreAdj, ...main } = build().process
  const exec = buildProcess({ argv: initArgv(['echo', 'hi']), env: { PATH: '/bin' }, cwd: '/workspace', user: agent, pids: 64 })
  assert.deepEqual(exec, main)
  assert.equal(oomScoreAdj, 500, 'which a process inherits from the container')
})

test('each namespace is the sandbox\'s own: none is entered by path', () => {
  assert.deepEqual(build().linux.namespaces, [{ type: 'pid' }, { type: 'network' }, { type: 'ipc' }, { type: 'uts' }, { type: 'mount' }, { type: 'cgroup' }])
})

test('the only thing mounted from the host is the init, read-only', () => {
  const { mounts, linux } = build()
  assert.deepEqual(mounts.filter(({ type }) => type === 'bind'), [
    { destination: '/.berth', type: 'bind', source: '/run/init', options: ['bind', 'ro', 'nosuid', 'nodev'] },
  ])
  assert.deepEqual(mounts.map(({ destination }) => destination), ['/proc', '/dev', '/dev/pts', '/dev/shm', '/sys', '/.berth'])
  for (const { destination, options } of mounts) assert.ok(options.includes('nosuid'), `${destination} gives no set-uid programs`)
  assert.ok(mounts.find(({ destination }) => destination === '/sys')?.options.includes('ro'))
  assert.equal(linux.rootfsPropagation, 'private')
})

test('what tells about the host is masked, and what steers it is read-only', () => {
  const { maskedPaths, readonlyPaths } = build().linux
  assert.deepEqual(maskedPaths, [
    '/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/sched_debug', '/proc/scsi',
    '/proc/timer_list', '/proc/timer_stats', '/sys/devices/virtual/powercap', '/sys/firmware',
  ])
  assert.deepEqual(readonlyPaths, ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'])
})

test('limits are in the spec as cgroups count them, and devices are denied', () => {
  const { resources, cgroupsPath } = build().linux
  assert.equal(cgroupsPath, '/berth/hst_1/sbx_1')
  assert.deepEqual(resources, {
    devices: [{ allow: false, access: 'rwm' }],
    memory: { limit: 320 * MiB },
    cpu: { quota: 150_000, period: 100_000 },
    pids: { limit: 448 },
  })
  const least = build({ limits: { ...request.limits, cpuMillis: 1 } }).linux.resources
  assert.deepEqual(least['cpu'], { quota: 1000, period: 100_000 }, 'the kernel takes no less than a millisecond')
})

test('system calls are filtered only where the sandbox shares the host\'s kernel', () => {
  assert.equal(build({ hasSeccomp: false }).linux.seccomp, undefined)
  const seccomp = build().linux.seccomp
  assert.ok(seccomp)
  const denied = seccomp.syscalls.find(({ names }) => names.includes('mount'))
  for (const name of ['unshare', 'setns', 'ptrace', 'bpf', 'keyctl', 'io_uring_setup', 'userfaultfd', 'open_by_handle_at', 'perf_event_open', 'kexec_load']) {
    assert.ok(denied?.names.includes(name), `${name} is refused`)
  }
  assert.deepEqual([denied?.action, denied?.errnoRet], ['SCMP_ACT_ERRNO', 1])
})

test('no new namespace comes from clone, whose flags hide in clone3', () => {
  const syscalls = build().linux.seccomp?.syscalls ?? []
  const flags = syscalls.filter(({ names }) => names.includes('clone')).flatMap(({ args = [] }) => args.map(({ value }) => value))
  const CLONE_NEWUSER = 0x10000000
  assert.ok(flags.includes(CLONE_NEWUSER))
  assert.equal(flags.length, 7, 'one for each kind of namespace')
  assert.equal(syscalls.find(({ names }) => names.includes('clone3'))?.errnoRet, 38, 'ENOSYS: libc falls back to clone')
})

test('the environment is what was given, in its order, unchanged', () => {
  const before = { ...process.env }
  process.env['BERTH_TEST_SECRET'] = 'of the host'
  try {
    const env = { Z: '1', A: 'a=b', LINES: 'one\ntwo', EMPTY: '', NAME: 'ünï ☃' }
    assert.deepEqual(build({ env }).process.env, ['Z=1', 'A=a=b', 'LINES=one\ntwo', 'EMPTY=', 'NAME=ünï ☃'])
    assert.deepEqual(build({ env: {} }).process.env, [])
  } finally {
    process.env = before
  }
})

test('without a program the init waits by itself', () => {
  assert.deepEqual(build({ argv: undefined }).process.args, ['/.berth/idle', '-P'])
  assert.deepEqual(initArgv(['--help']), ['/.berth/init', '--', '--help'], 'a program that looks like an option is none')
})

test('a spec shares nothing with the next', () => {
  const argv = ['a']
  const user = { uid: 1000, gid: 1000, additionalGids: [7] }
  const made = buildProcess({ argv, env: {}, cwd: '/', user, pids: 1 })
  made.args.push('b')
  made.user.additionalGids.push(8)
  assert.deepEqual([argv, user.additionalGids], [['a'], [7]])
})
