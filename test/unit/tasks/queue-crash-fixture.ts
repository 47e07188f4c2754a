/** A process that pushes, claims, starts, renews, settles and cancels without a pause, and says on its standard output what it was told. */
import { writeSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { openEventsDatabase, openTaskDatabase } from '../../../src/services/database.ts'
import { EventLog } from '../../../src/services/events/event-log.ts'
import { TaskNews } from '../../../src/services/tasks/task-news.ts'
import { openTaskStore } from '../../../src/services/tasks/task-store.ts'
import { newTask, plenty } from '../../contract/queue-rig.ts'

export type Told =
  | { pushed: string }
  | { claimed: string, fence: number }
  | { settled: string, fence: number, status: 'complete' | 'failed' }
  | { cancelled: string }

const [dir = '', owner = ''] = process.argv.slice(2)

const store = openTaskStore({ db: openTaskDatabase(join(dir, 'tasks.db')), options: { fairLabel: 'tenant', labelLimits: [] } })
const events = new EventLog({ db: openEventsDatabase(join(dir, 'events.db'), { warn: () => {} }) })
new TaskNews({ outbox: store.outbox, events, confirmAfterMs: 5 }).start()
const { queue } = store

// Written at once: what was said is said, whenever this process dies.
const tell = (told: Told) => writeSync(1, `${JSON.stringify(told)}\n`)

async function settle ({ taskId, fence }: { taskId: string, fence: number }, index: number): Promise<void> {
  const end = { reason: 'exited', at: new Date(0).toISOString(), exitCode: index % 3 } as const
  const status = index % 3 === 0 ? 'complete' : 'failed'
  await queue.settle({ taskId, fence }, { status, end, isRetryable: true })
  tell({ settled: taskId, fence, status })
}

async function work (index: number): Promise<void> {
  const task = newTask({ maxAttempts: 2, retry: { backoffMs: 0, maxBackoffMs: 0 }, labels: { tenant: `t${index % 3}` } })
  await queue.push([task])
  tell({ pushed: task.id })
  if (index % 7 === 0) {
    const { status } = await queue.cancel(task.id)
    if (status === 'cancelled') tell({ cancelled: task.id })
  }
  for (const claim of await queue.claim({ owner, pools: ['default'], limit: 1 + index % 2, leaseMs: 3_600_000, room: plenty, capacity: plenty })) {
    tell({ claimed: claim.taskId, fence: claim.fence })
    await queue.start(claim, { sandboxId: 'sbx_x', logCursor: '1:0', startedAt: new Date(0).toISOString(), timings: [] })
    await queue.renew([claim], 3_600_000)
    if (index % 5 !== 0) await settle(claim, index)
  }
}

for (const claim of await queue.held(owner, 3_600_000)) await settle(claim, claim.fence)
for (let index = 0; ; index += 8) {
  await Promise.all(Array.from({ length: 8 }, (_, worker) => work(index + worker)))
  await setImmediate()
}
