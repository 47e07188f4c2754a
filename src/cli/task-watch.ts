import { BerthError } from '../errors.ts'
import type { Task } from '../schemas/task.ts'
import { isKind, type BerthClient } from './client.ts'

export interface TaskWatchOptions {
  until?: 'ended' | 'running'
  signal?: AbortSignal
}

// Well below what proxies between us and the daemon allow for one answer.
const waitRoundMs = 25_000

/** Waits until a task has ended, or runs; asks in rounds, so that a daemon that restarts in between is no matter. */
export async function waitForTask (client: BerthClient, id: string, { until = 'ended', signal }: TaskWatchOptions = {}): Promise<Task> {
  for (;;) {
    try {
      return await client.request<Task>('GET', `/v1/tasks/${id}/wait`, { query: { timeoutMs: waitRoundMs, until }, signal, isPatient: true })
    } catch (error) {
      if (!isKind(error, 'timed_out')) throw error
    }
  }
}

export function cancelTask (client: BerthClient, id: string): Promise<Task> {
  return client.request<Task>('POST', `/v1/tasks/${id}/cancel`)
}

/** Cancels a task and waits for its end; at once: without the time of grace that its command has otherwise. */
export async function endTask (client: BerthClient, id: string, { atOnce = false } = {}): Promise<Task> {
  const { sandboxId } = await cancelTask(client, id)
  if (atOnce && sandboxId !== undefined) {
    await client.request('POST', `/v1/sandboxes/${sandboxId}/stop`, { body: { force: true } }).catch(error => {
      // It has ended meanwhile.
      if (!isKind(error, 'conflict') && !isKind(error, 'not_found')) throw error
    })
  }
  return waitForTask(client, id)
}

/** Deletes a task; when forced, ends it before. */
export async function removeTask (client: BerthClient, id: string, { force }: { force?: boolean }): Promise<void> {
  if (force) await endTask(client, id, { atOnce: true })
  await client.request('DELETE', `/v1/tasks/${id}`).catch(error => {
    if (force || !isKind(error, 'conflict')) throw error
    throw new BerthError('conflict', 'invalid_state', `${id} has not ended; cancel it first, or delete it with: berth rm -f ${id}`, { cause: error })
  })
}
