/** Tasks: the queue alone, whole tasks, and what they print on its way to those who follow it. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { ResourceStack } from '../src/lib/resource-stack.ts'
import { BerthDaemon } from './berth-daemon.ts'
import type { Claim } from './claims.ts'
import { measureFollowers } from './tasks-followers.ts'
import { measureLines, measureThroughput } from './tasks-logs.ts'
import { measureQueue } from './tasks-queue.ts'
import { measureWhole } from './tasks-whole.ts'

export const taskParts = ['queue', 'whole', 'lines', 'throughput', 'followers'] as const
export type TaskPart = typeof taskParts[number]

export interface TasksOptions {
  parts: readonly TaskPart[]
  dir: string
  stack: ResourceStack
  programs: { runsc: string, conmon: string }
  signal: AbortSignal
  progress: (text: string) => void
}

export interface TaskOutcome {
  claims: Claim[]
  /** What the figures consist of. */
  notes: string[]
}

/** No log of the benchmark is so large that it would lose its beginning. */
const logBytes = String(4 * 1024 ** 3)

export async function measureTasks ({ parts, dir, stack, programs, signal, progress }: TasksOptions): Promise<TaskOutcome> {
  const outcome: TaskOutcome = { claims: [], notes: [] }
  const run = async (part: TaskPart, measure: () => Promise<TaskOutcome>) => {
    if (!parts.includes(part)) return
    progress(`tasks: ${part}`)
    const { claims, notes } = await measure()
    outcome.claims.push(...claims)
    outcome.notes.push(...notes)
  }
  await run('queue', () => measureQueue({ dir: join(dir, 'queue'), stack, signal }))
  if (parts.some(part => part !== 'queue')) {
    await mkdir(dir, { recursive: true })
    const daemon = new BerthDaemon(join(dir, 'daemon'), { BERTH_MAX_LOG_BYTES: logBytes, BERTH_LOG_KEEP_BYTES: logBytes })
    stack.defer('the daemon of the tasks', () => daemon.close())
    await daemon.start()
    const common = { daemon, dir, stack, programs, signal }
    await run('whole', () => measureWhole(common))
    await run('lines', () => measureLines(common))
    await run('throughput', () => measureThroughput(common))
    await run('followers', () => measureFollowers(common))
  }
  return outcome
}
