/** The few libc calls that Node lacks. No pointer outlives its call. */
import { promisify } from 'node:util'
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const mountCall = libc.func('int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)')
const umountCall = libc.func('int umount2(const char *target, int flags)')
const flockCall = libc.func('int flock(int fd, int operation)')
const pipeCall = libc.func('int pipe2(int *fds, int flags)')

// mount(2), flock(2) and open(2), Linux ABI
export const MS_NODEV = 4
export const UMOUNT_NOFOLLOW = 8
const LOCK_EX = 2
const LOCK_NB = 4
const O_CLOEXEC = 0o2000000

const errorNames = new Map(Object.entries(koffi.os.errno).map(([name, number]) => [number, name]))

/** mount(2). Throws an Error with `code` (EBUSY, EINVAL …). */
export function mount (source: string, target: string, type: string, flags: number, data: string): void {
  if (mountCall(source, target, type, flags, data) === 0) return
  const code = errorNames.get(koffi.errno()) ?? 'UNKNOWN'
  throw Object.assign(new Error(`mount of ${type} on ${target}: ${code}`), { code })
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
