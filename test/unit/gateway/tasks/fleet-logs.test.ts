import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Response } from 'undici'
import { pollUntil } from '../../../../src/lib/poll.ts'
import type { LogRecord } from '../../../../src/schemas/log.ts'
import { makeAttempt, makeRecord } from './fleet-record.ts'
import { buildFleetRig } from './fleet-rig.ts'

const at = '2026-03-01T09:30:00.000Z'
const withinMs = 10_000
const exited = { reason: 'exited', at, exitCode: 0 } as const
const ended = { status: 'complete', endedAt: at, end: exited } as const
const returned = { status: 'returned', endedAt: at } as const

type Said = LogRecord | { type: 'end', reason?: string, exitCode?: number }

/** What a follower was told so far. */
class Told {
  text = ''
  readonly whole: Promise<string>

  constructor (response: Response) {
    this.whole = this.#read(response)
    this.whole.catch(() => {})
  }

  async #read (response: Response): Promise<string> {
    const decoder = new TextDecoder()
    for await (const chunk of response.body!) this.text += decoder.decode(chunk as Uint8Array, { stream: true })
    return this.text
  }

  async until (part: string): Promise<void> {
    assert.ok(await pollUntil(async () => this.text.includes(part), withinMs), `${part} does not come behind ${this.text}`)
  }

  get said (): Said[] { return this.text.split('\n').filter(Boolean).map(line => JSON.parse(line) as Said) }
}

const briefOf = (said: readonly Said[]) => said.map(one => one.type === 'line' ? one.text : one.type)
const ndjson = async (text: Promise<string>) => (await text).split('\n').filter(Boolean).map(line => JSON.parse(line) as Said)

test('a follower of a task that waits sees nothing until it starts, then all attempts on all hosts, and how it ended', async t => {
  const { table, a, b, open } = await buildFleetRig(t)
  const record = table.put(makeRecord({ status: 'pending' }))
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow&format=ndjson`))
  a.write(record.id, 1, ['one'])
  table.put({ ...record, attempts: [makeAttempt({ fence: 1 })] })
  await told.until('one')
  a.write(record.id, 1, ['two'])
  a.end(record.id, 1)
  await told.until('two')
  assert.deepEqual(briefOf(told.said), ['one', 'two'])
  const first = makeAttempt({ fence: 1, ...ended, status: 'failed', end: { ...exited, exitCode: 1 } })
  const second = makeAttempt({ fence: 4, number: 2, workerId: 'hst_b' })
  table.put({ ...record, status: 'scheduled', attempts: [first, { ...second, startedAt: undefined, logCursor: undefined } as never] })
  b.write(record.id, 4, ['three'])
  table.put({ ...record, attempts: [first, second] })
  await told.until('three')
  b.end(record.id, 4)
  table.put({ ...record, ...ended, attempts: [first, { ...second, ...ended }] })
  await told.whole
  assert.deepEqual(briefOf(told.said), ['one', 'two', 'three', 'end'])
  assert.deepEqual(told.said.at(-1), { type: 'end', reason: 'exited', exitCode: 0 })
  assert.equal(table.watchedCount(record.id), 0)
  assert.deepEqual([...a.tokens], ['Bearer token-of-hst_a'], 'hosts are asked with their own tokens alone')
})

test('when the host dies its output goes on from the buffer, and behind a gap on the next host', async t => {
  const { table, a, b, buffer, open } = await buildFleetRig(t)
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })], spec: { outputs: [{ type: 's2', basin: 'some-basin' }] } }))
  a.write(record.id, 1, ['one', 'two'])
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow&format=ndjson`))
  await told.until('two')
  await a.stop()
  buffer.write(1, ['one', 'two', 'three'])
  await told.until('three')
  buffer.write(1, ['four'])
  await told.until('four')
  b.write(record.id, 2, ['anew'])
  b.end(record.id, 2)
  table.put({ ...record, ...ended, attempts: [makeAttempt({ fence: 1, ...returned }), makeAttempt({ fence: 2, workerId: 'hst_b', ...ended })] })
  await told.whole
  assert.deepEqual(briefOf(told.said), ['one', 'two', 'three', 'four', 'gap', 'anew', 'end'])
  const gap = told.said.find(one => one.type === 'gap')
  assert.match(gap?.type === 'gap' ? gap.message : '', /hst_a does not answer.*S2.*basin some-basin, stream task\.tsk_\w{20}\.logs/)
})

test('there is no gap where the buffer has all of a delivery', async t => {
  const { table, a, buffer, text } = await buildFleetRig(t)
  const record = table.put(makeRecord({ ...ended, attempts: [makeAttempt({ fence: 1, ...ended })] }))
  await a.stop()
  buffer.write(1, ['one', 'two'])
  buffer.complete(1)
  assert.equal(await text(`/v1/tasks/${record.id}/logs`), 'one\ntwo\n')
  assert.equal(await text(`/v1/tasks/${record.id}/logs?follow`), 'one\ntwo\n')
})

test('a host that comes back is used again, and nothing is said twice', async t => {
  const { table, a, buffer, open } = await buildFleetRig(t)
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })] }))
  a.write(record.id, 1, ['one'])
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow`))
  await told.until('one')
  await a.stop()
  buffer.write(1, ['one', 'two'])
  await told.until('two')
  a.write(record.id, 1, ['two', 'three'])
  await a.start()
  await told.until('three')
  a.end(record.id, 1)
  table.put({ ...record, ...ended, attempts: [makeAttempt({ fence: 1, ...ended })] })
  assert.equal(await told.whole, 'one\ntwo\nthree\n')
})

test('a place in the output of a host is found again in the buffer, and the other way round', async t => {
  const { table, a, buffer, text } = await buildFleetRig(t)
  const record = table.put(makeRecord({ ...ended, attempts: [makeAttempt({ fence: 1, ...ended }), makeAttempt({ fence: 2, number: 2, workerId: 'hst_a', ...ended })] }))
  for (const fence of [1, 2]) {
    const lines = ['one', 'two', 'three'].map(word => `${word} of ${fence}`)
    a.write(record.id, fence, lines)
    a.end(record.id, fence)
    buffer.write(fence, lines)
    buffer.complete(fence)
  }
  const path = `/v1/tasks/${record.id}/logs?format=ndjson`
  const fromHost = await ndjson(text(path))
  assert.equal(fromHost.length, 6)
  await a.stop()
  const fromBuffer = await ndjson(text(path))
  assert.deepEqual(briefOf(fromBuffer), briefOf(fromHost))
  const expected = briefOf(fromHost)
  for (const [said, restart] of [[fromHost, () => {}], [fromBuffer, () => a.start()]] as const) {
    await restart()
    for (const [index, record] of said.entries()) {
      const cursor = record.type === 'end' ? '' : record.cursor
      assert.deepEqual(briefOf(await ndjson(text(`${path}&cursor=${encodeURIComponent(cursor)}`))), expected.slice(index + 1))
      assert.deepEqual(briefOf(await ndjson(text(path, { 'last-event-id': cursor }))), expected.slice(index + 1))
    }
  }
})

test('what the buffer has no more of is a gap', async t => {
  const { table, a, buffer, text } = await buildFleetRig(t)
  const record = table.put(makeRecord({ ...ended, attempts: [makeAttempt({ fence: 1, ...ended })] }))
  await a.stop()
  buffer.write(1, ['six', 'seven'], { from: 5 })
  buffer.complete(1)
  const path = `/v1/tasks/${record.id}/logs?format=ndjson`
  assert.deepEqual(briefOf(await ndjson(text(path))), ['gap', 'six', 'seven'])
  assert.deepEqual(briefOf(await ndjson(text(`${path}&cursor=1.0:2`))), ['gap', 'six', 'seven'])
  assert.deepEqual(briefOf(await ndjson(text(`${path}&cursor=1.0:6`))), ['seven'])
  assert.deepEqual(briefOf(await ndjson(text(`${path}&tail=2`))), ['six', 'seven'])
  assert.deepEqual(briefOf(await ndjson(text(`${path}&tail=3`))), ['gap', 'six', 'seven'])
  assert.deepEqual(briefOf(await ndjson(text(`${path}&cursor=9.0:6`))), ['gap', 'gap', 'six', 'seven'])
})

test('tail, stream and attempt choose what comes, over all hosts and of those that are gone', async t => {
  const { table, a, b, buffer, text } = await buildFleetRig(t)
  const record = table.put(makeRecord({
    ...ended,
    attempts: [makeAttempt({ fence: 1, ...returned }), makeAttempt({ fence: 2, ...ended, status: 'failed' }), makeAttempt({ fence: 3, number: 2, workerId: 'hst_b', ...ended })],
  }))
  for (const [host, fence] of [[a, 1], [a, 2], [b, 3]] as const) {
    host.write(record.id, fence, [`o${fence}`])
    host.write(record.id, fence, [`e${fence}`], 'stderr')
    host.end(record.id, fence)
    buffer.write(fence, [`o${fence}`])
    buffer.write(fence, [`e${fence}`], { stream: 'stderr' })
    buffer.complete(fence)
  }
  const read = async (query: string) => (await text(`/v1/tasks/${record.id}/logs?${query}`)).trim().split('\n').filter(Boolean)
  for (const look of ['on the hosts', 'in the buffer']) {
    assert.deepEqual(await read(''), ['o1', 'e1', 'o2', 'e2', 'o3', 'e3'], look)
    assert.deepEqual(await read('tail=0'), [], look)
    assert.deepEqual(await read('tail=1'), ['e3'], look)
    assert.deepEqual(await read('tail=3&follow'), ['e2', 'o3', 'e3'], look)
    assert.deepEqual(await read('tail=100'), ['o1', 'e1', 'o2', 'e2', 'o3', 'e3'], look)
    assert.deepEqual(await read('stream=stderr&tail=2'), ['e2', 'e3'], look)
    assert.deepEqual(await read('attempt=1'), ['o1', 'e1', 'o2', 'e2'], look)
    assert.deepEqual(await read('attempt=2&follow'), ['o3', 'e3'], look)
    await Promise.all([a.stop(), b.stop()])
  }
  assert.match(await text(`/v1/tasks/${record.id}/logs?attempt=3`), /attempt_not_found/)
})

test('a host that falls silent is left for the buffer', async t => {
  const { table, a, buffer, open } = await buildFleetRig(t, { silenceMs: 200 })
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })] }))
  a.write(record.id, 1, ['one'])
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow`))
  await told.until('one')
  a.isMute = true
  buffer.write(1, ['one', 'two'])
  await told.until('one\ntwo\n')
})

test('a host that does not hear that its delivery is over holds nobody up', async t => {
  const { table, a, b, open } = await buildFleetRig(t)
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })] }))
  a.write(record.id, 1, ['one'])
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow`))
  await told.until('one')
  b.write(record.id, 2, ['two'])
  b.end(record.id, 2)
  table.put({ ...record, ...ended, attempts: [makeAttempt({ fence: 1, ...returned }), makeAttempt({ fence: 2, workerId: 'hst_b', ...ended })] })
  assert.equal(await told.whole, 'one\ntwo\n')
})

test('whoever goes away leaves nothing open, on hosts or here', async t => {
  const { table, a, open } = await buildFleetRig(t)
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })] }))
  a.write(record.id, 1, ['one'])
  const leaving = new AbortController()
  const told = new Told(await open(`/v1/tasks/${record.id}/logs?follow`, {}, leaving.signal))
  await told.until('one')
  assert.equal(a.openCount, 1)
  leaving.abort()
  assert.ok(await pollUntil(async () => a.openCount === 0 && table.watchedCount(record.id) === 0, withinMs))
})

test('text, lines of JSON and events are those of a host; a silent stream of events says that it is there', async t => {
  const { table, a, open, text } = await buildFleetRig(t, { heartbeatMs: 20 })
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 3 })] }))
  a.write(record.id, 3, ['one'])
  const path = `/v1/tasks/${record.id}/logs`
  const told = new Told(await open(`${path}?follow`, { accept: 'text/event-stream' }))
  await told.until(': still here\n\n')
  a.end(record.id, 3)
  table.put({ ...record, ...ended, attempts: [makeAttempt({ fence: 3, ...ended })] })
  const line = { type: 'line', cursor: '3.0:1', at, stream: 'stdout', text: 'one', partial: false }
  assert.equal((await told.whole).replaceAll(': still here\n\n', ''), `id: 3.0:1\ndata: ${JSON.stringify(line)}\n\nevent: end\ndata: {"type":"end","reason":"exited","exitCode":0}\n\n`)
  assert.equal(await text(`${path}?timestamps`), `${at} one\n`)
  assert.deepEqual(await ndjson(text(`${path}?format=ndjson`)), [line])
})

test('cursors that are none, and tasks of other pools, are refused as on a host', async t => {
  const { table, open, as } = await buildFleetRig(t)
  const record = table.put(makeRecord())
  const answer = async (path: string) => {
    const response = await open(path)
    return [response.status, (await response.json() as { code: string }).code]
  }
  for (const cursor of ['0:0', '1.', '1.0:0~x', '1.0:0:zz', 'x'.repeat(300)]) {
    const [status, code] = await answer(`/v1/tasks/${record.id}/logs?cursor=${cursor}`)
    assert.deepEqual([status, String(code).startsWith('invalid_')], [400, true], cursor)
  }
  as({ id: 'tok_other', scope: 'read', pools: ['gpu'] })
  assert.deepEqual(await answer(`/v1/tasks/${record.id}/logs`), [404, 'task_not_found'])
})
