/** Processes of this host, named so that a recycled pid is never mistaken for the one that was meant. */
import { readFileSync } from 'node:fs'

/** A process: its pid and when the kernel started it (clock ticks since boot, field 22 of /proc/<pid>/stat). */
export interface ProcessIdentity {
  pid: number
  startTicks: string
}

/** The identity of a live process, or undefined when there is none; a zombie is not alive. */
export function findProcess (pid: number): ProcessIdentity | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined
    return { pid, startTicks: fields[19] ?? '' }
  } catch {
    return undefined
  }
}

export function isAlive (process: ProcessIdentity): boolean {
  return findProcess(process.pid)?.startTicks === process.startTicks
}

/** Sends a signal to exactly this process; one that is gone is fine. */
export function signalProcess (identity: ProcessIdentity, signal: NodeJS.Signals): void {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
