import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { once } from 'node:events'

const childDeadlineMs = 60_000

export interface ChildEnd {
  exitCode: number | null
  stdout: string
  stderr: string
}

export interface ChildOptions { stdio?: StdioOptions, env?: Record<string, string>, timeout?: number }

/**
 * Runs a program to its end with pipes for its output; SIGKILL after a minute.
 * A group of its own keeps Ctrl-C on the terminal from it: what it left has to be cleaned up in order.
 */
export async function runChild (file: string, args: readonly string[], options: ChildOptions = {}): Promise<ChildEnd> {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: childDeadlineMs, ...options, detached: true, killSignal: 'SIGKILL' })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) child[name]?.setEncoding('utf8').on('data', (text: string) => { output[name] += text })
  const [exitCode] = await once(child, 'close') as [number | null]
  return { exitCode, ...output }
}

/** @throws Error with the program's own words when its exit code is not 0. */
export async function mustRun (file: string, args: readonly string[], options: ChildOptions = {}): Promise<ChildEnd> {
  const end = await runChild(file, args, options)
  if (end.exitCode !== 0) throw new Error(`${file} ${args.slice(-4).join(' ')} ended with ${end.exitCode}: ${end.stderr.trim()}`)
  return end
}

/** Ends a process that was started here, and waits for that; SIGKILL when it takes longer than allowed. */
export async function endChild (child: ChildProcess, signal: NodeJS.Signals, graceMs = 20_000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  const timer = setTimeout(() => child.kill('SIGKILL'), graceMs)
  child.kill(signal)
  await exited
  clearTimeout(timer)
}
