/** Tasks of a fleet as its queue keeps them. */
import { randomId } from '../../../../src/lib/id.ts'
import type { AttemptRecord, TaskRecord, TaskSpec } from '../../../../src/services/tasks/task-record.ts'

const at = '2026-03-01T09:30:00.000Z'
const GiB = 1024 ** 3

export function makeAttempt (fields: Partial<AttemptRecord> & { fence: number }): AttemptRecord {
  return { number: 1, status: 'running', workerId: 'hst_a', claimedAt: at, startedAt: at, logCursor: '0:0', ...fields }
}

export function makeRecord ({ spec, ...fields }: Partial<Omit<TaskRecord, 'spec'>> & { spec?: Partial<TaskSpec> } = {}): TaskRecord {
  return {
    id: randomId('tsk'),
    status: 'running',
    attempt: 1,
    attempts: [],
    history: [],
    createdAt: at,
    availableAt: at,
    ...fields,
    spec: {
      image: 'berth/base',
      env: {},
      resources: { cpuMillis: 1000, memoryBytes: GiB, pids: 512 },
      requests: { cpuMillis: 1000, memoryBytes: GiB },
      labels: {},
      pool: 'default',
      priority: 0,
      maxAttempts: 1,
      retry: { backoffMs: 0, maxBackoffMs: 0 },
      outputs: [],
      ...spec,
    },
  }
}
