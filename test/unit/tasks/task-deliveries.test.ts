import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import { openTaskDatabase } from '../../../src/services/database.ts'
import type { NewTask } from '../../../src/services/tasks/task-record.ts'
import { openTaskStore } from '../../../src/services/tasks/task-store.ts'
import { claimOne, complete, facts, newTask, queueDefaults } from '../../contract/queue-rig.ts'
import { buildStore } from './task-store-fixture.ts'

function delivery (fence = 1): NewTask {
  const task = newTask()
  return { ...task, spec: { ...task.spec, fleet: { taskId: 'tsk_00000000000000000000', fence, attempt: 1 } } }
}

const codeOf = (promise: Promise<unknown>) => promise.then(() => undefined, (error: BerthError) => error.code)

test('a delivery is unreported until the fleet has been told everything, and what was told stays told', async t => {
  const rig = buildStore(t)
  const [first, second] = [delivery(), delivery()]
  await rig.store.deliveries.take(first)
  await rig.store.deliveries.take(second)
  await rig.queue.push([newTask()])
  assert.deepEqual(rig.store.deliveries.unreported().map(({ id, report }) => [id, report]), [[first.id, 'none'], [second.id, 'none']])
  await rig.store.deliveries.markReported(first.id, 'settled')
  await rig.store.deliveries.markReported(first.id, 'started')
  await rig.reopen()
  assert.deepEqual(rig.store.deliveries.unreported().map(({ report }) => report), ['settled', 'none'])
  await rig.store.deliveries.markReported(first.id, 'done')
  assert.deepEqual(rig.store.deliveries.unreported().map(({ id }) => id), [second.id])
  assert.equal((await rig.store.deliveries.tellAgain(first.id))?.report, 'none')
})

test('a delivery is queued once, however often it is taken', async t => {
  const rig = buildStore(t)
  const task = delivery()
  await rig.store.deliveries.take(task)
  const claim = await claimOne(rig)
  assert.equal((await rig.store.deliveries.take(task)).status, 'scheduled')
  await rig.queue.settle(claim, complete(rig))
  assert.equal((await rig.store.deliveries.take(task)).status, 'complete')
})

test('one that was refused has failed at once, and is no dead letter of this host', async t => {
  const rig = buildStore(t)
  const refusal = { reason: 'setup_failed', at: new Date().toISOString(), code: 'runtime_unknown', message: 'no such runtime' } as const
  const record = await rig.store.deliveries.take(delivery(), refusal)
  assert.deepEqual([record.status, record.end, record.isDeadLetter, record.report], ['failed', refusal, undefined, 'none'])
  assert.deepEqual(await rig.queue.claim({ owner: 'a', pools: ['default'], limit: 1, leaseMs: 1000, room: { cpuMillis: 1e6, memoryBytes: 1e9 }, capacity: { cpuMillis: 1e6, memoryBytes: 1e9 } }), [])
})

test('what the fleet has not been told of is neither deleted nor forgotten, and nothing of it is tried again', async t => {
  const rig = buildStore(t)
  const task = delivery()
  await rig.store.deliveries.take(task)
  await rig.queue.cancel(task.id)
  await rig.advance(1000)
  assert.equal(await codeOf(rig.store.table.remove(task.id)), 'not_reported')
  assert.deepEqual(await rig.store.table.prune({ maxAgeMs: 0, maxCount: 0 }), [])
  assert.equal(await codeOf(rig.queue.retry(task.id)), 'task_of_fleet')
  await rig.store.deliveries.markReported(task.id, 'done')
  assert.deepEqual(await rig.store.table.prune({ maxAgeMs: 0, maxCount: 0 }), [task.id])
})

test('abandoning one cancels what waits at once, has what runs ended, and leaves nothing to tell', async t => {
  const rig = buildStore(t)
  const [runs, waits] = [delivery(), delivery()]
  await rig.store.deliveries.take(runs)
  const claim = await claimOne(rig)
  await rig.queue.start(claim, facts(rig))
  await rig.store.deliveries.take(waits)
  const news: string[] = []
  rig.queue.watch(said => { if (said.kind === 'cancel') news.push(said.taskId) })
  assert.equal((await rig.store.deliveries.abandon(waits.id))?.status, 'cancelled')
  assert.notEqual((await rig.store.deliveries.abandon(runs.id))?.cancelRequestedAt, undefined)
  assert.deepEqual(news, [runs.id])
  assert.deepEqual(rig.store.deliveries.unreported(), [])
  await rig.store.deliveries.markReported(runs.id, 'done')
  assert.equal(rig.store.deliveries.get(runs.id)?.report, 'abandoned')
  assert.equal(await rig.store.table.remove(waits.id), true)
})

test('only what has not begun is given back, and what nobody is to blame for is not begun again here', async t => {
  const rig = buildStore(t)
  const [begun, waits] = [delivery(), delivery()]
  await rig.store.deliveries.take(begun)
  const claim = await claimOne(rig)
  await rig.store.deliveries.take(waits)
  assert.equal(await rig.store.deliveries.giveBack(begun.id), undefined)
  assert.equal((await rig.store.deliveries.giveBack(waits.id))?.end?.reason, 'drained')
  const returned = await rig.queue.release(claim, { delayMs: 0, isFault: false, message: 'the host was drained' })
  assert.deepEqual([returned.status, returned.end?.reason], ['cancelled', 'drained'])
})

test('a delivery that could not be begun twice has ended here, a task of this host has not', async t => {
  const rig = buildStore(t, { maxReturns: 10 })
  await rig.store.deliveries.take(delivery())
  await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true, message: 'no disk' })
  const record = await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true, message: 'no disk' })
  assert.deepEqual([record.status, record.end?.reason, record.isDeadLetter], ['failed', 'undeliverable', undefined])
  await rig.queue.push([newTask()])
  for (let round = 0; round < 2; round++) assert.equal((await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: true })).status, 'pending')
})

test('a database from before there were fleets is brought up to date, with its tasks', (t: TestContext) => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-tasks-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'tasks.db')
  openTaskDatabase(path).close()
  const old = new DatabaseSync(path)
  old.exec('DROP INDEX tasks_unreported; ALTER TABLE tasks DROP COLUMN report; PRAGMA user_version = 1')
  old.exec(`INSERT INTO tasks (seq, id, status, pool, lane, created_at, available_at, is_due, attempt, last_attempt, fence, faults, is_dead, outputs_done, attempts, history)
    VALUES (1, 'tsk_a', 'pending', 'default', 'x', 0, 0, 1, 1, 1, 0, 0, 0, 1, '[]', '[]')`)
  old.prepare('INSERT INTO task_specs (seq, spec) VALUES (1, ?)').run(JSON.stringify(newTask().spec))
  old.close()
  const store = openTaskStore({ db: openTaskDatabase(path), options: queueDefaults })
  t.after(() => store.close())
  assert.equal(store.table.get('tsk_a')?.status, 'pending')
  assert.deepEqual(store.deliveries.unreported(), [])
})
