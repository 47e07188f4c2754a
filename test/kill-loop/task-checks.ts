/** Holds every task against what it was to be, and looks at what is left. */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Sandbox, SandboxPage } from '../../src/schemas/sandbox.ts'
import type { QueueStatus, Task } from '../../src/schemas/task.ts'
import { findRemains } from '../support/remains.ts'
import type { TestDaemon } from '../support/test-daemon.ts'
import type { TaskCalls } from './task-calls.ts'
import { limitedLabel } from './task-kinds.ts'
import type { PushedTask } from './task-load.ts'

const atOnce = 4
const withinMs = 30_000

export interface CheckedTasks {
  logBytes: number
  returned: number
  /** When the last one ended, in milliseconds since the epoch. */
  lastEndMs: number
}

export async function checkTasks (calls: TaskCalls, tasks: readonly PushedTask[]): Promise<CheckedTasks> {
  const { ledger } = calls
  const checked: CheckedTasks = { logBytes: 0, returned: 0, lastEndMs: 0 }
  const waiting = [...tasks]
  const checkSome = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const { id, name, kind, check } = next
      const task = await calls.get(id)
      const log = { stdout: await calls.log(id, 'stdout'), stderr: await calls.log(id, 'stderr') }
      for (const problem of await check(task, log)) ledger.blame(`${name} (${id}): ${problem}`)
      checked.logBytes += log.stdout.length + log.stderr.length
      checked.returned += task.attempts.filter(({ status }) => status === 'returned').length
      checked.lastEndMs = Math.max(checked.lastEndMs, Date.parse(task.endedAt ?? ''))
      ledger.count(`kind ${kind}`)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, checkSome))
  const all = await calls.list()
  const known = new Set(tasks.map(({ id }) => id))
  for (const { id, labels } of all) ledger.expect(known.has(id), () => `${id} (${labels['name']}) is there, and nobody was told of it`)
  ledger.expect(new Set(all.map(({ id }) => id)).size === known.size, () => `${all.length} tasks are there for ${known.size}`)
  for (const problem of judgeLimit(all)) ledger.blame(problem)
  return checked
}

/** Of the tasks with the limited label never more than allowed were under way together, by the times of their attempts. */
function judgeLimit (tasks: readonly Task[]): string[] {
  const attempts = tasks.filter(({ labels }) => labels[limitedLabel.name] === limitedLabel.value).flatMap(task => task.attempts)
  const changes = attempts.flatMap(({ claimedAt, endedAt }) => [{ at: Date.parse(claimedAt), by: 1 }, { at: Date.parse(endedAt ?? claimedAt), by: -1 }])
  // What ends within a millisecond has made room for what begins in it.
  changes.sort((a, b) => a.at - b.at || a.by - b.by)
  let underWay = 0
  const most = Math.max(0, ...changes.map(({ by }) => underWay += by))
  return most <= limitedLabel.max ? [] : [`${most} tasks with ${limitedLabel.name}=${limitedLabel.value} were under way together, for a limit of ${limitedLabel.max}`]
}

/** No sandbox is left, none leaks, all room is free; and nothing is left of tasks that are deleted. */
export async function checkHost (daemon: TestDaemon, calls: TaskCalls, roomBefore: QueueStatus['free']): Promise<void> {
  const { ledger, client } = calls
  let present: Sandbox[] = []
  const areGone = await pollUntil(async () => {
    present = await listSandboxes(calls, '')
    return present.length === 0
  }, withinMs)
  ledger.expect(areGone, () => `sandboxes are left: ${present.map(({ id, status, taskId }) => `${id} ${status} of ${taskId}`).join(', ')}`)
  for (const { id, leaks, taskId } of await listSandboxes(calls, 'deleted=true&')) {
    ledger.expect(leaks.length === 0, () => `${id} of ${taskId} leaks: ${JSON.stringify(leaks)}`)
  }
  const { body: queue } = await client.send<QueueStatus>('GET', '/queue')
  for (const { pool, delayed, pending, scheduled, running } of queue.pools) {
    ledger.expect(delayed + pending + scheduled + running === 0, () => `the queue still counts tasks in ${pool}: ${JSON.stringify(queue.pools)}`)
  }
  ledger.expect(isDeepStrictEqual(queue.free, roomBefore), () => `${JSON.stringify(roomBefore)} were free before the first task: ${JSON.stringify(queue)}`)
  for (const { id } of await calls.list()) await calls.remove(id)
  const dir = join(daemon.stateDir, 'tasks')
  const left = async () => await readdir(dir).catch(() => [])
  ledger.expect(await pollUntil(async () => (await left()).length === 0, withinMs), () => `directories of deleted tasks are left in ${dir}`)
  for (const line of await findRemains(daemon)) ledger.blame(`left on the host: ${line}`)
  await daemon.end('SIGTERM')
  const exitCode = await daemon.reclaim()
  ledger.expect(exitCode === 0, () => `--reclaim-and-exit ended with ${exitCode}`)
  for (const line of await daemon.leftovers()) ledger.blame(`left after --reclaim-and-exit: ${line}`)
}

async function listSandboxes (calls: TaskCalls, query: string): Promise<Sandbox[]> {
  const all: Sandbox[] = []
  for (let cursor = ''; ;) {
    const { body } = await calls.client.send<SandboxPage>('GET', `/sandboxes?${query}limit=1000${cursor}`)
    all.push(...body.items)
    if (body.nextCursor === undefined) return all
    cursor = `&cursor=${body.nextCursor}`
  }
}
