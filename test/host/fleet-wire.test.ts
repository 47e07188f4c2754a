/** The wire of an airstore gateway, on a real Redis. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { BerthError } from '../../src/errors.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { FleetLogBuffer, type FleetLogItem } from '../../src/services/fleet-wire/fleet-log-buffer.ts'
import { openFleetSink } from '../../src/services/fleet-wire/fleet-log-sink.ts'
import { subscribeCancels } from '../../src/services/fleet-wire/wire-cancels.ts'
import { WireIntake } from '../../src/services/fleet-wire/wire-intake.ts'
import { taskIdOf } from '../../src/services/fleet-wire/wire-keys.ts'
import { WireReports } from '../../src/services/fleet-wire/wire-reports.ts'
import type { OutputEntry } from '../../src/services/outputs/output-sink.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import type { RedisConnection } from '../../src/services/redis/redis-types.ts'
import type { NewTask, TaskRecord, TaskSpec } from '../../src/services/tasks/task-record.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { RedisServer } from '../support/redis-server.ts'

const withinMs = 20_000
const logger = pino({ level: 'silent' })

async function build (t: TestContext, args: string[] = []): Promise<{ server: RedisServer, redis: RedisConnection, open: () => Promise<RedisConnection> }> {
  const server = await RedisServer.start(t, { args })
  const open = async (): Promise<RedisConnection> => {
    const redis = await openRedis({ url: server.url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' }, { callTimeoutMs: 1000 })
    t.after(() => redis.close())
    return redis
  }
  return { server, redis: await open(), open }
}

async function eventually (what: string, isSo: () => Promise<boolean>): Promise<void> {
  assert.ok(await pollUntil(isSo, withinMs), what)
}

/** Keeps the promises of a queue about pushing, and nothing else. */
class PushedTasks {
  readonly records: TaskRecord[] = []
  readonly retried: string[] = []
  pushes = 0
  /** Thrown at a push that has this task. */
  failure: ((task: NewTask) => Error | undefined) = () => undefined

  readonly push = async (tasks: readonly NewTask[]): Promise<TaskRecord[]> => {
    this.pushes++
    for (const task of tasks) {
      const error = this.failure(task)
      if (error) throw error
    }
    return tasks.map(({ id, spec }) => {
      const known = this.records.find(record => record.id === id)
      if (known) return known
      const at = new Date().toISOString()
      const record: TaskRecord = { id, spec, status: 'pending', attempt: 1, attempts: [], history: [], createdAt: at, availableAt: at }
      this.records.push(record)
      return record
    })
  }

  readonly retry = async (id: string): Promise<TaskRecord> => {
    const record = this.records.find(other => other.id === id)!
    if (record.status !== 'failed') throw new BerthError('conflict', 'invalid_state', 'only what has failed is queued again')
    this.retried.push(id)
    record.status = 'pending'
    return record
  }
}

function takeIn (t: TestContext, redis: RedisConnection, queue: PushedTasks): WireIntake {
  const intake = new WireIntake({ redis, queue, pools: ['default'], reports: new WireReports({ redis }), logger, blockMs: 500 })
  t.after(() => intake.close())
  intake.start()
  return intake
}

function entry (fields: object = {}): { externalId: string, raw: string } {
  const externalId = randomUUID()
  return { externalId, raw: JSON.stringify({ external_id: externalId, image: 'busybox', entrypoint: ['true'], ...fields }) }
}

const list = 'airstore:task_queue:default'
const isEmpty = (redis: RedisConnection) => async () => await redis.run(client => client.llen(list)) === 0

test('what a foreign gateway pushes is taken in by one of several, oldest first, and leaves the list', async t => {
  const { redis, open } = await build(t)
  const queue = new PushedTasks()
  takeIn(t, redis, queue)
  takeIn(t, await open(), queue)
  const entries = Array.from({ length: 250 }, () => entry())
  await redis.run(client => client.lpush(list, ...entries.map(({ raw }) => raw)))
  await eventually('the list is empty', isEmpty(redis))
  assert.deepEqual(queue.records.map(({ id }) => id), entries.map(({ externalId }) => taskIdOf(externalId)))
  const late = entry()
  await redis.run(client => client.lpush(list, late.raw))
  await eventually('one that comes later is taken in too', async () => queue.records.at(-1)!.id === taskIdOf(late.externalId))
})

test('what can never be run ends as failed on the wire, is kept aside, and stands in nobody\'s way', async t => {
  const { redis } = await build(t)
  const queue = new PushedTasks()
  const [gpu, refused, flaky, good] = [entry({ resources: { gpu: 1 } }), entry(), entry(), entry()]
  let flakes = 0
  queue.failure = ({ spec: { fleet } }) => {
    if (fleet?.externalId === refused.externalId) return new BerthError('invalid_argument', 'exceeds_fleet', 'no host is that large')
    return fleet?.externalId === flaky.externalId && flakes++ < 3 ? new Error('a stumble') : undefined
  }
  const { client } = redis
  await redis.run(ordinary => ordinary.lpush(list, 'nonsense', gpu.raw, refused.raw, flaky.raw, good.raw))
  takeIn(t, redis, queue)
  await eventually('the list is empty', isEmpty(redis))
  assert.deepEqual(new Set(queue.records.map(({ id }) => id)), new Set([good, flaky].map(({ externalId }) => taskIdOf(externalId))))
  const state = JSON.parse((await client.get(`airstore:task_state:${gpu.externalId}`))!) as Record<string, unknown>
  assert.deepEqual([state['id'], state['status'], state['exit_code']], [gpu.externalId, 'failed', -1])
  assert.match(String(state['error']), /GPU/)
  const result = JSON.parse((await client.get(`airstore:task_result:${refused.externalId}`))!) as object
  assert.deepEqual(result, { id: refused.externalId, exit_code: -1, error: 'no host is that large', duration: 0 })
  assert.ok(await client.ttl(`airstore:task_result:${refused.externalId}`) > 86_000)
  const aside = (await client.lrange('airstore:task_rejected:default', 0, -1)).map(text => (JSON.parse(text) as { entry: string }).entry)
  assert.deepEqual(new Set(aside), new Set(['nonsense', gpu.raw, refused.raw]))
})

test('an entry that was pushed and never left the list is taken in once', async t => {
  const { redis } = await build(t)
  const queue = new PushedTasks()
  const { raw } = entry()
  await redis.run(client => client.lpush(list, raw, raw))
  takeIn(t, redis, queue)
  await eventually('the list is empty', isEmpty(redis))
  await redis.run(client => client.lpush(list, raw))
  await eventually('the list is empty again', isEmpty(redis))
  assert.equal(queue.records.length, 1)
})

test('a greater attempt queues what has failed again, once, and nothing else', async t => {
  const { redis } = await build(t)
  const queue = new PushedTasks()
  const { externalId, raw } = entry({ max_attempts: 3 })
  const second = JSON.stringify({ ...JSON.parse(raw), attempt: 2 })
  takeIn(t, redis, queue)
  const push = async (text: string): Promise<void> => {
    await redis.run(client => client.lpush(list, text))
    await eventually('the list is empty', isEmpty(redis))
  }
  await push(raw)
  queue.records[0]!.status = 'failed'
  await push(raw)
  assert.deepEqual(queue.retried, [])
  await push(second)
  assert.deepEqual(queue.retried, [taskIdOf(externalId)])
  queue.records[0]!.status = 'failed'
  await push(second)
  assert.equal(queue.retried.length, 1)
})

test('nothing is lost when Redis is killed while tasks come in', async t => {
  const { redis, server } = await build(t)
  const queue = new PushedTasks()
  takeIn(t, redis, queue)
  const entries = Array.from({ length: 300 }, () => entry())
  for (const [index, { raw }] of entries.entries()) {
    if (index === 100 || index === 200) {
      await server.kill()
      await server.run()
    }
    await eventually('it is pushed', () => redis.run(client => client.lpush(list, raw)).then(() => true, () => false))
  }
  await eventually('the list is empty', isEmpty(redis))
  assert.deepEqual(new Set(queue.records.map(({ id }) => id)), new Set(entries.map(({ externalId }) => taskIdOf(externalId))))
})

test('a server from before BLMOVE is looked at again and again', async t => {
  const { redis } = await build(t, ['--rename-command', 'BLMOVE', ''])
  const queue = new PushedTasks()
  takeIn(t, redis, queue)
  for (let n = 1; n <= 2; n++) {
    await redis.run(client => client.lpush(list, entry().raw))
    await eventually('it is taken in', async () => queue.records.length === n)
  }
})

const at = { created: '2026-01-01T00:00:00.000Z', claimed: '2026-01-01T00:00:01.000Z', started: '2026-01-01T00:00:02.000Z', ended: '2026-01-01T00:00:04.500Z' }

/** A delivery as its host has it. */
function delivery (externalId: string | undefined, { fence = 1, attempt = 1, ...fields }: Partial<TaskRecord> & { fence?: number } = {}): TaskRecord {
  const fleet = { taskId: 'tsk_0123456789abcdefghij', fence, attempt, ...externalId !== undefined && { externalId } }
  const spec = { pool: 'default', fleet } as TaskSpec
  const attempts = [{ number: 1, fence: 7, status: 'running', workerId: 'hst_1', sandboxId: 'sbx_1', claimedAt: at.claimed, startedAt: at.started }] as TaskRecord['attempts']
  return { id: 'tsk_local', spec, status: 'running', attempt: 1, attempts, history: [], createdAt: at.created, availableAt: at.created, ...fields }
}

test('state, result and what is in flight are kept as a foreign gateway reads them, whatever comes late or twice', async t => {
  const { redis } = await build(t)
  const { client } = redis
  const reports = new WireReports({ redis })
  const externalId = randomUUID()
  const state = async (): Promise<Record<string, unknown>> => JSON.parse((await client.get(`airstore:task_state:${externalId}`))!) as Record<string, unknown>
  const inFlight = async (): Promise<string[]> => await client.smembers('airstore:task_inflight:default')
  await reports.scheduled(delivery(externalId))
  assert.deepEqual([(await state())['status'], await inFlight()], ['scheduled', [externalId]])
  await reports.started(delivery(externalId))
  const running = await state()
  assert.deepEqual([running['status'], running['sandbox_id'], running['worker_id'], running['exit_code'], running['started_at']], ['running', 'sbx_1', 'hst_1', -1, at.started])
  const ended = delivery(externalId, { status: 'failed', endedAt: at.ended, end: { reason: 'exited', at: at.ended, exitCode: 3 } })
  await reports.ended(ended)
  await reports.ended(ended)
  await reports.started(delivery(externalId))
  const last = await state()
  assert.deepEqual([last['status'], last['exit_code'], last['finished_at'], last['id']], ['failed', 3, at.ended, externalId])
  assert.match(String(last['error']), /exit code 3/)
  assert.deepEqual(await inFlight(), [])
  assert.deepEqual(JSON.parse((await client.get(`airstore:task_result:${externalId}`))!), { id: externalId, exit_code: 3, error: last['error'], duration: 2_500_000_000 })
  await reports.scheduled(delivery(externalId, { fence: 2, attempt: 2 }))
  assert.deepEqual([(await state())['status'], await inFlight()], ['scheduled', [externalId]])
})

test('of a task of our own only events are told, under its id in the fleet', async t => {
  const { redis } = await build(t)
  const events: unknown[] = []
  const subscriber = redis.another('subscriber')
  subscriber.on('message', (_channel: string, text: string) => { events.push(JSON.parse(text)) })
  await subscriber.subscribe('airstore:task_logs:tsk_0123456789abcdefghij')
  await new WireReports({ redis }).ended(delivery(undefined, { status: 'complete', end: { reason: 'exited', at: at.ended, exitCode: 0 } }))
  await eventually('it is heard', async () => events.length === 1)
  const { timestamp: _, ...event } = events[0] as Record<string, unknown>
  assert.deepEqual(event, { task_id: 'tsk_0123456789abcdefghij', status: 'complete', exit_code: 0, attempt: 1, fence: 1 })
  assert.deepEqual(await redis.client.keys('*'), [])
})

test('whoever wants a task cancelled is heard, after a restart of Redis too', async t => {
  const { redis, server } = await build(t)
  const cancelled = new Set<string>()
  const cancels = subscribeCancels({ redis, onCancel: id => { cancelled.add(id) } })
  t.after(() => { cancels.close() })
  await cancels.listening
  const externalId = randomUUID()
  await redis.run(client => client.publish(`airstore:terminal:${externalId}:input`, 'x'))
  await redis.run(client => client.publish(`airstore:terminal:${externalId}:cancel`, ''))
  await eventually('it is heard', async () => cancelled.size > 0)
  assert.deepEqual([...cancelled], [externalId])
  await server.kill()
  await server.run()
  await eventually('it is heard again', async () => {
    await redis.run(client => client.publish('airstore:terminal:other:cancel', 'now')).catch(() => undefined)
    return cancelled.has('other')
  })
})

function line (seq: number, data: string | Buffer = `line ${seq}`): OutputEntry {
  return { seq, cursor: `0:${seq}`, at: at.started, stream: 'stdout', data: Buffer.from(data), isLineEnd: true }
}

test('each entry is in the buffer once, however often it is sent, beside those of other deliveries', async t => {
  const { redis } = await build(t)
  const first = openFleetSink({ redis, taskKey: 'job', attempt: 1, fence: 1 })
  const second = openFleetSink({ redis, taskKey: 'job', attempt: 2, fence: 2 })
  await first.write([line(0), line(1)])
  await first.write([line(0), line(1), line(2, Buffer.from([0xff, 0x00]))])
  await second.write([line(0)])
  await first.write([line(2, Buffer.from([0xff, 0x00])), line(3, '')])
  const { entries, endedFences } = await new FleetLogBuffer({ redis }).read('job')
  assert.deepEqual(entries.map(({ fence, seq, data }) => [fence, seq, data]), [[1, 0, 'line 0'], [1, 1, 'line 1'], [1, 2, '/wA='], [2, 0, 'line 0'], [1, 3, '']])
  assert.deepEqual(endedFences, [])
  assert.deepEqual(entries[2], { task_id: 'job', timestamp: Date.parse(at.started), stream: 'stdout', data: '/wA=', encoding: 'base64', attempt: 1, fence: 1, seq: 2, cursor: '0:2' })
  for (const key of await redis.client.keys('*')) assert.ok(await redis.client.ttl(key) > 86_000, key)
  await new FleetLogBuffer({ redis }).drop('job')
  assert.deepEqual(await redis.client.keys('*'), [], 'nothing is left of what is dropped')
})

test('a buffer keeps the last of much output, and says how much is gone', async t => {
  const { redis } = await build(t)
  const sink = openFleetSink({ redis, taskKey: 'job', attempt: 1, fence: 1, maxBufferBytes: 20_000 })
  for (let seq = 0; seq < 100; seq += 10) await sink.write(Array.from({ length: 10 }, (_, n) => line(seq + n, 'x'.repeat(1000))))
  const { entries: [gap, ...rest] } = await new FleetLogBuffer({ redis }).read('job')
  assert.equal(gap?.gap, true)
  assert.equal(gap?.message, `${100 - rest.length} earlier entries are not kept here`)
  assert.deepEqual(rest.map(({ seq }) => seq), Array.from({ length: rest.length }, (_, n) => 100 - rest.length + n))
  const bytes = (await redis.client.lrange('airstore:task_logs_buf:job', 0, -1)).join('').length
  assert.ok(bytes > 15_000 && bytes < 21_000, String(bytes))
})

test('a reader has history and what follows it, each entry once and in order, through restarts of Redis', async t => {
  const { redis, server, open } = await build(t)
  const sink = openFleetSink({ redis, taskKey: 'job', attempt: 1, fence: 1 })
  const write = async (from: number, to: number): Promise<void> => {
    for (let seq = from; seq < to; seq += 5) {
      await eventually('it is written', () => sink.write(Array.from({ length: 5 }, (_, n) => line(seq + n))).then(() => true, () => false))
    }
  }
  const buffer = new FleetLogBuffer({ redis: await open() })
  t.after(() => { buffer.close() })
  const over = new AbortController()
  const readers = [[], [{ fence: 1, seq: 49 }]].map(after => collect(buffer.follow({ taskKey: 'job', signal: over.signal, after })))
  await write(0, 100)
  readers.push(collect(buffer.follow({ taskKey: 'job', signal: over.signal })))
  await write(100, 200)
  await server.kill()
  const restarted = server.run()
  await write(200, 300)
  await restarted
  await sink.writeStatus!([{ seq: 3, at: at.ended, status: 'complete', attempt: 1 }])
  await eventually('all have the end', async () => readers.every(({ items }) => items.at(-1)?.type === 'end'))
  const seqsOf = (items: FleetLogItem[]): number[] => items.flatMap(item => item.type === 'entry' ? [item.entry.seq!] : [])
  for (const [index, { items }] of readers.entries()) assert.deepEqual(seqsOf(items), Array.from({ length: index === 1 ? 250 : 300 }, (_, n) => index === 1 ? n + 50 : n))
  over.abort()
  await Promise.all(readers.map(({ done }) => done))
})

test('a reader to whom something was not told reads it from the buffer', async t => {
  const { redis } = await build(t)
  const sink = openFleetSink({ redis, taskKey: 'job', attempt: 1, fence: 1 })
  const buffer = new FleetLogBuffer({ redis })
  t.after(() => { buffer.close() })
  const over = new AbortController()
  const { items, done } = collect(buffer.follow({ taskKey: 'job', signal: over.signal }))
  await sink.write([line(0)])
  await eventually('it is told', async () => items.length === 1)
  // As after a message that was lost between nodes of a cluster.
  await redis.client.rpush('airstore:task_logs_buf:job', JSON.stringify({ task_id: 'job', timestamp: 1, stream: 'stdout', data: 'untold', fence: 1, seq: 1 }))
  await redis.client.hset('{airstore:task_logs_buf:job}:place', '1', 1)
  await sink.write([line(2)])
  await eventually('it has all', async () => items.length === 3)
  assert.deepEqual(items.map(item => item.type === 'entry' && item.entry.seq), [0, 1, 2])
  over.abort()
  await done
})

test('all of it works where the keys lie on several nodes of a cluster', async t => {
  const { url } = await startCluster(t)
  const redis = await openRedis({ url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  t.after(() => redis.close())
  const queue = new PushedTasks()
  takeIn(t, redis, queue)
  const [bad, ...good] = [entry({ resources: { gpu: 1 } }), ...Array.from({ length: 10 }, () => entry())]
  await redis.run(client => client.lpush(list, bad!.raw, ...good.map(({ raw }) => raw)))
  await eventually('the list is empty', isEmpty(redis))
  assert.equal(queue.records.length, good.length)
  assert.match((await redis.client.get(`airstore:task_state:${bad!.externalId}`))!, /GPU/)
  const buffer = new FleetLogBuffer({ redis })
  t.after(() => { buffer.close() })
  const over = new AbortController()
  const readers = good.map(({ externalId }) => collect(buffer.follow({ taskKey: externalId, signal: over.signal })))
  for (const { externalId } of good) {
    const sink = openFleetSink({ redis, taskKey: externalId, attempt: 1, fence: 1 })
    await sink.write([line(0)])
    await sink.write([line(0), line(1)])
    await new WireReports({ redis }).ended(delivery(externalId, { status: 'complete', end: { reason: 'exited', at: at.ended, exitCode: 0 } }))
    await sink.writeStatus!([{ seq: 3, at: at.ended, status: 'complete', attempt: 1 }])
    assert.match((await redis.client.get(`airstore:task_result:${externalId}`))!, /"exit_code":0/)
  }
  await eventually('all have the end', async () => readers.every(({ items }) => items.some(({ type }) => type === 'end')))
  for (const { items } of readers) assert.deepEqual(items.filter(({ type }) => type === 'entry').map(item => item.type === 'entry' && item.entry.seq), [0, 1])
  for (const { externalId } of good) {
    await buffer.drop(externalId)
    assert.deepEqual((await buffer.read(externalId)).entries, [])
  }
  over.abort()
})

test('a reader who leaves while Redis is away is gone at once', async t => {
  const { redis, server } = await build(t)
  await server.kill()
  const buffer = new FleetLogBuffer({ redis })
  t.after(() => { buffer.close() })
  const over = new AbortController()
  const { done } = collect(buffer.follow({ taskKey: 'job', signal: over.signal }))
  over.abort()
  await done
})

function collect (items: AsyncIterable<FleetLogItem>): { items: FleetLogItem[], done: Promise<void> } {
  const found: FleetLogItem[] = []
  const read = async (): Promise<void> => { for await (const item of items) found.push(item) }
  return { items: found, done: read() }
}

test('whatever a producer pushes, what lies behind it is taken in', async t => {
  const { redis } = await build(t)
  const queue = new PushedTasks()
  const list = 'airstore:task_queue:default'
  const text = (raw: string): Buffer => Buffer.from(raw)
  const nonsense = [
    Buffer.from([0xff, 0xfe]), Buffer.from('{"external_id":"bad-\xff","image":"a","entrypoint":["b"]}', 'latin1'), text('null'), text(''), text('\0'), text('"a"'), text('[['.repeat(100_000)), text('{"a":'.repeat(100_000)),
    text(JSON.stringify({ external_id: '{a}:b', image: 'a/b', entrypoint: ['c'] })), text(entry({ entrypoint: ['\ud800'] }).raw), text(entry({ resources: { cpu: 1e308 } }).raw), text(entry({ timeout_ms: 2 ** 53 }).raw),
    Buffer.alloc(5 * 1024 ** 2, 'x'), Buffer.alloc(4 * 1024 ** 2, '{"'), text(entry({ env: { 'a=b': '' } }).raw), text('{"external_id":"p","image":"a/b","entrypoint":["c"],"env":{"__proto__":{"x":"y"}}}'),
  ]
  for (const raw of nonsense) await redis.client.lpush(list, raw)
  const good = entry({ workspace_id: `${'a'.repeat(255)}\u{1f600}`, hook_id: '\ud800' })
  await redis.client.lpush(list, good.raw)
  takeIn(t, redis, queue)
  await eventually('the list is emptied', async () => await redis.client.llen(list) === 0)
  assert.deepEqual(queue.records.map(({ spec }) => spec.fleet?.externalId), [good.externalId])
  assert.ok(Object.values(queue.records[0]!.spec.labels).every(value => value.isWellFormed()))
  const rejected = await redis.client.lrange('airstore:task_rejected:default', 0, -1)
  assert.equal(rejected.length, nonsense.length)
  assert.ok(rejected.every(one => one.length < 300_000))
})

test('a producer of one pool does not begin the tasks of another again', async t => {
  const { redis } = await build(t)
  const queue = new PushedTasks()
  const [theirs, mine] = [entry(), entry()]
  await queue.push([theirs, mine].map(({ externalId }, index): NewTask => ({
    id: taskIdOf(externalId), spec: { pool: index === 0 ? 'other' : 'default', fleet: { taskId: taskIdOf(externalId), fence: 0, attempt: 1, externalId } } as TaskSpec, delayMs: 0,
  })))
  for (const record of queue.records) record.status = 'failed'
  const again = ({ raw }: { raw: string }) => JSON.stringify({ ...JSON.parse(raw) as object, attempt: 2, max_attempts: 3 })
  await redis.client.lpush('airstore:task_queue:default', again(theirs), again(mine))
  takeIn(t, redis, queue)
  await eventually('the list is emptied', async () => await redis.client.llen('airstore:task_queue:default') === 0)
  assert.deepEqual(queue.retried, [taskIdOf(mine.externalId)])
})
