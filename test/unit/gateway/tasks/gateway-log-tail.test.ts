import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { json } from 'node:stream/consumers'
import { test } from 'node:test'
import type { WebSocket } from 'ws'
import { BerthError } from '../../../../src/errors.ts'
import { pollUntil } from '../../../../src/lib/poll.ts'
import type { LogEnd, LogFrame } from '../../../../src/schemas/log.ts'
import { makeAttempt, makeRecord } from './fleet-record.ts'
import { buildFleetRig } from './fleet-rig.ts'

const at = '2026-03-01T09:30:00.000Z'
const withinMs = 10_000
const ended = { status: 'complete', endedAt: at, end: { reason: 'exited', at, exitCode: 0 } } as const

/** What a socket was sent so far, and how it was closed. */
class Tail {
  readonly frames: Array<LogFrame | LogEnd> = []
  closed: { code: number, reason: string } | undefined

  constructor (socket: WebSocket) {
    socket.on('message', data => this.frames.push(JSON.parse(String(data)) as LogFrame))
    socket.once('close', (code, reason) => { this.closed = { code, reason: String(reason) } })
  }

  get text (): string { return this.frames.map(frame => frame.type === 'output' ? frame.data : '').join('') }

  async until (isSo: () => boolean): Promise<void> {
    assert.ok(await pollUntil(async () => isSo(), withinMs), JSON.stringify([this.frames, this.closed]))
  }
}

async function refusal (socket: WebSocket): Promise<string> {
  const [, answer] = await once(socket, 'unexpected-response') as [unknown, IncomingMessage]
  return `${answer.statusCode} ${(await json(answer) as { code: string }).code}`
}

test('a log of a fleet comes in the frames of a host, over all its hosts, and on from the cursor of any of them', async t => {
  const { table, a, b, socket } = await buildFleetRig(t)
  const [first, second] = [makeAttempt({ fence: 1 }), makeAttempt({ fence: 2, number: 2, workerId: 'hst_b' })]
  const record = table.put(makeRecord({ attempts: [first] }))
  const path = `/v1/tasks/${record.id}/logs/ws`
  const tail = new Tail(socket(path))
  a.write(record.id, 1, ['one'])
  await tail.until(() => tail.text === 'one\n')
  const { cursor } = tail.frames[0] as LogFrame
  a.write(record.id, 1, ['two'])
  a.end(record.id, 1)
  b.write(record.id, 2, ['three'])
  b.end(record.id, 2)
  table.put({ ...record, ...ended, attempts: [{ ...first, ...ended, status: 'failed' }, { ...second, ...ended }] })
  await tail.until(() => tail.closed !== undefined)
  assert.equal(tail.text, 'one\ntwo\nthree\n')
  assert.deepEqual([tail.frames.at(-1), tail.closed], [{ type: 'end', reason: 'exited', exitCode: 0 }, { code: 1000, reason: '' }])
  for (const [query, text] of [[`?cursor=${encodeURIComponent(cursor)}`, 'two\nthree\n'], ['?attempt=1', 'one\ntwo\n'], ['?tail=1&follow=false', 'three\n']]) {
    const again = new Tail(socket(path + query))
    await again.until(() => again.closed !== undefined)
    assert.deepEqual([query, again.text, again.frames.at(-1)?.type], [query, text, 'end'])
  }
  assert.equal(table.watchedCount(record.id), 0)
})

test('what speaks against it is said before the upgrade', async t => {
  const { table, socket, open, as } = await buildFleetRig(t)
  const record = table.put(makeRecord({ attempts: [makeAttempt({ fence: 1 })] }))
  const path = `/v1/tasks/${record.id}/logs/ws`
  const headers = { authorization: 'Bearer of somebody' }
  const cases: Array<[refused: string, path: string, protocols?: string[]]> = [
    ['401 token_missing', path, ['berth.v1']],
    ['401 token_invalid', path, ['berth.v1', 'bearer.nobody']],
    ['401 token_missing', `${path}?ticket=good`, ['berth.v1']],
    ['403 scope_insufficient', path, ['berth.v1', 'bearer.worker']],
    ['404 task_not_found', path, ['berth.v1', 'bearer.gpu']],
    ['400 subprotocol_unknown', path, ['bearer.read']],
    ['404 task_not_found', '/v1/tasks/tsk_00000000000000000000/logs/ws'],
    ['404 attempt_not_found', `${path}?attempt=2`],
    ['400 invalid_cursor', `${path}?cursor=nonsense`],
  ]
  for (const [refused, asked, protocols] of cases) assert.deepEqual([asked, protocols, await refusal(socket(asked, protocols))], [asked, protocols, refused])
  as({ id: 'tok_worker', scope: 'worker' })
  assert.equal(await refusal(socket(path, [], { headers })), '403 scope_insufficient')
  assert.equal((await open(path, headers)).status, 426)
  for (const allowed of [socket(path, ['berth.v1', 'bearer.read']), socket(path)]) {
    await once(allowed, 'open')
    assert.equal(allowed.protocol, 'berth.v1')
    allowed.terminate()
  }
  assert.ok(await pollUntil(async () => table.watchedCount(record.id) === 0, withinMs), 'nobody follows any more')
})

test('who goes away while it is looked up leaves nothing behind, and an end of the gateway is told', async t => {
  const lookup = Promise.withResolvers<void>()
  const asked = Promise.withResolvers<void>()
  const record = makeRecord({ attempts: [makeAttempt({ fence: 1 })] })
  t.after(() => lookup.resolve())
  let isHeld = true
  const get = async () => {
    asked.resolve()
    if (isHeld) await lookup.promise
    return record
  }
  const unused = () => { throw new Error('of no use here') }
  const { app, table, a, socket, closing } = await buildFleetRig(t, { tasks: { table: { get, list: unused, remove: unused, watch: unused } } })
  table.put(record)
  const path = `/v1/tasks/${record.id}/logs/ws`
  const leaving = socket(path)
  await asked.promise
  leaving.terminate()
  const connections = async () => await new Promise<number>((resolve, reject) => app.server.getConnections((error, count) => error ? reject(error) : resolve(count)))
  isHeld = false
  lookup.resolve()
  // Its end shows only once the connection is read again.
  assert.ok(await pollUntil(async () => await connections() === 0 && table.watchedCount(record.id) === 0, withinMs))
  const tail = new Tail(socket(path))
  a.write(record.id, 1, ['one'])
  await tail.until(() => tail.text === 'one\n')
  assert.equal(table.watchedCount(record.id), 1)
  closing.abort(new BerthError('unavailable', 'gateway_stopping', 'the gateway is shutting down'))
  await tail.until(() => tail.closed !== undefined)
  assert.deepEqual(tail.closed, { code: 1001, reason: 'gateway_stopping' })
})
