import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { SinkRefusal } from '../../../src/services/outputs/output-sink.ts'
import { countS2Clients } from '../../../src/services/outputs/s2-client.ts'
import { entriesOf, entryOf, logsStream, s2Basin, S2Rig, ship, statusStream, taskId } from '../../support/s2-stream-rig.ts'

const run = promisify(execFile)

test('entries arrive as records, in order, each once, with several batches in flight', async t => {
  const rig = await S2Rig.start(t)
  rig.server.faults.ackDelayMs = 5
  const sink = await rig.open()
  await ship(sink, entriesOf(500), { batchEntries: 7 })
  rig.assertLogs(500)
  const [first, second] = rig.logs()
  assert.deepEqual(first, { task_id: taskId, timestamp: '2026-01-01T00:00:00.000Z', stream: 'stderr', data: 'line 0', seq: 0, cursor: '0:1', line_end: true })
  assert.equal(second?.stream, 'stdout')
  assert.equal(rig.server.records(s2Basin, logsStream)[1]?.timestamp, Date.UTC(2026, 0, 1) + 1)
  // All through one session; made, and not asked for its tail.
  assert.deepEqual(rig.server.requests, ['POST /v1/streams', `POST /v1/streams/${logsStream}/records`])
})

test('batches really are in flight together', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await sink.write(entriesOf(1))
  rig.server.faults.ackDelayMs = 50
  const writes = [1, 2, 3, 4].map(seq => sink.write(entriesOf(1, seq)))
  // The library sends the first by itself, and all that has come meanwhile once that is acknowledged.
  assert.deepEqual(await Promise.all(writes.slice(0, 2)), [{ seq: 1, tail: 2, cursor: '0:2' }, { seq: 2, tail: 3, cursor: '0:3' }])
  rig.assertLogs(5)
  await Promise.all(writes)
})

test('bytes that are not UTF-8, control characters, gaps and empty lines come back as they were', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  const binary = Buffer.from([0xff, 0x00, 0xfe, 0x0a, 0xc3])
  const control = Buffer.alloc(sink.limits.entryBytes, 1)
  const text = 'a\r\u001b[31mé\u2028"\\\ufeff🙂'
  await sink.write([
    entryOf(0, binary), entryOf(1, text, { isLineEnd: false }), entryOf(2, ''), entryOf(3, control),
    entryOf(4, '12 bytes are gone', { isGap: true }),
  ])
  const [first, second, third, fourth, fifth] = rig.logs()
  assert.equal(first?.encoding, 'base64')
  assert.deepEqual(Buffer.from(first?.data ?? '', 'base64'), binary)
  assert.deepEqual([second?.data, second?.encoding, second?.line_end], [text, undefined, false])
  assert.deepEqual([third?.data, third?.encoding], ['', undefined])
  assert.equal(fourth?.encoding, 'base64')
  assert.ok(Buffer.from(fourth?.data ?? '', 'base64').equals(control))
  assert.deepEqual([fifth?.gap, fifth?.message, fifth?.data], [true, '12 bytes are gone', ''])
})

test('a line of 10 MB arrives in pieces that make it up', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  const { entryBytes } = sink.limits
  const line = Buffer.alloc(10_000_000, 'The "quick" brown\tfox é. ')
  const pieces = Array.from({ length: Math.ceil(line.length / entryBytes) }, (_, seq) => line.subarray(seq * entryBytes, (seq + 1) * entryBytes))
  await ship(sink, pieces.map((data, seq) => entryOf(seq, data, { stream: 'stdout', isLineEnd: seq === pieces.length - 1 })), { batchEntries: 2 })
  rig.assertLogs(pieces.length)
  const bytes = rig.logs().map(({ data, encoding }) => Buffer.from(data, encoding ?? 'utf8'))
  assert.ok(Buffer.concat(bytes).equals(line))
  assert.deepEqual(rig.logs().map(body => body.line_end), [...pieces.slice(1).map(() => false), true])
})

test('a batch that is longer as JSON than S2 takes at once goes in several appends', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  const half = Buffer.alloc(sink.limits.batchBytes / 1000, 2)
  await sink.write(Array.from({ length: 1000 }, (_, seq) => entryOf(seq, half)))
  rig.assertLogs(1000)
  assert.ok(rig.server.records(s2Basin, logsStream).reduce((sum, { body }) => sum + body.length, 0) > 3 * 1024 * 1024)
})

test('a record that S2 can never take is refused, not tried for ever', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await assert.rejects(sink.write([entryOf(0, Buffer.alloc(1024 * 1024, 0xff))]), SinkRefusal)
  assert.deepEqual(rig.server.requests, [])
})

test('statuses go to a stream of their own, once, whoever writes them again', async t => {
  const rig = await S2Rig.start(t)
  const statuses = [
    { seq: 0, at: '2026-01-01T00:00:00.000Z', status: 'running', attempt: 1 },
    { seq: 1, at: '2026-01-01T00:00:01.000Z', status: 'failed', attempt: 1, reason: 'exited', exitCode: 3, message: 'it said no' },
  ]
  const sink = await rig.open()
  await sink.writeStatus?.(statuses.slice(0, 1))
  await sink.close()
  const next = await rig.open()
  await next.writeStatus?.(statuses)
  await next.writeStatus?.(statuses)
  assert.deepEqual(rig.server.bodies(s2Basin, statusStream), [
    { task_id: taskId, timestamp: '2026-01-01T00:00:00.000Z', status: 'running', attempt: 1, seq: 0 },
    { task_id: taskId, timestamp: '2026-01-01T00:00:01.000Z', status: 'failed', attempt: 1, reason: 'exited', exit_code: 3, message: 'it said no', seq: 1 },
  ])
})

test('a sink that is opened again goes on where the stream ends, whatever its state says', async t => {
  const rig = await S2Rig.start(t)
  const first = await rig.open()
  const early = await ship(first, entriesOf(10))
  await ship(first, entriesOf(20, 10))
  await first.close()
  for (const state of [undefined, early, { tail: 3, seq: 2 }, { tail: -1, seq: 'x' }, { tail: 30, seq: 29 }]) {
    const sink = await rig.open({ state })
    await ship(sink, entriesOf(30))
    await sink.close()
  }
  rig.assertLogs(30)
  const last = await rig.open({ state: { tail: 30, seq: 29 } })
  await ship(last, entriesOf(5, 30))
  rig.assertLogs(35)
})

test('output that got numbers again because the end of a log was lost is not taken for what S2 has', async t => {
  const rig = await S2Rig.start(t)
  const first = await rig.open()
  const state = await ship(first, entriesOf(10))
  await ship(first, entriesOf(10, 10))
  await first.close()
  // The file ends with entry 14, and the next attempt writes into another one.
  const again = Array.from({ length: 10 }, (_, index) => entryOf(15 + index, `again ${index}`, { cursor: `1:${index + 1}` }))
  const next = await rig.open({ state })
  await ship(next, [...entriesOf(5, 10), ...again])
  assert.deepEqual(rig.logs().map(({ data }) => data), [...entriesOf(20).map(({ data }) => data.toString()), ...again.map(({ data }) => data.toString())])
})

test('the stream is made by its first append where the token may not create it', async t => {
  const rig = await S2Rig.start(t, { createsOnAppend: true })
  rig.server.faults.mayCreate = false
  const sink = await rig.open()
  await ship(sink, entriesOf(25))
  rig.assertLogs(25)
})

test('records of somebody else are read over', async t => {
  const rig = await S2Rig.start(t)
  const first = await rig.open()
  const state = await ship(first, entriesOf(10))
  await ship(first, entriesOf(10, 10))
  for (let n = 0; n < 30; n++) rig.server.intrude(s2Basin, logsStream, n % 2 === 0 ? 'not JSON' : JSON.stringify({ task_id: 'tsk_other', seq: 99 }))
  await ship(first, entriesOf(10, 20))
  await first.close()
  for (let n = 0; n < 30; n++) rig.server.intrude(s2Basin, logsStream, '{"seq":1000}')
  const next = await rig.open({ state })
  await ship(next, entriesOf(50))
  const ours = rig.server.records(s2Basin, logsStream).map(({ body }) => body.toString()).filter(body => body.includes(`"${taskId}"`))
  assert.deepEqual(ours.map(body => (JSON.parse(body) as { seq: number }).seq), Array.from({ length: 50 }, (_, seq) => seq))
})

test('a stream that was deleted or trimmed goes on with the next entry', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open()
  await ship(sink, entriesOf(10))
  rig.server.trim(s2Basin, logsStream)
  await sink.close()
  const next = await rig.open({ state: { tail: 10, seq: 9 } })
  await ship(next, entriesOf(5, 10))
  assert.deepEqual(rig.logs().map(({ seq }) => seq), [10, 11, 12, 13, 14])
  rig.server.deleteStream(s2Basin, logsStream)
  await ship(next, entriesOf(5, 15))
  assert.deepEqual(rig.logs().map(({ seq }) => seq), [15, 16, 17, 18, 19])
  assert.ok(rig.logged.some(line => line.includes('has lost records')))
})

test('two tasks share a client and a connection, and nothing is left when both are closed', async t => {
  const rig = await S2Rig.start(t)
  const one = await rig.open()
  const other = await rig.open({ taskId: 'tsk_def' })
  assert.equal(countS2Clients(), 1)
  await one.write(entriesOf(1))
  const connections = rig.server.front.connections
  await Promise.all([ship(one, entriesOf(50)), other.write(entriesOf(1))])
  // The requests outside of sessions may take one of their own each.
  assert.ok(rig.server.front.connections <= connections + 1, `${rig.server.front.connections} connections`)
  rig.assertLogs(50)
  rig.assertLogs(1, 'task.tsk_def.logs')
  await one.close()
  assert.equal(countS2Clients(), 1)
  await other.write(entriesOf(1, 1))
  await Promise.all([other.close(), other.close()])
  assert.equal(countS2Clients(), 0)
  await assert.rejects(other.write(entriesOf(1, 2)), /closed/)
})

test('a quiet sink holds no session, and needs to ask nothing to go on', async t => {
  const rig = await S2Rig.start(t)
  const sink = await rig.open({ idleMs: 30 })
  await ship(sink, entriesOf(10))
  while (rig.server.sessions > 0) await sleep(5)
  const asked = rig.server.requests.length
  await ship(sink, entriesOf(10, 10))
  rig.assertLogs(20)
  assert.deepEqual(rig.server.requests.slice(asked), [`POST /v1/streams/${logsStream}/records`])
})

test('a basin that cannot be one is said when the sink is opened', async t => {
  const rig = await S2Rig.start(t)
  await assert.rejects(rig.open({ basin: 'No Basin' }), /Invalid basin name/)
  await assert.rejects(rig.open({ endpoint: 'ftp://x' }), /Unsupported scheme/)
  assert.equal(countS2Clients(), 0)
})

test('a process that has closed its sinks ends by itself', async t => {
  const rig = await S2Rig.start(t)
  const source = `
    import { entriesOf } from ${JSON.stringify(new URL('../../support/s2-stream-rig.ts', import.meta.url).href)}
    import { openS2Sink } from ${JSON.stringify(new URL('../../../src/services/outputs/s2-sink.ts', import.meta.url).href)}
    const [endpoint, accessToken] = process.argv.slice(1)
    const logger = { warn () {} }
    const sinks = await Promise.all(['tsk_abc', 'tsk_def'].map(taskId => openS2Sink({ taskId, basin: 'berth-test', endpoint, accessToken, state: undefined, logger })))
    await Promise.all(sinks.map(sink => sink.write(entriesOf(10))))
    await sinks[0].writeStatus([{ seq: 0, at: new Date().toISOString(), status: 'running', attempt: 1 }])
    await Promise.all(sinks.map(sink => sink.close()))
    console.log('closed')
  `
  const { stdout } = await run(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module-typescript', '-e', source, rig.server.endpoint, rig.server.token], { timeout: 20_000 })
  assert.equal(stdout, 'closed\n')
  rig.assertLogs(10)
  assert.equal(rig.server.sessions, 0)
})
