import { spawn, type ChildProcess, type StdioOptions } from 'node:child_process'
import { once } from 'node:events'

const childDeadlineMs = 60_000

export interface ChildEnd {
  exitCode: number | null
  stdout: string
  stderr: string
}

export interface ChildOptions {
  stdio?: StdioOptions
  env?: Record<string, string>
  timeout?: number
  /** Called with each piece of standard output. */
  onOutput?: () => void
}

/**
 * Runs a program to its end with pipes for its output; SIGKILL after a minute.
 * A group of its own keeps Ctrl-C on the terminal from it: what it left has to be cleaned up in order.
 */
export async function runChild (file: string, args: readonly string[], { onOutput, ...options }: ChildOptions = {}): Promise<ChildEnd> {
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: childDeadlineMs, ...options, detached: true, killSignal: 'SIGKILL' })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) child[name]?.setEncoding('utf8').on('data', (text: string) => { output[name] += text })
  if (onOutput) child.stdout?.on('data', onOutput)
  const [exitCode] = await once(child, 'close') as [number | null]
  return { exitCode, ...output }
}

/** @throws Error with the program's own words when its exit code is not 0. */
export async function mustRun (file: string, args: readonly string[], options: ChildOptions = {}): Promise<ChildEnd> {
  const end = await runChild(file, args, options)
  if (end.exitCode !== 0) throw new Error(`${file} ${args.slice(-4).join(' ')} ended with ${end.exitCode}: ${end.stderr.trim()}`)
  return end
}

/** Runs a program to its end; answers how long it took until it said the first thing of what it has to say, in milliseconds. */
export async function timeToOutput (file: string, args: readonly string[], expected: string, options: ChildOptions = {}): Promise<number> {
  const startedMs = performance.now()
  let firstMs = NaN
  const { exitCode, stdout, stderr } = await runChild(file, args, { ...options, onOutput: () => { firstMs ||= performance.now() - startedMs } })
  if (exitCode !== 0 || stdout !== expected) throw new Error(`${file} ${args.slice(-4).join(' ')} ended with ${exitCode} and said ${JSON.stringify(stdout)}: ${stderr.trim()}`)
  return firstMs
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
