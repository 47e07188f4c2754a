import type { NewTask, StartFacts, TaskRecord } from './task-record.ts'
import type { Claim, ClaimId, ClaimRequest, Outcome, PoolCounts, Renewal, TaskQueue } from './task-queue.ts'

type News = { kind: 'available' } | { kind: 'cancel', taskId: string }

export class LocalTaskQueue implements TaskQueue {
  push (tasks: readonly NewTask[]): Promise<TaskRecord[]> { throw new Error('not built yet') }
  claim (request: ClaimRequest): Promise<Claim[]> { throw new Error('not built yet') }
  held (owner: string, leaseMs: number): Promise<Claim[]> { throw new Error('not built yet') }
  start (claim: ClaimId, facts: StartFacts): Promise<void> { throw new Error('not built yet') }
  renew (claims: readonly ClaimId[], leaseMs: number): Promise<Renewal[]> { throw new Error('not built yet') }
  settle (claim: ClaimId, outcome: Outcome): Promise<TaskRecord> { throw new Error('not built yet') }
  release (claim: ClaimId, options: { delayMs: number, isFault: boolean, message?: string }): Promise<TaskRecord> { throw new Error('not built yet') }
  cancel (taskId: string): Promise<TaskRecord> { throw new Error('not built yet') }
  retry (taskId: string): Promise<TaskRecord> { throw new Error('not built yet') }
  stats (): Promise<PoolCounts[]> { throw new Error('not built yet') }
  watch (listener: (news: News) => void): () => void { throw new Error('not built yet') }
  close (): Promise<void> { throw new Error('not built yet') }
}
