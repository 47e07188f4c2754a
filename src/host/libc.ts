/** The few libc calls that Node lacks. No pointer outlives its call. */
import { closeSync } from 'node:fs'
import { promisify } from 'node:util'
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const mountCall = libc.func('int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)')
const umountCall = libc.func('int umount2(const char *target, int flags)')
const flockCall = libc.func('int flock(int fd, int operation)')
const spawnCall = libc.func('int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)')
const actionsInitCall = libc.func('int posix_spawn_file_actions_init(void *actions)')
const actionsDestroyCall = libc.func('int posix_spawn_file_actions_destroy(void *actions)')
const addDup2Call = libc.func('int posix_spawn_file_actions_adddup2(void *actions, int fd, int newFd)')
const addOpenCall = libc.func('int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned int mode)')
const addCloseFromCall = libc.func('int posix_spawn_file_actions_addclosefrom_np(void *actions, int from)')
const addChdirCall = libc.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *path)')
const attributesInitCall = libc.func('int posix_spawnattr_init(void *attributes)')
const setFlagsCall = libc.func('int posix_spawnattr_setflags(void *attributes, short flags)')
const setSigdefaultCall = libc.func('int posix_spawnattr_setsigdefault(void *attributes, void *set)')
const setSigmaskCall = libc.func('int posix_spawnattr_setsigmask(void *attributes, void *set)')
const sigfillsetCall = libc.func('int sigfillset(void *set)')
const sigemptysetCall = libc.func('int sigemptyset(void *set)')
const waitpidCall = libc.func('int waitpid(int pid, _Out_ int *status, int options)')
const pipeCall = libc.func('int pipe2(int *fds, int flags)')
const pollCall = libc.func('int poll(void *fds, unsigned long count, int timeoutMs)')
const fcntlCall = libc.func('int fcntl(int fd, int command, ...)')
const getsockoptCall = libc.func('int getsockopt(int fd, int level, int option, void *value, void *length)')
const fsopenCall = libc.func('int fsopen(const char *type, unsigned int flags)')
const fsconfigCall = libc.func('int fsconfig(int fd, unsigned int command, const char *key, const char *value, int aux)')
const fsmountCall = libc.func('int fsmount(int fd, unsigned int flags, unsigned int attributes)')
const moveMountCall = libc.func('int move_mount(int fromFd, const char *from, int toFd, const char *to, unsigned int flags)')
const socketCall = libc.func('int socket(int domain, int type, int protocol)')
const setsockoptCall = libc.func('int setsockopt(int fd, int level, int option, const void *value, unsigned int length)')
const prctlCall = libc.func('int prctl(int option, unsigned long argument, unsigned long, unsigned long, unsigned long)')
const capsetCall = libc.func('int capset(void *header, void *data)')
const syscallCall = libc.func('long syscall(long number, ...)')
const indexToNameCall = libc.func('char *if_indextoname(unsigned int index, _Out_ void *name)')

// mount(2), flock(2), open(2), waitpid(2) and spawn.h, Linux ABI with glibc
export const MS_RDONLY = 1
export const MS_NOSUID = 2
export const MS_NODEV = 4
export const MS_NOEXEC = 8
export const MNT_FORCE = 1
export const MNT_DETACH = 2
export const UMOUNT_NOFOLLOW = 8
const LOCK_EX = 2
const LOCK_NB = 4
const O_CLOEXEC = 0o2000000
const O_RDWR = 2
const O_NONBLOCK = 0o4000
const F_SETFD = 2
const FD_CLOEXEC = 1
const F_GETFL = 3
const F_SETFL = 4
const POLLIN = 1
const F_SETPIPE_SZ = 1031
const WNOHANG = 1
// sys/mount.h: the mount calls that take options one by one
const FSOPEN_CLOEXEC = 1
const FSCONFIG_SET_STRING = 1
const FSCONFIG_CMD_CREATE = 6
const FSMOUNT_CLOEXEC = 1
const MOUNT_ATTR_NODEV = 4
const MOVE_MOUNT_F_EMPTY_PATH = 4
const AT_FDCWD = -100
// socket(2), socket(7), netlink(7), netdevice(7)
const AF_NETLINK = 16
const SOCK_RAW = 3
const NETLINK_NETFILTER = 12
const SOL_SOCKET = 1
const SO_RCVBUFFORCE = 33
const IF_NAMESIZE = 16
// capset(2), seccomp(2)
const CAPABILITY_VERSION_3 = 0x20080522
const SECCOMP_SET_MODE_FILTER = 1
const SECCOMP_FILTER_FLAG_TSYNC = 1
const seccompCallNumber = process.arch === 'arm64' ? 277 : 317
const SPAWN_SETSIGDEF = 0x04
const SPAWN_SETSIGMASK = 0x08
const SPAWN_SETSID = 0x80
// Not smaller than glibc's structures on any architecture (80, 336 and 128 bytes on x86-64).
const structBytes = 512

const errorNames = new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name]))

/** mount(2). Throws an Error with `code` (EBUSY, EINVAL …). */
export function mount (source: string, target: string, type: string, flags: number, data: string): void {
  if (mountCall(source, target, type, flags, data) === 0) return
  const code = errorNames.get(koffi.errno()) ?? 'UNKNOWN'
  throw Object.assign(new Error(`mount of ${type} on ${target}: ${code}`), { code })
}

/** mount(2) off the event loop: the file system may read from a server, even from this process. Answers whether it succeeded; errno is lost. */
export async function tryMount (source: string, target: string, type: string, flags: number, data: string): Promise<boolean> {
  const call = promisify<string, string, string, number, string, number>(mountCall.async)
  return await call(source, target, type, flags, data) === 0
}

/**
 * Mounts a file system without device nodes by fsopen(2) and its kin, which take any number of options, where mount(2) takes a page of them.
 * Throws an Error with `code`.
 */
export function mountWithOptions (type: string, target: string, options: ReadonlyArray<readonly [key: string, value: string]>): void {
  const fds: number[] = []
  const checked = (what: string, result: number): number => {
    if (result >= 0) return result
    const code = errorNames.get(koffi.errno()) ?? 'UNKNOWN'
    throw Object.assign(new Error(`${what} of ${type} for ${target}: ${code}`), { code })
  }
  try {
    const context = checked('fsopen', fsopenCall(type, FSOPEN_CLOEXEC) as number)
    fds.push(context)
    for (const [key, value] of options) checked(`option ${key}`, fsconfigCall(context, FSCONFIG_SET_STRING, key, value, 0) as number)
    checked('creation', fsconfigCall(context, FSCONFIG_CMD_CREATE, null, null, 0) as number)
    const mounted = checked('fsmount', fsmountCall(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV) as number)
    fds.push(mounted)
    checked('move_mount', moveMountCall(mounted, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) as number)
  } finally {
    for (const fd of fds) closeSync(fd)
  }
}

/** umount2(2) off the event loop: a file system may write back first. Answers whether it succeeded. */
export async function tryUnmount (target: string, flags: number): Promise<boolean> {
  const call = promisify<string, number, number>(umountCall.async)
  return await call(target, flags) === 0
}

/** Takes an exclusive flock(2) on an open file without waiting; the kernel drops it when the process ends. */
export function tryLock (fd: number): boolean {
  return flockCall(fd, LOCK_EX | LOCK_NB) === 0
}

/** pipe2(2), closed on exec: a child gets only the end that it is given. */
export function makePipe (): { readFd: number, writeFd: number } {
  const fds = new Int32Array(2)
  if (pipeCall(fds, O_CLOEXEC) !== 0) throw new Error(`pipe2: ${errorNames.get(koffi.errno()) ?? 'UNKNOWN'}`)
  return { readFd: fds[0] ?? -1, writeFd: fds[1] ?? -1 }
}

/** Has read(2) on an open file answer EAGAIN where it would wait, for all who share it. */
export function setNonBlocking (fd: number): void {
  const flags = fcntlCall(fd, F_GETFL) as number
  if (flags === -1 || fcntlCall(fd, F_SETFL, 'int', flags | O_NONBLOCK) === -1) throw new Error(`fcntl: ${errorNames.get(koffi.errno()) ?? 'UNKNOWN'}`)
}

/** Keeps an open file from the programs that this process starts. */
export function setCloseOnExec (fd: number): void {
  if (fcntlCall(fd, F_SETFD, 'int', FD_CLOEXEC) === -1) throw new Error(`fcntl: ${errorNames.get(koffi.errno()) ?? 'UNKNOWN'}`)
}

/** poll(2), which blocks the whole thread: which of these can be read, or have failed. -1 waits for ever. */
export function waitReadable (fds: readonly number[], timeoutMs: number): boolean[] {
  const structs = new Int32Array(fds.length * 2)
  // struct pollfd: int fd, short events, short revents
  for (const [index, fd] of fds.entries()) structs.set([fd, POLLIN], index * 2)
  pollCall(structs, fds.length, timeoutMs)
  return fds.map((_fd, index) => (structs[index * 2 + 1] ?? 0) >>> 16 !== 0)
}

/** Asks for a larger pipe (F_SETPIPE_SZ); one that the kernel refuses stays as it is. */
export function growPipe (fd: number, bytes: number): void {
  fcntlCall(fd, F_SETPIPE_SZ, 'int', bytes)
}

/** A netlink socket to the packet filter of this network namespace, closed on exec; read(2) and write(2) serve. Throws an Error with `code`. */
export function openNetfilterSocket (): number {
  const fd = socketCall(AF_NETLINK, SOCK_RAW | O_CLOEXEC, NETLINK_NETFILTER) as number
  if (fd >= 0) return fd
  const code = errorNames.get(koffi.errno()) ?? 'UNKNOWN'
  throw Object.assign(new Error(`netlink socket of the packet filter: ${code}`), { code })
}

/** Gives a socket a larger receive buffer than the host's limit; one that the kernel refuses stays as it is. */
export function growReceiveBuffer (fd: number, bytes: number): void {
  setsockoptCall(fd, SOL_SOCKET, SO_RCVBUFFORCE, Buffer.from(Int32Array.of(bytes).buffer), 4)
}

/** The name that a network device of this network namespace has at the moment, by its index. */
export function deviceName (index: number): string | undefined {
  return indexToNameCall(index, Buffer.alloc(IF_NAMESIZE)) as string | null ?? undefined
}

export interface SpawnOptions {
  argv: readonly string[]
  env: Readonly<Record<string, string>>
  cwd: string
  /** What becomes file descriptor 0, 1, 2 …: an open one of ours above them, or `null` for /dev/null. Nothing else is passed on. */
  stdio: ReadonlyArray<number | null>
  /** Whether it leads a session of its own. */
  isSessionLeader: boolean
}

/**
 * posix_spawn(3) with default signals. glibc shares the memory until the exec, where fork(2) would copy the page tables:
 * 0.16 ms in the place of 7 ms for a daemon of 170 MB. Throws an Error with `code`; ENOENT where there is no such program.
 */
export function spawnProcess (path: string, options: SpawnOptions): number {
  const actions = Buffer.alloc(structBytes)
  actionsInitCall(actions)
  try {
    addChdirCall(actions, options.cwd)
    for (const [fd, source] of options.stdio.entries()) {
      if (source === null) addOpenCall(actions, fd, '/dev/null', O_RDWR, 0)
      else addDup2Call(actions, source, fd)
    }
    // What the daemon itself was started with, open without close-on-exec.
    addCloseFromCall(actions, options.stdio.length)
    const pid = [0]
    const environment = Object.entries(options.env).map(([name, value]) => `${name}=${value}`)
    const error = spawnCall(pid, path, actions, options.isSessionLeader ? sessionAttributes : plainAttributes, [...options.argv, null], [...environment, null]) as number
    if (error !== 0) throw Object.assign(new Error(`posix_spawn of ${path}: ${errorNames.get(error) ?? error}`), { code: errorNames.get(error) ?? 'UNKNOWN' })
    return pid[0] ?? -1
  } finally {
    actionsDestroyCall(actions)
  }
}

const plainAttributes = makeAttributes(SPAWN_SETSIGDEF | SPAWN_SETSIGMASK)
const sessionAttributes = makeAttributes(SPAWN_SETSIGDEF | SPAWN_SETSIGMASK | SPAWN_SETSID)

/** Node ignores SIGPIPE, and a child would inherit that. */
function makeAttributes (flags: number): Buffer {
  const attributes = Buffer.alloc(structBytes)
  const set = Buffer.alloc(structBytes)
  attributesInitCall(attributes)
  setFlagsCall(attributes, flags)
  sigfillsetCall(set)
  setSigdefaultCall(attributes, set)
  sigemptysetCall(set)
  setSigmaskCall(attributes, set)
  return attributes
}

/** waitpid(2) without waiting: how a child of ours has ended, or undefined while it runs. A child that is not there ended in an unknown way. */
export function reapProcess (pid: number): { exitCode?: number, signalNumber?: number } | undefined {
  const status = [0]
  const found = waitpidCall(pid, status, WNOHANG) as number
  if (found === 0) return undefined
  if (found !== pid) return {}
  const word = status[0] ?? 0
  const signalNumber = word & 0x7f
  return signalNumber === 0 ? { exitCode: (word >> 8) & 0xff } : { signalNumber }
}

/** getsockopt(2) for an option of at most this many bytes; undefined where the kernel refuses. */
export function readSocketOption (fd: number, level: number, option: number, maximumBytes: number): Buffer | undefined {
  const value = Buffer.alloc(maximumBytes)
  const length = new Uint32Array([maximumBytes])
  return getsockoptCall(fd, level, option, value, length) === 0 ? value.subarray(0, length[0]) : undefined
}

/** prctl(2) of an option with one argument. Throws an Error with `code`. */
export function setProcessOption (option: number, argument: number): void {
  if (prctlCall(option, argument, 0, 0, 0) === 0) return
  const code = errorNames.get(koffi.errno()) ?? 'UNKNOWN'
  throw Object.assign(new Error(`prctl ${option}: ${code}`), { code })
}

/** capset(2): these capabilities, by number, become the permitted and the effective ones of this thread. Throws when they are not permitted. */
export function setThreadCapabilities (numbers: readonly number[]): void {
  const sets = new Uint32Array(6)
  for (const number of numbers) for (const set of [0, 1]) sets[(number >>> 5) * 3 + set]! |= 1 << (number & 31)
  if (capsetCall(new Uint32Array([CAPABILITY_VERSION_3, 0]), sets) !== 0) throw new Error(`capset: ${errorNames.get(koffi.errno()) ?? 'UNKNOWN'}`)
}

/** seccomp(2) with a program of 8-byte instructions, for all threads of this process, which also takes over no_new_privs from the calling one. */
export function filterSystemCalls (program: Buffer): void {
  // struct sock_fprog: unsigned short len, struct sock_filter *filter
  const fprog = Buffer.alloc(16)
  fprog.writeUInt16LE(program.length / 8, 0)
  fprog.writeBigUInt64LE(BigInt(koffi.address(program)), 8)
  const result = syscallCall(seccompCallNumber, 'unsigned int', SECCOMP_SET_MODE_FILTER, 'unsigned int', SECCOMP_FILTER_FLAG_TSYNC, 'void *', fprog) as number
  if (result !== 0) throw new Error(`seccomp: ${result > 0 ? `thread ${result} cannot follow` : errorNames.get(koffi.errno()) ?? 'UNKNOWN'}`)
}
