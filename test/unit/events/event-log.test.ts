import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { BerthError } from '../../../src/errors.ts'
import type { Event } from '../../../src/schemas/event.ts'
import { openEventsDatabase, openStateDatabase } from '../../../src/services/database.ts'
import { EventLog, type EventLogOptions } from '../../../src/services/events/event-log.ts'

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-events-'))
  const path = join(dir, 'events.db')
  const opened: EventLog[] = []
  const warnings: string[] = []
  t.after(() => {
    for (const log of opened) log.close()
    rmSync(dir, { recursive: true })
  })
  const openLog = (options: Partial<EventLogOptions> = {}) => {
    const log = new EventLog({ db: openEventsDatabase(path, { warn: (_fields, message) => { warnings.push(message) } }), ...options })
    opened.push(log)
    return log
  }
  return { dir, path, openLog, warnings }
}

const append = (log: EventLog, sandboxId?: string) => log.append({ type: 'sandbox.status', sandboxId, data: { to: 'running' } })

test('events count from 1 and are read back as they were appended', t => {
  const log = build(t).openLog()
  assert.equal(log.lastSeq, 0)
  const first = log.append({ type: 'exec.ended', sandboxId: 'sbx_a', execId: 'exe_a', data: { exitCode: 3 } })
  const second = log.append({ type: 'host.started' })
  assert.deepEqual([first.seq, second.seq, log.lastSeq], [1, 2, 2])
  assert.deepEqual(log.read({ limit: 10 }), [first, second])
  assert.deepEqual(Object.keys(second), ['seq', 'at', 'type', 'data'])
})

test('reading filters by place, sandbox and type', t => {
  const log = build(t).openLog()
  const a = append(log, 'sbx_a')
  const b = append(log, 'sbx_b')
  const started = log.append({ type: 'exec.started', sandboxId: 'sbx_a' })
  assert.deepEqual(log.read({ sandboxId: 'sbx_a', limit: 10 }), [a, started])
  assert.deepEqual(log.read({ types: ['exec.started', 'exec.ended'], limit: 10 }), [started])
  assert.deepEqual(log.read({ types: [], limit: 10 }), [])
  assert.deepEqual(log.read({ after: a.seq, limit: 1 }), [b])
  assert.deepEqual(log.read({ after: 99, limit: 10 }), [])
})

test('events and their count survive reopening', t => {
  const { openLog } = build(t)
  const before = openLog()
  const event = append(before, 'sbx_a')
  before.close()
  const log = openLog()
  assert.deepEqual(log.read({ limit: 10 }), [event])
  assert.equal(append(log).seq, event.seq + 1)
})

test('followers get history and then what is appended meanwhile, without a gap or a repeat', async t => {
  const log = build(t).openLog()
  for (let index = 0; index < 1200; index++) append(log, `sbx_${index % 3}`)
  const controller = new AbortController()
  const follow = async (options: { sandboxId?: string, isSlow?: boolean, after?: number }) => {
    const seqs: number[] = []
    for await (const event of log.follow({ ...options, signal: controller.signal })) {
      seqs.push(event.seq)
      if (options.isSlow && seqs.length % 50 === 0) await setImmediate()
      if (event.type === 'host.stopping' || event.seq === 3000) break
    }
    return seqs
  }
  const followers = [follow({}), follow({ isSlow: true }), follow({ after: 700 }), follow({ sandboxId: 'sbx_2' })]
  for (let index = 1200; index < 3000; index++) {
    append(log, `sbx_${index % 3}`)
    if (index % 10 === 0) await setImmediate()
  }
  const [all, slow, later, ofOne] = await Promise.all(followers)
  const range = (from: number, step = 1) => Array.from({ length: Math.floor((3000 - from) / step) + 1 }, (_, index) => from + index * step)
  assert.deepEqual(all, range(1))
  assert.deepEqual(slow, range(1))
  assert.deepEqual(later, range(701))
  assert.deepEqual(ofOne, range(3, 3))
})

test('abort and close end waiting followers without an error', async t => {
  const log = build(t).openLog()
  const drain = async (signal: AbortSignal) => { for await (const event of log.follow({ signal })) assert.fail(`no event ${event.seq}`) }
  const controller = new AbortController()
  const aborted = drain(controller.signal)
  const closed = drain(new AbortController().signal)
  await setImmediate()
  controller.abort()
  await aborted
  log.close()
  await closed
  await drain(controller.signal)
})

test('pruning removes what is too much or too old, and seq goes on', async t => {
  let now = Date.parse('2026-03-01T00:00:00Z')
  const log = build(t).openLog({ maxEvents: 100, maxAgeMs: 1000, now: () => now })
  for (let index = 0; index < 2500; index++) append(log)
  assert.equal(await log.prune(), 2400)
  assert.deepEqual([log.read({ limit: 1000 }).length, log.read({ limit: 1 })[0]!.seq], [100, 2401])
  now += 999
  const young = append(log)
  assert.equal(await log.prune(), 1)
  now += 2
  assert.equal(await log.prune(), 99)
  assert.deepEqual(log.read({ limit: 10 }), [young])
  now += 5000
  assert.equal(await log.prune(), 1)
  assert.equal(append(log).seq, 2502)
})

const relayed = (...seqs: number[]) => seqs.map(originSeq => ({
  originSeq, at: '2026-03-01T00:00:00.000Z', type: 'task.status' as const, taskId: `tsk_${originSeq}`, data: { to: 'running' },
}))

test('events from elsewhere are taken over once each, whatever is offered again, and pruning forgets none of that', async t => {
  const { openLog } = build(t)
  const first = openLog({ maxEvents: 1 })
  assert.equal(first.relayed('obx_a'), 0)
  first.relay('obx_a', relayed(1, 2))
  first.relay('obx_a', relayed(1, 2, 3), { isDurable: true })
  first.relay('obx_b', relayed(1))
  assert.deepEqual(first.read({ limit: 9 }).map(({ taskId }) => taskId), ['tsk_1', 'tsk_2', 'tsk_3', 'tsk_1'])
  await first.prune()
  first.close()
  const log = openLog()
  log.relay('obx_a', relayed(2, 3, 7))
  assert.deepEqual([log.relayed('obx_a'), log.relayed('obx_b'), log.relayed('obx_c')], [7, 1, 0])
  assert.deepEqual(log.read({ limit: 9, taskId: 'tsk_7' }), [{ seq: 5, at: '2026-03-01T00:00:00.000Z', type: 'task.status', taskId: 'tsk_7', data: { to: 'running' } }])
  assert.deepEqual(log.read({ limit: 9, taskId: 'tsk_3' }), [])
})

test('followers of a task get what is taken over while they follow', async t => {
  const log = build(t).openLog()
  const controller = new AbortController()
  const seen: Array<number | undefined> = []
  const following = (async () => {
    for await (const event of log.follow({ taskId: 'tsk_2', signal: controller.signal })) {
      seen.push(event.seq)
      if (seen.length === 2) return
    }
  })()
  await setImmediate()
  log.relay('obx_a', relayed(1, 2, 3))
  await setImmediate()
  const appended = log.append({ type: 'task.status', taskId: 'tsk_2' })
  assert.equal(appended.taskId, 'tsk_2')
  await following
  assert.deepEqual(seen, [2, 4])
})

test('what cannot be taken over whole is not taken over', t => {
  const log = build(t).openLog()
  const loop: Record<string, unknown> = {}
  loop.loop = loop
  assert.throws(() => log.relay('obx_a', [...relayed(1), { ...relayed(2)[0]!, data: loop }]))
  assert.deepEqual([log.relayed('obx_a'), log.read({ limit: 1 })], [0, []])
  log.relay('obx_a', relayed(1, 2))
  assert.equal(log.read({ limit: 9 }).length, 2)
})

test('an events database from before tasks keeps its events', t => {
  const { openLog, path } = build(t)
  const db = new DatabaseSync(path)
  db.exec(`CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, type TEXT NOT NULL, sandbox_id TEXT, exec_id TEXT, data TEXT NOT NULL) STRICT;
    CREATE INDEX events_by_sandbox ON events (sandbox_id, seq);
    INSERT INTO events (at, type, sandbox_id, data) VALUES ('2026-01-01T00:00:00.000Z', 'sandbox.status', 'sbx_a', '{}'); PRAGMA user_version = 1`)
  db.close()
  const log = openLog()
  log.relay('obx_a', relayed(1))
  assert.deepEqual(log.read({ limit: 9 }).map(({ seq, sandboxId, taskId }) => [seq, sandboxId, taskId]), [[1, 'sbx_a', undefined], [2, undefined, 'tsk_1']])
})

for (const [name, damage] of [
  ['is no database', (path: string) => { writeFileSync(path, 'x'.repeat(9000)) }],
  ['lost its tail', (path: string) => { truncateSync(path, Math.floor(statSync(path).size / 2) - 100) }],
] as const) {
  test(`an events database that ${name} is set aside and begun anew, with seqs beyond the old`, t => {
    const { openLog, path, warnings } = build(t)
    const before = openLog()
    let last: Event | undefined
    for (let index = 0; index < 500; index++) last = append(before, 'sbx_a')
    before.close()
    damage(path)
    const bytes = readFileSync(path)
    const log = openLog()
    assert.equal(warnings.length, 1)
    assert.deepEqual(readFileSync(`${path}.damaged`), bytes)
    assert.deepEqual(log.read({ limit: 1 }), [])
    assert.ok(append(log).seq > last!.seq)
  })
}

test('a database of a newer schema is refused and left as it is', t => {
  const { path, openLog, dir } = build(t)
  openLog().close()
  const db = new DatabaseSync(path)
  db.exec('PRAGMA user_version = 99')
  db.close()
  assert.throws(() => openLog(), (error: BerthError) => error.code === 'database_too_new' && !error.message.includes(dir))
  assert.deepEqual(readdirSync(dir).filter(name => name.includes('damaged')), [])
})

test('the state database is private, durable, and refused when damaged', t => {
  const { dir } = build(t)
  const path = join(dir, 'berth.db')
  const db = openStateDatabase(path)
  assert.equal(db.prepare('PRAGMA synchronous').get()?.synchronous, 2)
  assert.equal(db.prepare('PRAGMA journal_mode').get()?.journal_mode, 'wal')
  for (const name of readdirSync(dir).filter(name => name.startsWith('berth.db'))) assert.equal(statSync(join(dir, name)).mode & 0o777, 0o600)
  db.close()
  openStateDatabase(path).close()
  writeFileSync(path, 'x'.repeat(9000))
  assert.throws(() => openStateDatabase(path), (error: BerthError) => error.code === 'database_damaged' && !error.message.includes(dir))
  assert.equal(readFileSync(path, 'utf8')[0], 'x')
})
