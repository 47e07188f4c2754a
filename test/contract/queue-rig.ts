/** What the contract of task queues needs of each make, and short words for its tests. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import type { BerthError } from '../../src/errors.ts'
import { randomId } from '../../src/lib/id.ts'
import type { TaskEnd } from '../../src/schemas/task.ts'
import type { Claim, ClaimId, ClaimRequest, LabelLimit, Outcome, TaskQueue } from '../../src/services/tasks/task-queue.ts'
import type { NewTask, StartFacts, TaskSpec } from '../../src/services/tasks/task-record.ts'

export interface QueueSettings {
  fairLabel: string
  labelLimits: readonly LabelLimit[]
  maxReturns: number
  reserveAfterMs: number
}

export interface QueueRig {
  /** The one that is open. */
  readonly queue: TaskQueue
  /** The time of the queue, in milliseconds since the epoch. */
  now: () => number
  /** Lets time pass; what becomes due by that has been told when it resolves. */
  advance: (ms: number) => Promise<void>
  /** Opens the queue again, as after the death of the process that had it. */
  reopen: () => Promise<void>
}

export type BuildQueue = (t: TestContext, settings: QueueSettings) => Promise<QueueRig>

export const queueDefaults: QueueSettings = { fairLabel: 'tenant', labelLimits: [], maxReturns: 3, reserveAfterMs: 30_000 }
export const leaseMs = 10_000
export const plenty = { cpuMillis: 1_000_000, memoryBytes: 2 ** 50 }

export type TaskChoice = Partial<Pick<TaskSpec, 'pool' | 'priority' | 'labels' | 'requests' | 'maxAttempts' | 'retry' | 'outputs'>> & Partial<Omit<NewTask, 'spec'>>

export function newTask ({ id = randomId('tsk'), delayMs = 0, idempotencyKey, ...choice }: TaskChoice = {}): NewTask {
  return {
    id,
    delayMs,
    ...idempotencyKey !== undefined && { idempotencyKey },
    spec: {
      image: 'berth/base',
      entrypoint: ['true'],
      env: {},
      resources: { cpuMillis: 1000, memoryBytes: 1000, pids: 10 },
      requests: { cpuMillis: 1000, memoryBytes: 1000 },
      labels: {},
      pool: 'default',
      priority: 0,
      maxAttempts: 1,
      retry: { backoffMs: 1000, maxBackoffMs: 300_000 },
      outputs: [],
      ...choice,
    },
  }
}

/** Pushes tasks one after the other; answers their ids. */
export async function pushAll ({ queue }: QueueRig, ...choices: TaskChoice[]): Promise<string[]> {
  const ids: string[] = []
  for (const choice of choices) ids.push((await queue.push([newTask(choice)]))[0]!.id)
  return ids
}

export async function claim ({ queue }: QueueRig, choice: Partial<ClaimRequest> = {}): Promise<Claim[]> {
  return await queue.claim({ owner: 'hst_a', pools: ['default'], limit: 1, leaseMs, room: plenty, capacity: plenty, ...choice })
}

export async function claimOne (rig: QueueRig, choice: Partial<ClaimRequest> = {}): Promise<Claim> {
  const [first] = await claim(rig, choice)
  assert.ok(first, 'there is something to claim')
  return first
}

/** Claims and settles one after the other until there is nothing left; answers the ids in the order of their claims. */
export async function drain (rig: QueueRig, choice: Partial<ClaimRequest> = {}): Promise<string[]> {
  const ids: string[] = []
  for (;;) {
    const [one] = await claim(rig, choice)
    if (one === undefined) return ids
    ids.push(one.taskId)
    await rig.queue.settle(one, complete(rig))
  }
}

export const idsOf = (claims: readonly Claim[]): string[] => claims.map(({ taskId }) => taskId)

export function complete (rig: QueueRig): Outcome {
  return { status: 'complete', end: { reason: 'exited', at: at(rig), exitCode: 0 }, isRetryable: false }
}

export function failed (rig: QueueRig, end: Partial<TaskEnd> = { exitCode: 1 }, isRetryable = true): Outcome {
  return { status: 'failed', end: { reason: 'exited', at: at(rig), ...end }, isRetryable }
}

export function cancelled (rig: QueueRig): Outcome {
  return { status: 'cancelled', end: { reason: 'cancelled', at: at(rig), exitCode: 143 }, isRetryable: false }
}

export function facts (rig: QueueRig, sandboxId = randomId('sbx')): StartFacts {
  return { sandboxId, logCursor: '1:0', startedAt: at(rig), timings: [] }
}

export function at (rig: QueueRig): string {
  return new Date(rig.now()).toISOString()
}

export async function assertStale (promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error: BerthError) => error.kind === 'conflict' && error.code === 'stale_claim')
}

/** That neither of the calls a holder makes is accepted. */
export async function assertLost (rig: QueueRig, lost: ClaimId): Promise<void> {
  await assertStale(rig.queue.start(lost, facts(rig)))
  await assertStale(rig.queue.settle(lost, complete(rig)))
  await assertStale(rig.queue.release(lost, { delayMs: 0, isFault: false }))
  assert.deepEqual(await rig.queue.renew([lost], leaseMs), [{ taskId: lost.taskId, fence: lost.fence, isHeld: false, isCancelRequested: false }])
}
