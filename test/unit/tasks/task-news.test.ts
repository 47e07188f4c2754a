import assert from 'node:assert/strict'
import { copyFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { openEventsDatabase } from '../../../src/services/database.ts'
import { EventLog } from '../../../src/services/events/event-log.ts'
import { TaskNews } from '../../../src/services/tasks/task-news.ts'
import { claim, claimOne, complete, facts, failed, pushAll } from '../../contract/queue-rig.ts'
import { buildStore } from './task-store-fixture.ts'

function build (t: TestContext) {
  const rig = buildStore(t)
  const path = join(rig.dir, 'events.db')
  const errors: unknown[] = []
  let events: EventLog
  let news: TaskNews
  const open = () => {
    events = new EventLog({ db: openEventsDatabase(path, { warn: () => {} }) })
    news = new TaskNews({ outbox: rig.store.outbox, events, onError: error => errors.push(error), retryAfterMs: 5000, confirmAfterMs: 1000 })
    news.start()
  }
  open()
  t.after(async () => {
    await news.close()
    events.close()
  })
  return {
    rig,
    path,
    errors,
    get events () { return events },
    get news () { return news },
    open,
    waiting: () => rig.store.outbox.read(0, 1000).length,
    told: () => events.read({ limit: 1000 }).map(({ type, taskId, sandboxId, data }) => ({ type, taskId, ...sandboxId && { sandboxId }, ...data })),
  }
}

async function settled (): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await setImmediate()
}

test('each change of a task is an event, in order, with what explains it', async t => {
  const { rig, told } = build(t)
  const [taskId] = await pushAll(rig, { maxAttempts: 2, retry: { backoffMs: 0, maxBackoffMs: 0 } })
  const first = await claimOne(rig)
  await rig.queue.start(first, facts(rig, 'sbx_1'))
  await rig.queue.settle(first, failed(rig, { exitCode: 3 }))
  await rig.queue.release(await claimOne(rig), { delayMs: 0, isFault: false })
  const second = await claimOne(rig)
  await rig.queue.start(second, facts(rig, 'sbx_2'))
  await rig.queue.settle(second, complete(rig))
  await rig.store.table.remove(taskId!)
  await settled()
  const change = { type: 'task.status', taskId }
  assert.deepEqual(told(), [
    { type: 'task.created', taskId, to: 'pending', attempt: 1 },
    { ...change, from: 'pending', to: 'scheduled', attempt: 1 },
    { ...change, from: 'scheduled', to: 'running', attempt: 1, sandboxId: 'sbx_1' },
    { ...change, from: 'running', to: 'pending', attempt: 1, reason: 'exited', exitCode: 3, sandboxId: 'sbx_1' },
    { ...change, from: 'pending', to: 'scheduled', attempt: 2 },
    { ...change, from: 'scheduled', to: 'pending', attempt: 2, reason: 'drained' },
    { ...change, from: 'pending', to: 'scheduled', attempt: 2 },
    { ...change, from: 'scheduled', to: 'running', attempt: 2, sandboxId: 'sbx_2' },
    { ...change, from: 'running', to: 'complete', attempt: 2, reason: 'exited', exitCode: 0, sandboxId: 'sbx_2' },
    { type: 'task.deleted', taskId },
  ])
})

test('the outbox is emptied once the event log has everything on the disk', async t => {
  const { rig, waiting, events } = build(t)
  await pushAll(rig, {}, {}, {})
  await settled()
  assert.deepEqual([events.lastSeq, waiting()], [3, 3])
  await rig.advance(1000)
  await settled()
  assert.deepEqual([events.lastSeq, waiting()], [3, 0])
})

test('wherever the two are cut off from each other, each event arrives once', async t => {
  const parts = build(t)
  const { rig, told, waiting } = parts
  await pushAll(rig, {}, {})
  await settled()
  // Taken over, but still in the outbox: the daemon dies here.
  parts.events.close()
  parts.open()
  await pushAll(rig, {})
  await settled()
  assert.equal(told().length, 3)
  await parts.news.close()
  assert.equal(waiting(), 0)
  parts.events.close()
  // Nobody takes over for a while.
  await pushAll(rig, {}, {})
  await rig.reopen()
  parts.open()
  await settled()
  assert.equal(told().length, 5)
  assert.equal(new Set(told().map(({ taskId }) => taskId)).size, 5)
})

test('an event log that is begun anew, or that a power cut set back, gets what it lacks', async t => {
  const parts = build(t)
  const { rig, path, told } = parts
  await pushAll(rig, {})
  await settled()
  parts.events.close()
  rmSync(path)
  parts.open()
  await settled()
  assert.equal(told().length, 1, 'it was not confirmed yet')
  await rig.advance(1000)
  await settled()
  parts.events.close()
  rmSync(path)
  parts.open()
  await pushAll(rig, {})
  await settled()
  assert.equal(told().length, 1, 'what was confirmed is not repeated')
})

test('a task database that was restored tells what happens from there on', async t => {
  const parts = build(t)
  const { rig, told } = parts
  const path = join(rig.dir, 'tasks.db')
  await pushAll(rig, {})
  await parts.news.close()
  parts.events.close()
  await rig.store.close()
  copyFileSync(path, `${path}.backup`)
  await rig.reopen()
  parts.open()
  await pushAll(rig, {}, {}, {})
  await parts.news.close()
  parts.events.close()
  assert.equal(rig.store.outbox.lastSeq, 4)
  await rig.store.close()
  copyFileSync(`${path}.backup`, path)
  await rig.reopen()
  parts.open()
  const [late] = await pushAll(rig, {})
  await settled()
  assert.deepEqual([told().length, told().at(-1)!.taskId], [5, late])
})

test('an event log in trouble stops no task, and gets everything when it is well again', async t => {
  const { rig, events, errors, told, waiting } = build(t)
  const working = events.relay.bind(events)
  events.relay = () => { throw new Error('disk full') }
  await pushAll(rig, {}, {})
  for (const one of await claim(rig, { limit: 2 })) await rig.queue.settle(one, complete(rig))
  await settled()
  assert.deepEqual([errors.length, told().length, waiting()], [1, 0, 6])
  await rig.advance(5000)
  await settled()
  assert.equal(errors.length, 2)
  events.relay = working
  await rig.advance(5000)
  await settled()
  assert.equal(told().length, 6)
})
