/** How a task looks on the wire. */
import type { Task, TaskAttempt } from '../../schemas/task.ts'
import { viewOf } from '../outputs/output-settings.ts'
import type { AttemptRecord, TaskRecord } from './task-record.ts'
import { definedOf } from './task-spec.ts'

export function toTask (record: TaskRecord): Task {
  const { spec, status, attempts } = record
  const { image, env, resources, requests, labels, pool, priority, maxAttempts, retry } = spec
  const last = attempts.at(-1)
  const isUnderWay = status === 'scheduled' || status === 'running'
  const { entrypoint, workingDir, user, timeoutMs, idleTimeoutMs, runtime, hostname, network, imagePull, hostLabels, fleet } = spec
  return {
    id: record.id,
    status,
    image,
    env,
    resources,
    requests,
    labels,
    ...definedOf({ entrypoint, workingDir, user, timeoutMs, idleTimeoutMs, runtime, hostname, network, imagePull, hostLabels }),
    ...fleet && { fleet: { taskId: fleet.taskId, attempt: fleet.attempt, ...definedOf({ externalId: fleet.externalId }) } },
    pool,
    priority,
    maxAttempts,
    retry,
    attempt: record.attempt,
    attempts: attempts.map(toAttempt),
    createdAt: record.createdAt,
    ...definedOf({
      sandboxId: isUnderWay ? last?.sandboxId : undefined,
      availableAt: status === 'pending' ? record.availableAt : undefined,
      scheduledAt: status === 'pending' ? undefined : last?.claimedAt,
      startedAt: status === 'pending' ? undefined : last?.startedAt,
      endedAt: record.endedAt,
      cancelRequestedAt: record.cancelRequestedAt,
      end: record.end,
      isDeadLetter: record.isDeadLetter,
    }),
    outputs: spec.outputs.map(viewOf),
  }
}

function toAttempt ({ fence: _, ...attempt }: AttemptRecord): TaskAttempt {
  return attempt
}
