/**
 * The OCI configuration of a sandbox (opencontainers/runtime-spec, config.md and config-linux.md),
 * as a pure function of what was asked. Every line of it is part of the security boundary: see docs/security.md.
 */

export interface OciUser {
  uid: number
  gid: number
  additionalGids: readonly number[]
}

export interface OciProcess {
  terminal: boolean
  /** Of its terminal, in characters. */
  consoleSize?: { height: number, width: number }
  user: { uid: number, gid: number, additionalGids: number[], umask: number }
  args: string[]
  env: string[]
  cwd: string
  capabilities: Record<'bounding' | 'effective' | 'permitted' | 'inheritable' | 'ambient', string[]>
  rlimits: Array<{ type: string, soft: number, hard: number }>
  noNewPrivileges: boolean
  oomScoreAdj?: number
}

export interface ProcessRequest {
  argv: readonly string[]
  env: Readonly<Record<string, string>>
  cwd: string
  user: OciUser
  /** Processes and threads that one user may have. */
  pids: number
}

export interface SpecRequest {
  id: string
  /** undefined: idle under init. */
  argv: readonly string[] | undefined
  env: Readonly<Record<string, string>>
  cwd: string
  user: OciUser
  hostname: string
  rootfsDir: string
  /** Host directory with `init`, `idle` and `busybox`, seen inside as /.berth, read-only. */
  initDir: string
  cgroupPath: string
  /** The network namespace it enters; without one it gets a new one that has nothing but its loopback. */
  netnsPath?: string
  limits: { cpuMillis: number, memoryBytes: number, pids: number, cgroupPids: number, cgroupMemoryBytes: number }
  /** Whether the runtime filters system calls by this file's list (a runtime that is a kernel of its own does not). */
  hasSeccomp: boolean
}

/** Where the host's init directory is seen inside. */
export const initMountPoint = '/.berth'

// What root inside may do with its own files and users. Nothing that reaches the kernel's configuration, devices or network.
const rootCapabilities = ['CAP_CHOWN', 'CAP_DAC_OVERRIDE', 'CAP_FOWNER', 'CAP_FSETID', 'CAP_KILL', 'CAP_NET_BIND_SERVICE', 'CAP_SETGID', 'CAP_SETUID']

const maskedPaths = [
  '/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/sched_debug', '/proc/scsi',
  '/proc/timer_list', '/proc/timer_stats', '/sys/devices/virtual/powercap', '/sys/firmware',
]
const readonlyPaths = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']

/**
 * System calls refused with EPERM where the sandbox shares the host's kernel: those that have been ways out of
 * containers and that programs of an unprivileged user do without. no_new_privs and the missing capabilities refuse the rest.
 */
const deniedSyscalls = [
  'acct', 'add_key', 'bpf', 'clock_adjtime', 'clock_settime', 'create_module', 'delete_module', 'fanotify_init', 'finit_module',
  'fsconfig', 'fsmount', 'fsopen', 'fspick', 'get_kernel_syms', 'init_module', 'io_uring_enter', 'io_uring_register', 'io_uring_setup',
  'ioperm', 'iopl', 'kcmp', 'kexec_file_load', 'kexec_load', 'keyctl', 'lookup_dcookie', 'mount', 'mount_setattr', 'move_mount',
  'move_pages', 'name_to_handle_at', 'nfsservctl', 'open_by_handle_at', 'open_tree', 'perf_event_open', 'personality', 'pivot_root',
  'process_vm_readv', 'process_vm_writev', 'ptrace', 'query_module', 'quotactl', 'quotactl_fd', 'reboot', 'request_key', 'setns',
  'settimeofday', 'stime', 'swapoff', 'swapon', 'sysfs', 'umount', 'umount2', 'unshare', 'uselib', 'userfaultfd', 'ustat', 'vhangup',
]

/** clone(2) flags that make namespaces (mount, cgroup, UTS, IPC, user, pid, network): a user namespace would give every capability back inside it. */
const namespaceCloneFlags = [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]

/** runc cannot raise a limit above its own without CAP_SYS_RESOURCE, and hosts that are containers often have 20 000. */
const maxOpenFiles = 16_384

/** The process part of a spec, for the main process and for execs alike. */
export function buildProcess (request: ProcessRequest): OciProcess {
  const { user, pids } = request
  const granted = user.uid === 0 ? rootCapabilities : []
  return {
    terminal: false,
    user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids], umask: 0o022 },
    args: [...request.argv],
    env: Object.entries(request.env).map(([name, value]) => `${name}=${value}`),
    cwd: request.cwd,
    capabilities: { bounding: granted, effective: granted, permitted: granted, inheritable: [], ambient: [] },
    rlimits: [
      { type: 'RLIMIT_NPROC', soft: pids, hard: pids },
      { type: 'RLIMIT_NOFILE', soft: maxOpenFiles, hard: maxOpenFiles },
      { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
    ],
    noNewPrivileges: true,
  }
}

/** The arguments of pid 1: the program under an init, or an init alone that reaps and waits. */
export function initArgv (argv: readonly string[] | undefined): string[] {
  return argv ? [`${initMountPoint}/init`, '--', ...argv] : [`${initMountPoint}/idle`, '-P']
}

export function buildSpec (request: SpecRequest): Record<string, unknown> {
  const { limits } = request
  const mainProcess = buildProcess({ argv: initArgv(request.argv), env: request.env, cwd: request.cwd, user: request.user, pids: limits.pids })
  return {
    ociVersion: '1.0.2',
    // The host's OOM killer shall take a sandbox before a service of the host.
    process: { ...mainProcess, oomScoreAdj: 500 },
    root: { path: request.rootfsDir, readonly: false },
    hostname: request.hostname,
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
      { destination: '/dev/pts', type: 'devpts', source: 'devpts', options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'] },
      { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
      { destination: initMountPoint, type: 'bind', source: request.initDir, options: ['bind', 'ro', 'nosuid', 'nodev'] },
    ],
    linux: {
      cgroupsPath: request.cgroupPath,
      namespaces: ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup'].map(type => type === 'network' && request.netnsPath !== undefined ? { type, path: request.netnsPath } : { type }),
      resources: {
        devices: [{ allow: false, access: 'rwm' }],
        memory: { limit: limits.cgroupMemoryBytes },
        cpu: { quota: Math.max(1000, limits.cpuMillis * 100), period: 100_000 },
        pids: { limit: limits.cgroupPids },
      },
      rootfsPropagation: 'private',
      maskedPaths,
      readonlyPaths,
      ...(request.hasSeccomp ? { seccomp: seccompProfile() } : {}),
    },
    annotations: { 'io.berth.sandbox': request.id },
  }
}

function seccompProfile (): Record<string, unknown> {
  return {
    defaultAction: 'SCMP_ACT_ALLOW',
    architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32', 'SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
    syscalls: [
      { names: deniedSyscalls, action: 'SCMP_ACT_ERRNO', errnoRet: 1 },
      ...namespaceCloneFlags.map(flag => ({
        names: ['clone'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: 1,
        args: [{ index: 0, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
      })),
      // clone3 hides its flags from the filter: ENOSYS (38) makes libc fall back to clone.
      { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: 38 },
    ],
  }
}
