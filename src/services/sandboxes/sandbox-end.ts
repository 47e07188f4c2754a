/** Why a sandbox ended, from what is known about it: a pure decision. */
import { signalName } from '../../host/command.ts'
import type { EndReason, SandboxEnd } from '../../schemas/sandbox.ts'

export interface EndFacts {
  at: string
  /** What the monitor wrote; undefined when it wrote nothing. */
  exitCode: number | undefined
  /** Why we ended it ourselves, if we did. */
  stopReason: EndReason | undefined
  oomKills: number
  /** The processes inside are the host's own: the one that the kernel killed says 137, and others may have been killed long before. */
  sharesHostKernel: boolean
  peakMemoryBytes: number | undefined
  /** The runtime left last words: it crashed. */
  hasCrashed: boolean
  /** The run directory is gone: the host was restarted since the sandbox ran. */
  hasHostRestarted: boolean
}

const SIGKILL = 9
const SIGTERM = 15

/**
 * Order of belief: the kernel's word on memory, then our own recorded intent, then the runtime's last words, then a restart of the host, then the exit code.
 * A shutdown of the host ends processes by SIGTERM and SIGKILL: such a code after a restart is the restart's.
 */
export function classifyEnd (facts: EndFacts): SandboxEnd {
  const { exitCode, stopReason, oomKills, sharesHostKernel, peakMemoryBytes, hasCrashed, hasHostRestarted, at } = facts
  const signalNumber = exitCode !== undefined && exitCode > 128 ? exitCode - 128 : undefined
  const signal = signalNumber === undefined ? undefined : signalName(signalNumber)
  const common = {
    at,
    ...(exitCode === undefined ? {} : { exitCode }),
    ...(signal === undefined ? {} : { signal }),
    ...(peakMemoryBytes ? { peakMemoryBytes } : {}),
  }
  const mayBeKilled = exitCode === undefined || (sharesHostKernel ? signalNumber === SIGKILL : exitCode !== 0)
  if (stopReason === undefined && oomKills > 0 && mayBeKilled) {
    return { reason: 'out_of_memory', ...common, message: 'the sandbox needed more memory than its limit; give it more memoryBytes' }
  }
  if (stopReason === 'image_lost') return { reason: stopReason, ...common, message: 'the image server of this host and its keeper died, so the rest of the image cannot be read; the sandbox\'s own files are kept: start it again' }
  if (stopReason !== undefined) return { reason: stopReason, ...common }
  if (hasCrashed) return { reason: 'runtime_crashed', ...common, message: 'the OCI runtime crashed under the sandbox; the daemon\'s log has its last words' }
  const endedByShutdown = exitCode === undefined || signalNumber === SIGKILL || signalNumber === SIGTERM
  if (hasHostRestarted && endedByShutdown) return { reason: 'host_restarted', at, message: 'the host was restarted while the sandbox ran; its files are kept: start it again, or delete it' }
  if (exitCode === undefined) return { reason: 'lost', at, message: 'the sandbox\'s monitor ended without leaving an exit code' }
  if (signal !== undefined) return { reason: 'signaled', ...common }
  return { reason: 'exited', ...common }
}

/** Reasons that are nobody's wish: the sandbox is `failed`, not `stopped`. */
export const failureReasons: readonly EndReason[] = ['setup_failed', 'runtime_crashed', 'image_lost', 'lost']
