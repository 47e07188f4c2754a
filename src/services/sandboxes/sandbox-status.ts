/** Which status may follow which. */
import { BerthError } from '../../errors.ts'
import type { SandboxStatus } from '../../schemas/sandbox.ts'

/*
 *   pending ─▶ creating ─▶ created ─▶ running ◀─▶ paused
 *                              │          │          │
 *                              └──────────┼──────────┘
 *                                         ▼
 *                                     stopping ─▶ stopped ─▶ creating (started again)
 *
 *   Each of them but stopped may become failed; created, running and paused may become stopped at once, when they end by themselves.
 */
const moves: Readonly<Record<SandboxStatus, readonly SandboxStatus[]>> = Object.freeze({
  pending: ['creating', 'failed'],
  creating: ['created', 'failed'],
  created: ['running', 'stopping', 'stopped', 'failed'],
  running: ['paused', 'stopping', 'stopped', 'failed'],
  paused: ['running', 'stopping', 'stopped', 'failed'],
  stopping: ['stopped', 'failed'],
  stopped: ['creating'],
  failed: ['creating'],
})

export const endedStatuses: readonly SandboxStatus[] = ['stopped', 'failed']
/** Statuses in which a container may exist. */
export const liveStatuses: readonly SandboxStatus[] = ['created', 'running', 'paused', 'stopping']

export function canMove (from: SandboxStatus, to: SandboxStatus): boolean {
  return moves[from].includes(to)
}

/** What a client asks of a sandbox, and the statuses in which that makes sense. */
const verbs = {
  start: ['created', 'stopped', 'failed'],
  stop: ['created', 'running', 'paused', 'stopping'],
  pause: ['running'],
  resume: ['paused'],
  'exec in': ['running'],
} as const satisfies Record<string, readonly SandboxStatus[]>

export type SandboxVerb = keyof typeof verbs

/** @throws BerthError conflict `invalid_state` that names the status and the ones that would do. */
export function assertVerb (verb: SandboxVerb, status: SandboxStatus): void {
  const allowed: readonly SandboxStatus[] = verbs[verb]
  if (allowed.includes(status)) return
  throw new BerthError('conflict', 'invalid_state', `cannot ${verb} a sandbox that is ${status}; it must be ${allowed.join(' or ')}`, {
    details: { status, allowed: [...allowed] },
  })
}
