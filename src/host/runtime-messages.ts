/** What OCI runtimes say, and what it means: the messages of runsc and runc are read here alone. */
import { BerthError } from '../errors.ts'
import type { CommandResult } from './command.ts'
import { RuntimeRefusal } from './conmon.ts'

/** Messages by which a runtime says that a start was refused because of what was asked, tried on runsc 20240729 and runc 1.1. */
const refusals: ReadonlyArray<{ pattern: RegExp, code: string, message: string }> = [
  { pattern: /working directory|chdir to cwd/i, code: 'working_dir_not_found', message: 'the working directory does not exist in the sandbox; give one that does' },
  { pattern: /(no such file or directory|not a directory|executable file not found|not found in \$PATH)/i, code: 'command_not_found', message: 'the command was not found in the sandbox; check its name, its path and PATH' },
  { pattern: /(permission denied|exec format error|is a directory)/i, code: 'command_not_executable', message: 'the command in the sandbox cannot be executed by this user; check its mode and kind' },
]

/** Turns a runtime's refusal into an error for the client where the client caused it; everything else stays internal with its cause. */
export function refusalError (error: unknown, program: string): Error {
  if (!(error instanceof RuntimeRefusal)) return error as Error
  const isProgramRefused = /executing command|(start|starting) container process/.test(error.message)
  if (!isProgramRefused && (saysUnknown(error.message) || saysStopped(error.message))) {
    return new BerthError('conflict', 'sandbox_not_running', 'the sandbox has no running container; start it first', { cause: error })
  }
  if (isProgramRefused) {
    const refusal = refusals.find(({ pattern }) => pattern.test(error.message))
    if (refusal) return new BerthError('invalid_argument', refusal.code, refusal.message, { cause: error })
  }
  if (saysSandboxGone(error.message)) {
    return new BerthError('conflict', 'sandbox_ended', 'the sandbox ended while the process ran; its `end` says why', { cause: error })
  }
  return new Error(`${program} refused: ${error.message}`, { cause: error })
}

/** It knows no such container. */
export function saysUnknown (stderr: string): boolean {
  return /file does not exist|does not exist|no such container|loading (container|sandbox)/i.test(stderr)
}

/** runsc's client lost its sandbox while it waited for a process. */
function saysSandboxGone (stderr: string): boolean {
  return /waiting on pid/i.test(stderr)
}

function saysStopped (stderr: string): boolean {
  return /in state stopped|in a stopped container/i.test(stderr)
}

/** Refused, because the container has not been started. */
export function saysCreated (stderr: string): boolean {
  return /in state created/i.test(stderr)
}

/** A delete that is refused because the container is not stopped. */
export function saysAlive (result: CommandResult): boolean {
  return result.exitCode !== 0 && /cannot delete container .*not stopped/i.test(result.stderr)
}

/** What was to be signalled has ended. */
export function saysEnded (stderr: string): boolean {
  return /process already finished|not running|no such process|container is stopped|connection refused|no container/i.test(stderr)
}

/** The last complaint in a log of `--log-format json`. */
export function lastLoggedError (log: string): string | undefined {
  for (const line of log.trim().split(/(?<=})\s*(?={)|\n/).reverse()) {
    try {
      const entry = JSON.parse(line) as { level?: string, msg?: string }
      if (entry.level === 'error' || entry.level === 'fatal' || entry.level === 'warning') return entry.msg
    } catch { /* a torn line */ }
  }
  return undefined
}
