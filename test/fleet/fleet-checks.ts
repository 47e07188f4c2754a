/** What must be true of a fleet's tasks after everything that can happen to its processes and its network. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Task, TaskPage } from '../../src/schemas/task.ts'
import { deliveryId } from '../../src/services/tasks/delivery-id.ts'
import type { TaskRecord } from '../../src/services/tasks/task-record.ts'
import type { FleetNodes } from './fleet-nodes.ts'

/** What a task of the test was told to do. */
export interface Expectation {
  exitCode: number
  isCancelled: boolean
}

export interface Verdict {
  tasks: number
  complete: number
  failed: number
  cancelled: number
  /** Starts of commands, over all hosts. */
  starts: number
  /** Starts of a task that had been started before, each after its lease had lapsed. */
  repeatedStarts: number
  /** Deliveries that were given back, or whose lease lapsed. */
  returned: number
  /** Everything that is not as promised. */
  broken: string[]
}

/** Which deliveries were started, on whichever host. */
export async function readStarts (nodes: FleetNodes, fakeHosts: readonly string[]): Promise<Map<string, number>> {
  const starts = new Map<string, number>()
  const count = (id: string) => starts.set(id, (starts.get(id) ?? 0) + 1)
  for (const name of fakeHosts) {
    for (const line of readFileSync(join(nodes.dirOf(name), 'sandboxes.jsonl'), 'utf8').split('\n').filter(Boolean)) {
      const { made } = JSON.parse(line) as { made?: { task: { id: string } } }
      if (made) count(made.task.id)
    }
  }
  for (const daemon of nodes.daemons) for (const task of await readTasks(daemon)) for (const { startedAt } of task.attempts) if (startedAt !== undefined) count(task.id)
  return starts
}

async function readTasks (daemon: FleetNodes['daemons'][number]): Promise<Task[]> {
  const tasks: Task[] = []
  for (let cursor = ''; ;) {
    const { body } = await daemon.request<TaskPage>('GET', `/v1/tasks?limit=100${cursor}`)
    tasks.push(...body.items)
    if (body.nextCursor === undefined) return tasks
    cursor = `&cursor=${encodeURIComponent(body.nextCursor)}`
  }
}

export function check (expected: ReadonlyMap<string, Expectation>, records: readonly TaskRecord[], starts: ReadonlyMap<string, number>): Verdict {
  const broken: string[] = []
  const known = new Map(records.map(record => [record.id, record]))
  const verdict: Verdict = { tasks: records.length, complete: 0, failed: 0, cancelled: 0, starts: 0, repeatedStarts: 0, returned: 0, broken }
  for (const id of expected.keys()) if (!known.has(id)) broken.push(`${id} was taken and is lost`)
  for (const record of records) {
    const { id, status, attempts, history } = record
    const wish = expected.get(id)
    if (!wish) {
      broken.push(`${id} is there and nobody was told of it: a request that was repeated made two`)
      continue
    }
    const finals = history.filter(change => ['complete', 'failed', 'cancelled'].includes(change.status))
    if (finals.length !== 1) broken.push(`${id} was settled ${finals.length} times: ${JSON.stringify(history)}`)
    if (!isRight(record, wish)) broken.push(`${id} is ${status} with ${JSON.stringify(record.end)}, and should have ended with ${wish.exitCode}`)
    else if (status === 'complete' || status === 'failed' || status === 'cancelled') verdict[status]++
    checkStarts(record, starts, verdict)
    verdict.returned += attempts.filter(attempt => attempt.status === 'returned').length
  }
  const deliveries = new Set(records.flatMap(({ id, attempts }) => attempts.map(({ fence }) => deliveryId({ taskId: id, fence }))))
  for (const id of starts.keys()) if (!deliveries.has(id)) broken.push(`delivery ${id} was started, and no task knows of it`)
  return verdict
}

function isRight ({ status, end }: TaskRecord, { exitCode, isCancelled }: Expectation): boolean {
  if (status === 'cancelled') return isCancelled
  if (end?.exitCode !== exitCode) return false
  return status === (exitCode === 0 ? 'complete' : 'failed')
}

/** Whoever starts a task that was started before must have taken it over from one whose lease had lapsed. */
function checkStarts ({ id, attempts }: TaskRecord, starts: ReadonlyMap<string, number>, verdict: Verdict): void {
  let before = 0
  let isLapsed = true
  for (const attempt of attempts) {
    const count = starts.get(deliveryId({ taskId: id, fence: attempt.fence })) ?? 0
    verdict.starts += count
    if (count > 1) verdict.broken.push(`${id}: delivery ${attempt.fence} was started ${count} times on its host`)
    if (count > 0 && before > 0) {
      verdict.repeatedStarts++
      if (!isLapsed) verdict.broken.push(`${id} was started again by delivery ${attempt.fence}, and no lease had lapsed: ${JSON.stringify(attempts)}`)
    }
    before += count
    isLapsed = /lease/.test(attempt.end?.message ?? '')
  }
}
