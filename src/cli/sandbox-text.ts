import type { Sandbox, SandboxEnd } from '../schemas/sandbox.ts'
import type { TaskEnd } from '../schemas/task.ts'
import { describeMs, describeSize, describeSpan } from './units.ts'

/** Exit code for what berth itself could not do, as docker has it. */
export const ownErrorCode = 125

/** What a shell answers for a program that is not there or cannot be run. */
export const codeOfError: Readonly<Record<string, number>> = { command_not_found: 127, command_not_executable: 126 }

// Codes a shell user knows: SIGKILL for memory, timeout(1) for time, whatever the program made of its signal.
const fixedCodes: Partial<Record<TaskEnd['reason'], number>> = { out_of_memory: 137, timed_out: 124 }
const codeOfReason: Partial<Record<TaskEnd['reason'], number>> = { requested: 0, idle: 0 }

/** What `berth run` and `berth wait` make of how a sandbox, or the last attempt of a task, ended. */
export function exitCodeOf ({ end }: { end?: Pick<SandboxEnd | TaskEnd, 'reason' | 'exitCode'> | undefined }): number {
  if (!end) return ownErrorCode
  return fixedCodes[end.reason] ?? end.exitCode ?? codeOfReason[end.reason] ?? ownErrorCode
}

/** Why it ended, where that is more than the command's own exit. */
export function describeEnd (sandbox: Sandbox): string | undefined {
  const { end } = sandbox
  if (!end || ['exited', 'signaled', 'requested'].includes(end.reason)) return undefined
  if (end.reason === 'out_of_memory') {
    const peak = end.peakMemoryBytes === undefined ? '' : `; with the runtime's own share it reached ${describeSize(end.peakMemoryBytes)}`
    return `the sandbox ran out of memory (its limit is ${describeSize(sandbox.resources.memoryBytes)}${peak}); give it more with: -m`
  }
  const facts = [end.step && `step ${end.step}`, end.message].filter(Boolean)
  return `the sandbox ended: ${end.reason}${facts.length > 0 ? ` (${facts.join(': ')})` : ''}`
}

export function isEnded (sandbox: Sandbox): boolean {
  return sandbox.status === 'stopped' || sandbox.status === 'failed' || sandbox.deletedAt !== undefined
}

/** The STATUS column: `Up 5 minutes`, `Exited (0) 2 hours ago`. */
export function describeStatus (sandbox: Sandbox, now = Date.now()): string {
  const since = (at: string | undefined) => at === undefined ? '' : describeSpan(now - Date.parse(at))
  const { end } = sandbox
  switch (sandbox.status) {
    case 'running': return `Up ${since(sandbox.startedAt)}`
    case 'paused': return `Up ${since(sandbox.startedAt)} (Paused)`
    case 'stopped':
    case 'failed': {
      if (!end) return capitalize(sandbox.status)
      const reason = end.reason === 'exited' || end.reason === 'signaled' ? '' : `, ${end.reason}`
      const what = sandbox.status === 'failed' ? `Failed (${end.reason})` : `Exited (${end.exitCode ?? '?'}${reason})`
      return `${what} ${since(end.at)} ago`
    }
    default: return capitalize(sandbox.status)
  }
}

/** `238 ms: image 2 ms, rootfs 5 ms`: what set-up took, and on what. */
export function describeTimings ({ timings }: Pick<Sandbox, 'timings'>): string {
  const total = timings.reduce((sum, { durationMs }) => sum + durationMs, 0)
  const steps = timings.map(({ step, durationMs }) => `${step} ${describeMs(durationMs)}`)
  return steps.length === 0 ? describeMs(total) : `${describeMs(total)} (${steps.join(', ')})`
}

export function describeLabels (labels: Record<string, string>): string {
  return Object.entries(labels).map(([key, value]) => value === '' ? key : `${key}=${value}`).join(',')
}

function capitalize (text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
