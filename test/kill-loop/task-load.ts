/** The load of the loop over tasks: pushes them, alone and in batches, before the first kill and between kills. */
import { setTimeout as delay } from 'node:timers/promises'
import type { TaskCreate } from '../../src/schemas/task.ts'
import { pick, type Random } from './random.ts'
import { taskKinds, type PlannedTask, type TaskKind, type TaskWorld } from './task-kinds.ts'

/** That many are there before the first kill. */
const shareAtFirst = 0.2
/** All are there by this share of the kills: the last kill hits tasks too. */
const pushedBy = 1
const largestBatch = 12
const pauseMs = 50
/** With four times the processors to be asked for, a dozen or so run at once on two cores. */
const requests = { cpuMillis: 600, memoryBytes: 64 * 1024 ** 2 }

export interface PushedTask extends Pick<PlannedTask, 'check'> {
  id: string
  name: string
  kind: string
  /** Settled when all that is done to it has been done. */
  meanwhile: Promise<void>
}

/** `killed` says which share of the kills is over. */
export async function pushTasks (world: TaskWorld, count: number, killed: () => number): Promise<PushedTask[]> {
  const { random, calls } = world
  const waiting = mixKinds(random, count)
  const whole = waiting.length
  const pushed: PushedTask[] = []
  while (waiting.length > 0) {
    const due = Math.ceil(whole * Math.min(1, shareAtFirst + (1 - shareAtFirst) * killed() / pushedBy)) - pushed.length
    if (due <= 0) {
      await delay(pauseMs)
      continue
    }
    const size = random() < 0.5 ? 1 : Math.min(due, 2 + Math.floor(random() * (largestBatch - 1)))
    const planned = waiting.splice(0, size).map(([kind, make], index) => {
      const name = `${kind}-${pushed.length + index}`
      const plan = make(world, name)
      return { kind, name, plan, create: fillIn(plan.create, { random, name, kind }) }
    })
    const creates = planned.map(({ create }) => create)
    const key = planned[0]?.name ?? ''
    const push = async () => creates.length === 1 ? [await calls.push(key, creates[0] ?? {})] : await calls.pushBatch(key, creates)
    // What is not answered as it should be is written down by the call.
    const tasks = await push().catch(() => undefined)
    if (!tasks) continue
    if (random() < 0.2) {
      const again = await push().catch(() => [])
      calls.ledger.expect(again.map(({ id }) => id).join() === tasks.map(({ id }) => id).join(), () => `the push of ${key} was sent again, and answered other tasks`)
    }
    calls.ledger.expect(tasks.length === planned.length, () => `the push of ${key} had ${planned.length} tasks, and was answered ${tasks.length}`)
    for (const [index, { kind, name, plan }] of planned.entries()) {
      const id = tasks[index]?.id ?? ''
      const meanwhile = (plan.meanwhile?.(id) ?? Promise.resolve()).catch((error: Error) => calls.ledger.blame(`${name} (${id}): ${error.message}`))
      pushed.push({ id, name, kind, check: plan.check, meanwhile })
    }
  }
  return pushed
}

/** So many tasks in the shares of their kinds, at least one of each, in a random order. */
function mixKinds (random: Random, count: number): Array<[string, TaskKind['make']]> {
  const kinds = Object.entries(taskKinds)
  const whole = kinds.reduce((sum, [, { share }]) => sum + share, 0)
  const mixed: Array<[string, TaskKind['make']]> = kinds.flatMap(([name, { share, make }]) => Array.from({ length: Math.max(1, Math.round(share / whole * count)) }, (): [string, TaskKind['make']] => [name, make]))
  while (mixed.length < count) mixed.push(['true', taskKinds['true']?.make ?? neverMade])
  return mixed.map(item => ({ item, place: random() })).sort((a, b) => a.place - b.place).map(({ item }) => item)
}

function neverMade (): never {
  throw new Error('there is no such kind')
}

function fillIn (create: Partial<TaskCreate>, { random, name, kind }: { random: Random, name: string, kind: string }): Partial<TaskCreate> {
  return {
    image: 'berth/base',
    resources: { cpuMillis: 1000, memoryBytes: requests.memoryBytes },
    requests,
    priority: Math.floor(random() * 7) - 3,
    ...create,
    labels: { kind, name, tenant: pick(random, ['one', 'two', 'three']), ...create.labels },
  }
}
