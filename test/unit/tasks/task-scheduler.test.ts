import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import pino from 'pino'
import { BerthError } from '../../../src/errors.ts'
import type { SandboxEnd } from '../../../src/schemas/sandbox.ts'
import type { SandboxLifecycle } from '../../../src/services/sandboxes/sandbox-lifecycle.ts'
import { HostRoom } from '../../../src/services/tasks/host-room.ts'
import type { Claim, ClaimRequest, Outcome, TaskQueue } from '../../../src/services/tasks/task-queue.ts'
import type { TaskRecord } from '../../../src/services/tasks/task-record.ts'
import { TaskScheduler } from '../../../src/services/tasks/task-scheduler.ts'

const at = '2026-01-01T00:00:00.000Z'
const MiB = 1024 ** 2

/** A sandbox that ends when the test says so. */
class FakeSandbox {
  readonly record: {
    id: string, task: { id: string, fence: number, logCursor: string }, timings: never[], startedAt: string, end?: SandboxEnd, deletedAt?: string, isDeleting?: boolean
  }

  readonly #watchers = new Set<() => void>()
  stops: unknown[] = []

  constructor (task: { id: string, fence: number, logCursor: string }) {
    this.record = { id: `sbx_${task.id}_${task.fence}`, task, timings: [], startedAt: at }
  }

  get status (): string { return this.record.end ? 'stopped' : 'running' }
  get hasEnded (): boolean { return this.record.end !== undefined }
  watch (listener: () => void): () => void {
    this.#watchers.add(listener)
    return () => this.#watchers.delete(listener)
  }

  end (end: Partial<SandboxEnd>): void {
    this.record.end = { reason: 'exited', exitCode: 0, at, ...end }
    for (const watcher of this.#watchers) watcher()
  }

  async stop (options: { reason: SandboxEnd['reason'] }): Promise<void> {
    this.stops.push(options)
    this.end({ reason: options.reason, exitCode: 143 })
  }
}

interface Rig {
  scheduler: TaskScheduler
  sandboxes: FakeSandbox[]
  waiting: Claim[]
  asked: ClaimRequest[]
  told: string[]
  outcomes: Outcome[]
  listeners: Set<Parameters<TaskQueue['watch']>[0]>
  settleFails: { times: number, error?: Error }
  createFails: { error?: Error }
  held: Claim[]
  heldBack: { pressure: number }
}

function rig (): Rig {
  const parts: Omit<Rig, 'scheduler'> = {
    sandboxes: [], waiting: [], asked: [], told: [], outcomes: [], listeners: new Set(), settleFails: { times: 0 }, createFails: {}, held: [], heldBack: { pressure: 0 },
  }
  const settled = (claim: { taskId: string }) => ({ id: claim.taskId, status: 'complete', attempt: 1, attempts: [] }) as unknown as TaskRecord
  const queue = {
    async claim (request: ClaimRequest) {
      parts.asked.push(request)
      return parts.waiting.splice(0, 1)
    },
    async held () { return parts.held },
    async start ({ taskId }: { taskId: string }) { parts.told.push(`start ${taskId}`) },
    async settle (claim: { taskId: string }, outcome: Outcome) {
      if (parts.settleFails.times-- > 0) throw parts.settleFails.error ?? new Error('disk full')
      parts.told.push(`settle ${claim.taskId} ${outcome.status}`)
      parts.outcomes.push(outcome)
      return settled(claim)
    },
    async release (claim: { taskId: string }) {
      parts.told.push(`release ${claim.taskId}`)
      return settled(claim)
    },
    async renew () { return [] },
    watch (listener: Parameters<TaskQueue['watch']>[0]) {
      parts.listeners.add(listener)
      return () => parts.listeners.delete(listener)
    },
  } as unknown as TaskQueue
  const room = new HostRoom({
    cpuOvercommit: 4,
    reservedMemoryBytes: 0,
    stateDir: '/',
    overheadBytes: 0,
    others: () => [],
    readKernel: async () => ({ availableMemoryBytes: Infinity, memoryPressurePercent: parts.heldBack.pressure, freeDiskBytes: Infinity }),
  })
  const scheduler = new TaskScheduler({
    queue,
    room,
    owner: 'host',
    pools: ['default'],
    leaseMs: 60_000,
    maxStarting: 2,
    logger: pino({ level: 'silent' }),
    startLog: async () => '0:0',
    onChange: () => {},
    sandboxes: {
      all: () => parts.sandboxes as unknown as SandboxLifecycle[],
      ofTask: (id, fence) => parts.sandboxes.find(({ record }) => record.task.id === id && record.task.fence === fence) as unknown as SandboxLifecycle | undefined,
      async createForTask (_input, task) {
        if (parts.createFails.error) throw parts.createFails.error
        const sandbox = new FakeSandbox(task)
        parts.sandboxes.push(sandbox)
        return sandbox as unknown as SandboxLifecycle
      },
      async removeOfTask (id) {
        parts.told.push(`remove ${id}`)
        parts.sandboxes.splice(parts.sandboxes.findIndex(({ record }) => record.id === id), 1)
      },
    },
  })
  return { scheduler, ...parts }
}

function claimOf (taskId: string, facts: { fence?: number, status?: string, cancelRequestedAt?: string } = {}): Claim {
  const { fence = 1, status = 'scheduled', ...rest } = facts
  const spec = { image: 'berth/base', env: {}, labels: {}, resources: {}, requests: { cpuMillis: 1000, memoryBytes: 64 * MiB } }
  return { taskId, fence, leaseUntil: 0, task: { id: taskId, status, spec, attempts: [], attempt: 1, ...rest } as unknown as TaskRecord }
}

async function settle (): Promise<void> {
  for (let round = 0; round < 30; round++) await turn()
}

test('a task is run from its sandbox to its report, and then nothing is left', async () => {
  const { scheduler, waiting, sandboxes, told } = rig()
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  sandboxes[0]?.end({ exitCode: 0 })
  await settle()
  assert.deepEqual(told, ['start a', 'settle a complete', 'remove sbx_a_1'])
  assert.equal(sandboxes.length, 0)
  await scheduler.close()
})

test('each claim is asked for with the room that those before it have left', async () => {
  const { scheduler, waiting, asked } = rig()
  waiting.push(claimOf('a'), claimOf('b'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  const [first, second, third] = asked
  assert.equal((first?.room.cpuMillis ?? 0) - (second?.room.cpuMillis ?? 0), 1000)
  assert.equal((second?.room.memoryBytes ?? 0) - (third?.room.memoryBytes ?? 0), 64 * MiB)
  await scheduler.close()
})

test('nothing is asked for while the kernel says that memory is short, and the queue says so', async () => {
  const { scheduler, waiting, asked, heldBack } = rig()
  heldBack.pressure = 50
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  assert.equal(asked.length, 0)
  assert.equal(scheduler.heldBack, 'memory_pressure')
  heldBack.pressure = 0
  scheduler.poke()
  await settle()
  assert.equal(waiting.length, 0)
  await scheduler.close()
})

test('a daemon that drains takes nothing more, and what runs goes on', async () => {
  const { scheduler, waiting, sandboxes, told } = rig()
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  scheduler.drain()
  waiting.push(claimOf('b'))
  scheduler.poke()
  await settle()
  assert.equal(waiting.length, 1)
  sandboxes[0]?.end({ exitCode: 0 })
  await settle()
  assert.ok(told.includes('settle a complete'))
  assert.equal(scheduler.heldBack, 'stopping')
  await scheduler.close()
})

test('what an earlier daemon had claimed: running is waited for, ended is reported with its exit code, not begun is begun', async () => {
  const { scheduler, held, sandboxes, told, outcomes } = rig()
  const task = (id: string) => ({ id, fence: 1, logCursor: '0:0' })
  sandboxes.push(new FakeSandbox(task('runs')), new FakeSandbox(task('ended')))
  sandboxes[1]?.end({ exitCode: 7 })
  held.push(claimOf('runs', { status: 'running' }), claimOf('ended'), claimOf('new'))
  await scheduler.adopt()
  await settle()
  assert.ok(!told.includes('start runs'), 'that was told before')
  assert.ok(told.includes('start ended'), 'it had not been told before')
  assert.equal(outcomes[0]?.end.exitCode, 7)
  assert.ok(told.includes('start new'))
  assert.deepEqual(sandboxes.map(({ record }) => record.task.id), ['runs', 'new'])
  await scheduler.close()
})

test('one that ran and whose sandbox is gone is not run again', async () => {
  const { scheduler, held, outcomes, sandboxes } = rig()
  held.push(claimOf('a', { status: 'running' }))
  await scheduler.adopt()
  await settle()
  assert.equal(outcomes[0]?.end.reason, 'sandbox_deleted')
  assert.equal(outcomes[0]?.isRetryable, false)
  assert.equal(sandboxes.length, 0)
  await scheduler.close()
})

test('a sandbox of a delivery that is over is deleted', async () => {
  const { scheduler, sandboxes, held } = rig()
  sandboxes.push(new FakeSandbox({ id: 'a', fence: 1, logCursor: '0:0' }))
  held.push(claimOf('a', { fence: 2 }))
  await scheduler.adopt()
  await settle()
  assert.deepEqual(sandboxes.map(({ record }) => record.task.fence), [2])
  await scheduler.close()
})

test('cancelling stops the sandbox, and reports what it was', async () => {
  const { scheduler, waiting, sandboxes, outcomes, listeners } = rig()
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  for (const listener of listeners) listener({ kind: 'cancel', taskId: 'a' })
  await settle()
  assert.deepEqual(outcomes.map(({ status, end }) => `${status} ${end.reason}`), ['cancelled cancelled'])
  assert.equal(sandboxes.length, 0)
  await scheduler.close()
})

test('one that is to be cancelled and has no sandbox yet gets none', async () => {
  const { scheduler, held, sandboxes, told } = rig()
  held.push(claimOf('a', { cancelRequestedAt: at }))
  await scheduler.adopt()
  await settle()
  assert.deepEqual(told, ['settle a cancelled'])
  assert.equal(sandboxes.length, 0)
  await scheduler.close()
})

test('a report that finds the claim stale ends the sandbox and reports nothing', async () => {
  const { scheduler, waiting, sandboxes, told, settleFails } = rig()
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  Object.assign(settleFails, { times: 1, error: new BerthError('conflict', 'stale_claim', 'somebody else has it') })
  sandboxes[0]?.end({ exitCode: 0 })
  await settle()
  assert.deepEqual(told, ['start a', 'remove sbx_a_1'])
  await scheduler.close()
})

test('a daemon that ends touches no sandbox and reports nothing', async () => {
  const { scheduler, waiting, sandboxes, told } = rig()
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  await scheduler.close()
  sandboxes[0]?.end({ exitCode: 0 })
  await settle()
  assert.deepEqual(told, ['start a'])
  assert.equal(sandboxes.length, 1)
})

test('a sandbox that cannot be made is reported by what was wrong', async () => {
  const { scheduler, waiting, told, createFails } = rig()
  createFails.error = new BerthError('unavailable', 'registry_unavailable', 'no answer')
  waiting.push(claimOf('a'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  createFails.error = new BerthError('not_found', 'image_not_found', 'no such image')
  waiting.push(claimOf('b'))
  scheduler.poke()
  await settle()
  assert.deepEqual(told, ['release a', 'settle b failed'])
  await scheduler.close()
})

test('nothing is claimed before what an earlier daemon had claimed is known', async () => {
  const { scheduler, waiting, asked, sandboxes } = rig()
  waiting.push(claimOf('a'))
  scheduler.poke()
  await settle()
  assert.equal(asked.length, 0)
  await scheduler.adopt()
  scheduler.start()
  await settle()
  assert.equal(sandboxes.length, 1)
  await scheduler.close()
})

test('a daemon that takes tasks again after it has drained begins what waits', async () => {
  const { scheduler, waiting, sandboxes } = rig()
  await scheduler.adopt()
  scheduler.drain()
  scheduler.start()
  waiting.push(claimOf('a'))
  scheduler.undrain()
  await settle()
  assert.deepEqual([sandboxes.length, scheduler.counts, scheduler.heldBack], [1, { running: 1, starting: 0 }, undefined])
  await scheduler.close()
})

test('what is stopped because the host leaves is given back, once its sandbox has ended', async () => {
  const { scheduler, waiting, sandboxes, told } = rig()
  waiting.push(claimOf('a'), claimOf('b'))
  await scheduler.adopt()
  scheduler.start()
  await settle()
  const stops = sandboxes.map(sandbox => sandbox.stops)
  await scheduler.stopAll(500)
  assert.deepEqual(stops, [[{ reason: 'drained', graceMs: 500 }], [{ reason: 'drained', graceMs: 500 }]])
  assert.deepEqual(told.filter(line => !line.startsWith('start')).sort(), ['release a', 'release b', 'remove sbx_a_1', 'remove sbx_b_1'])
  waiting.push(claimOf('c'))
  scheduler.poke()
  await settle()
  assert.equal(scheduler.counts.running, 0)
  await scheduler.close()
})
