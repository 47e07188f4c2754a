/** Tasks from the wish to their end, against the same sandboxes made by hand, as many at once. */
import type { Sandbox } from '../src/schemas/sandbox.ts'
import type { Task, TaskAttempt, TaskBatchResult, TaskPage } from '../src/schemas/task.ts'
import type { BerthDaemon } from './berth-daemon.ts'
import { atMostRatio } from './claims.ts'
import { mustBe, timed } from './contestant.ts'
import { median } from './statistics.ts'
import type { TaskOutcome } from './tasks.ts'

export interface TaskBenchOptions {
  daemon: BerthDaemon
  dir: string
  programs: { runsc: string, conmon: string }
  signal: AbortSignal
}

const count = 40
const rounds = 3
const MiB = 1024 ** 2
const resources = { cpuMillis: 1000, memoryBytes: 64 * MiB }
const entrypoint = ['true']

export async function measureWhole ({ daemon, signal }: TaskBenchOptions): Promise<TaskOutcome> {
  const ours: number[] = []
  const byHand: number[] = []
  const lanes: number[] = []
  const underWay: number[] = []
  await runTasks(daemon)
  for (let round = 0; round < rounds; round++) {
    signal.throwIfAborted()
    const { durationMs, atOnce } = await runTasks(daemon)
    ours.push(durationMs / 1000)
    underWay.push(atOnce)
    const laneCount = Math.max(1, Math.round(atOnce))
    lanes.push(laneCount)
    byHand.push(await runByHand(daemon, laneCount) / 1000)
  }
  return {
    claims: [{ claim: `${count} tasks of true, from the first POST until all have ended`, unit: 's', ours, other: { name: 'the same sandboxes by REST', values: byHand }, target: atMostRatio(1.25) }],
    notes: [`of ${count} tasks ${median(underWay).toFixed(1)} were under way on average, so sandboxes were made, waited for and deleted ${median(lanes)} at once by hand`],
  }
}

/** One batch: a POST is no more than a file of its own for each task. */
async function runTasks (daemon: BerthDaemon): Promise<{ durationMs: number, atOnce: number }> {
  let tasks: Task[] = []
  const durationMs = await timed(async () => {
    const create = { image: 'berth/base', entrypoint, resources }
    const { items } = await daemon.request<TaskBatchResult>('POST', '/v1/tasks', 201, { tasks: Array.from({ length: count }, () => create) })
    tasks = await Promise.all(items.map(({ id }) => daemon.request<Task>('GET', `/v1/tasks/${id}/wait?timeoutMs=120000`, 200)))
  })
  for (const { id, status } of tasks) mustBe(`the status of ${id}`, status, 'complete')
  // Its sandbox is deleted behind the end of a task; by hand that is within the time, so it is here.
  const clearMs = await timed(() => untilNoSandbox(daemon))
  const attempts = tasks.flatMap(task => task.attempts)
  for (const { id } of tasks) await daemon.request('DELETE', `/v1/tasks/${id}`, 204)
  return { durationMs: durationMs + clearMs, atOnce: meanUnderWay(attempts) }
}

async function runByHand (daemon: BerthDaemon, laneCount: number): Promise<number> {
  let rest = count
  const runLane = async () => {
    while (rest-- > 0) {
      const { id } = await daemon.create({ entrypoint, resources })
      const { end } = await daemon.request<Sandbox>('GET', `/v1/sandboxes/${id}/wait?timeoutMs=120000`, 200)
      mustBe('the exit code of true', end?.exitCode, 0)
      await daemon.remove(id)
    }
  }
  return await timed(() => Promise.all(Array.from({ length: laneCount }, runLane)))
}

/** How many were under way at a time, over the time in which any was. */
function meanUnderWay (attempts: readonly TaskAttempt[]): number {
  const spans = attempts.map(({ claimedAt, endedAt = claimedAt }) => [Date.parse(claimedAt), Date.parse(endedAt)] as const)
  const whole = Math.max(...spans.map(([, end]) => end)) - Math.min(...spans.map(([start]) => start))
  return spans.reduce((sum, [start, end]) => sum + end - start, 0) / whole
}

async function untilNoSandbox (daemon: BerthDaemon): Promise<void> {
  while ((await daemon.request<TaskPage>('GET', '/v1/sandboxes?limit=1', 200)).items.length > 0);
}
