/** Processes of this host, named so that a recycled pid is never mistaken for the one that was meant. */
import { readdirSync, readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'

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

/** The pid in a pid file, or undefined while there is none. */
export async function readPidFile (path: string): Promise<number | undefined> {
  const text = (await readFile(path, 'latin1').catch(() => '')).trim()
  return /^\d+$/.test(text) ? Number(text) : undefined
}

/** SIGKILLs a process; one that is gone is fine. Only for a pid that cannot have been given to another. */
export function killProcess (pid: number): void {
  try { process.kill(pid, 'SIGKILL') } catch { /* gone meanwhile */ }
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

export interface HelperProcess {
  /** Of the sandbox. */
  id: string
  identity: ProcessIdentity
  argv: string[]
}

const helperPrograms = /^(conmon|runsc.*|runc|join-cgroup|sh|exe)$/

/**
 * Monitors and runtimes that work below a run directory, found by their own command lines, with the sandbox id they name
 * (`<runDir>/sandboxes/<id>/…`). A daemon that died between starting one and writing down its pid left it here.
 */
export function findProcessesBelow (runDir: string): HelperProcess[] {
  const prefix = `${runDir}/sandboxes/`
  const found: HelperProcess[] = []
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const argv = readArguments(Number(name))
    if (!helperPrograms.test(basename(argv[0] ?? ''))) continue
    const argument = argv.find(text => text.startsWith(prefix))
    const id = argument?.slice(prefix.length).split('/')[0]
    const identity = id ? findProcess(Number(name)) : undefined
    if (id && identity) found.push({ id, identity, argv })
  }
  return found
}

/** The command line of a process; empty when it is gone. Behind each argument stands a zero, so the last of these texts is empty. */
export function readArguments (pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
  } catch {
    return []
  }
}
