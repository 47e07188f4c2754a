/** A task service in memory, for the HTTP face. */
import { BerthError } from '../../../src/errors.ts'
import { randomId } from '../../../src/lib/id.ts'
import type { Tasks } from '../../../src/routes/tasks.ts'
import type { QueueStatus, Task, TaskCreate } from '../../../src/schemas/task.ts'

const GiB = 1024 ** 3

/** A task as it is after a plain create. */
export function makeTask (input: Partial<TaskCreate> = {}, other: Partial<Task> = {}): Task {
  return {
    id: randomId('tsk'),
    status: 'pending',
    image: input.image ?? 'berth/base',
    env: input.env ?? {},
    resources: { cpuMillis: 2000, memoryBytes: 2 * GiB, pids: 512, ...input.resources },
    requests: { cpuMillis: 2000, memoryBytes: 2 * GiB },
    labels: input.labels ?? {},
    pool: input.pool ?? 'default',
    priority: input.priority ?? 0,
    maxAttempts: input.maxAttempts ?? 1,
    retry: { backoffMs: 1000, maxBackoffMs: 300_000 },
    attempt: 1,
    attempts: [],
    createdAt: '2026-03-01T09:30:00.000Z',
    outputs: (input.outputs ?? []).map(({ secret, ...view }) => ({ ...view, ...(secret !== undefined && { isSigned: true }) })),
    ...other,
  }
}

export const queueStatus: QueueStatus = {
  pools: [{ pool: 'default', isServed: true, delayed: 1, pending: 2, scheduled: 0, running: 3, deadLetters: 4, oldestPendingMs: 1500 }],
  capacity: { cpuMillis: 4000, memoryBytes: 8 * GiB },
  free: { cpuMillis: 500, memoryBytes: GiB },
}

export function makeTasks (note: (name: string, ...args: unknown[]) => void): Tasks {
  const tasks = new Map<string, Task>()
  const get = (id: string): Task => {
    const found = tasks.get(id)
    if (!found) throw new BerthError('not_found', 'task_not_found', `there is no task ${id}`)
    return found
  }
  const add = (input: TaskCreate): Task => {
    const made = makeTask(input)
    tasks.set(made.id, made)
    return made
  }
  const act = (name: string) => async (id: string, ...rest: unknown[]) => {
    note(name, id, ...rest)
    return get(id)
  }
  return {
    create: async (input, options) => {
      note('createTask', input, options)
      return add(input)
    },
    createBatch: async (inputs, options) => {
      note('createBatch', inputs, options)
      return inputs.map(add)
    },
    list: filter => {
      note('listTasks', filter)
      return { items: [...tasks.values()].slice(0, filter.limit) }
    },
    get: async id => get(id),
    wait: act('waitTask'),
    cancel: act('cancelTask'),
    retry: act('retryTask'),
    remove: async id => {
      note('removeTask', id)
      get(id)
      tasks.delete(id)
    },
    queue: async () => queueStatus,
  }
}
