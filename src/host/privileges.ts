/** How a server that was started as root goes on as nobody. */
import { filterSystemCalls, setProcessOption, setThreadCapabilities } from './libc.ts'

// linux/capability.h
const capabilities = { CAP_NET_BIND_SERVICE: 10 } as const

export interface PrivilegeDrop {
  uid: number
  gid: number
  /** Of the calling thread, and of those that it starts from here on; all others keep none. */
  keep: ReadonlyArray<keyof typeof capabilities>
}

// linux/prctl.h
const PR_SET_KEEPCAPS = 8
const PR_CAPBSET_DROP = 24
const PR_SET_NO_NEW_PRIVS = 38

/**
 * Gives up root for good, in all threads: other ids and no groups, only the capabilities that are kept, no way to get others, and no way to
 * run a program. What is open stays open. Modules that lie where only root can read are to be loaded before. Throws when any of it cannot be done.
 */
export function dropPrivileges ({ uid, gid, keep }: PrivilegeDrop): void {
  dropBoundingSet()
  // Of this thread alone: the others lose all capabilities with their uid, which libc changes for every thread.
  setProcessOption(PR_SET_KEEPCAPS, 1)
  process.setgroups?.([])
  process.setgid?.(gid)
  process.setuid?.(uid)
  setThreadCapabilities(keep.map(name => capabilities[name]))
  setProcessOption(PR_SET_KEEPCAPS, 0)
  setProcessOption(PR_SET_NO_NEW_PRIVS, 1)
  filterSystemCalls(refusalOf(refusedCalls))
}

function dropBoundingSet (): void {
  for (let number = 0; ; number++) {
    try {
      setProcessOption(PR_CAPBSET_DROP, number)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EINVAL') return
      throw error
    }
  }
}

/** Numbers of system calls that a server never makes, and one that was taken over would: to run programs, to look into other processes, to make namespaces. */
const refusedCalls = process.arch === 'arm64'
  // execve, execveat, ptrace, process_vm_readv, process_vm_writev, unshare, setns, bpf, perf_event_open, userfaultfd, keyctl, io_uring_setup
  ? [221, 281, 117, 270, 271, 97, 268, 280, 241, 282, 219, 425]
  : [59, 322, 101, 310, 311, 272, 308, 321, 298, 323, 250, 425]
// linux/audit.h
const nativeArchitecture = process.arch === 'arm64' ? 0xC00000B7 : 0xC000003E
// Numbers from here on are those of the x32 ABI.
const x32Bit = 0x40000000

/** A seccomp program (classic BPF, linux/filter.h) that answers EPERM to these system calls, and to all of another architecture. */
function refusalOf (numbers: readonly number[]): Buffer {
  const [loadWord, jumpEqual, jumpAtLeast, answer] = [0x20, 0x15, 0x35, 0x06]
  const [allow, refuse] = [0x7fff0000, 0x00050001]
  const [numberOffset, architectureOffset] = [0, 4]
  const refusalAt = numbers.length + 5
  const instructions = [
    [loadWord, 0, 0, architectureOffset],
    [jumpEqual, 0, refusalAt - 2, nativeArchitecture],
    [loadWord, 0, 0, numberOffset],
    [jumpAtLeast, refusalAt - 4, 0, x32Bit],
    ...numbers.map((number, index) => [jumpEqual, refusalAt - 5 - index, 0, number]),
    [answer, 0, 0, allow],
    [answer, 0, 0, refuse],
  ]
  const program = Buffer.alloc(instructions.length * 8)
  for (const [index, [code = 0, ifTrue = 0, ifFalse = 0, value = 0]] of instructions.entries()) {
    program.writeUInt16LE(code, index * 8)
    program[index * 8 + 2] = ifTrue
    program[index * 8 + 3] = ifFalse
    program.writeUInt32LE(value, index * 8 + 4)
  }
  return program
}
