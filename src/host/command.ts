import { constants } from 'node:os'
import { execa, type Options } from 'execa'
import { BerthError } from '../errors.ts'

export interface CommandResult {
  /** Exit code; 128 + n when a signal ended the program, 124 when its time ran out. */
  exitCode: number
  stdout: string
  stderr: string
}

export interface CommandOptions {
  timeoutMs?: number
  input?: string
  /** Output kept of each stream; the rest is dropped. */
  maxOutputBytes?: number
  cwd?: string
  signal?: AbortSignal
}

/** What a host program sees of the daemon's environment: nothing but a fixed PATH and locale. */
export const cleanEnv: Readonly<Record<string, string>> = Object.freeze({
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
})

const defaultTimeoutMs = 30_000

/**
 * Runs a short host program to its end: argv, never a shell; a clean environment; bounded time and output.
 * A non-zero exit is an answer, not an error.
 *
 * @throws BerthError unavailable `program_not_found` when there is no such program.
 */
export async function runCommand (file: string, args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const { timeoutMs = defaultTimeoutMs, input, maxOutputBytes = 1024 * 1024, cwd, signal } = options
  const execaOptions: Options = {
    reject: false,
    env: cleanEnv,
    extendEnv: false,
    stdin: input === undefined ? 'ignore' : 'pipe',
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: maxOutputBytes,
    stripFinalNewline: false,
    ...(input === undefined ? {} : { input }),
    ...(cwd === undefined ? {} : { cwd }),
    ...(signal === undefined ? {} : { cancelSignal: signal }),
  }
  const result = await execa(file, args, execaOptions)
  if (result.code === 'ENOENT') {
    throw new BerthError('unavailable', 'program_not_found', `the program ${file} is not installed on this host; run: berth doctor`)
  }
  if (signal?.aborted) throw signal.reason
  return {
    exitCode: result.timedOut ? 124 : (result.exitCode ?? (result.signal ? 128 + (signalNumbers[result.signal] ?? 0) : 125)),
    stdout: typeof result.stdout === 'string' ? result.stdout : '',
    stderr: typeof result.stderr === 'string' ? result.stderr : '',
  }
}

/** Signal numbers by name, as this kernel has them. */
export const signalNumbers: Readonly<Record<string, number>> = Object.freeze({ ...constants.signals })

/** The name of a signal by its number, or undefined. */
export function signalName (number: number): string | undefined {
  return Object.entries(signalNumbers).find(([, value]) => value === number)?.[0]
}
