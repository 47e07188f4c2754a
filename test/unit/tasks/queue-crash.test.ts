import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openEventsDatabase, openTaskDatabase } from '../../../src/services/database.ts'
import { EventLog } from '../../../src/services/events/event-log.ts'
import { TaskNews } from '../../../src/services/tasks/task-news.ts'
import { openTaskStore } from '../../../src/services/tasks/task-store.ts'
import { plenty } from '../../contract/queue-rig.ts'
import type { Told } from './queue-crash-fixture.ts'

const kills = 20
const fixture = join(import.meta.dirname, 'queue-crash-fixture.ts')

/** Runs the fixture until it has worked for a while, kills it, and answers what it had been told. */
async function runAndKill (dir: string): Promise<Told[]> {
  const child = spawn(process.execPath, [fixture, dir, 'hst_a'], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
  const closed = once(child, 'close')
  await once(child.stdout, 'data')
  await delay(Math.random() * 150)
  assert.equal(child.exitCode, null, 'it runs until it is killed')
  child.kill('SIGKILL')
  await closed
  // The last line may be cut off.
  return text.split('\n').slice(0, -1).map(line => JSON.parse(line) as Told)
}

test(`what a queue has told is so after each of ${kills} kills, and each event is told once`, async t => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-crash-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const told: Told[] = []
  for (let kill = 0; kill < kills; kill++) {
    const before = told.length
    told.push(...await runAndKill(dir))
    assert.ok(told.length > before)
  }
  const store = openTaskStore({ db: openTaskDatabase(join(dir, 'tasks.db')), options: { fairLabel: 'tenant', labelLimits: [] } })
  const events = new EventLog({ db: openEventsDatabase(join(dir, 'events.db'), { warn: () => {} }) })
  const news = new TaskNews({ outbox: store.outbox, events })
  news.start()
  await news.close()

  const deliveries = new Set<string>()
  for (const one of told) {
    const id = 'pushed' in one ? one.pushed : 'claimed' in one ? one.claimed : 'settled' in one ? one.settled : one.cancelled
    const task = store.table.get(id)
    assert.ok(task, `task ${id} is kept`)
    if ('cancelled' in one) assert.equal(task.status, 'cancelled')
    if (!('fence' in one)) continue
    const attempt = task.attempts.find(({ fence }) => fence === one.fence)
    assert.ok(attempt, `delivery ${one.fence} of task ${id} is kept`)
    if ('settled' in one) {
      const isCancelled = one.status === 'failed' && task.cancelRequestedAt !== undefined
      assert.equal(attempt.status, isCancelled ? 'cancelled' : one.status)
    } else {
      assert.ok(!deliveries.has(`${id}/${one.fence}`), 'no delivery is made twice')
      deliveries.add(`${id}/${one.fence}`)
    }
  }

  const happened = new Map<string, string[]>()
  for (const { taskId = '', type, data } of events.read({ limit: 1_000_000 })) {
    happened.set(taskId, [...happened.get(taskId) ?? [], type === 'task.created' ? 'pending' : String(data.to)])
  }
  const [counts] = await store.queue.stats()
  let unfinished = 0
  for (const [id, statuses] of happened) {
    const task = store.table.get(id)!
    assert.deepEqual(statuses, task.history.map(({ status }) => status), `events of ${id} are its history`)
    if (task.endedAt === undefined) unfinished++
  }
  assert.ok(counts)
  assert.equal(counts.pending + counts.delayed + counts.scheduled + counts.running, unfinished)

  // What is left is run to its end by one who comes back.
  const finish = async (claim: { taskId: string, fence: number }) => {
    await store.queue.settle(claim, { status: 'complete', end: { reason: 'exited', at: new Date().toISOString(), exitCode: 0 }, isRetryable: false })
  }
  for (const claim of await store.queue.held('hst_a', 1000)) await finish(claim)
  for (;;) {
    const claims = await store.queue.claim({ owner: 'hst_a', pools: ['default'], limit: 100, leaseMs: 1000, room: plenty, capacity: plenty })
    if (claims.length === 0) break
    await Promise.all(claims.map(finish))
  }
  const left = (await store.queue.stats()).map(({ delayed, pending, scheduled, running }) => delayed + pending + scheduled + running)
  assert.equal(left.reduce((sum, count) => sum + count, 0), 0)
  t.diagnostic(`${told.length} answers, ${happened.size} tasks, ${events.lastSeq} events`)
  await store.close()
  events.close()
})
