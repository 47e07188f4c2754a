import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws'
import { BerthError } from '../../../src/errors.ts'
import { defaultSocketLimits, JsonSocket, type SocketLimits } from '../../../src/ws/json-socket.ts'

/** One JsonSocket and its peer, over a real connection. */
async function build (t: TestContext, limits: Partial<SocketLimits> = {}, clientOptions: ClientOptions = {}) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 1024 })
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const peer = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false, ...clientOptions })
  peer.on('error', () => {})
  const closed = once(peer, 'close').then(([code, reason]) => [code, String(reason)])
  const [accepted] = await once(server, 'connection') as [WebSocket]
  const over = new AbortController()
  const closing = new AbortController()
  const logged: string[] = []
  const gone = Promise.withResolvers<void>()
  const socket = new JsonSocket(accepted, {
    limits: { ...defaultSocketLimits, ...limits },
    closing: closing.signal,
    over,
    onClosed: () => gone.resolve(),
    log: { error: (_facts, message) => logged.push(message) },
  })
  if (peer.readyState !== peer.OPEN) await once(peer, 'open')
  t.after(async () => {
    peer.terminate()
    await gone.promise
    server.close()
    await once(server, 'close')
  })
  const messages: unknown[] = []
  peer.on('message', data => messages.push(JSON.parse(String(data))))
  return { socket, peer, closed, closing, over, logged, messages, gone: gone.promise }
}

test('an end comes behind all that was sent', async t => {
  const { socket, closed, messages, over } = await build(t)
  for (let n = 0; n < 100; n++) await socket.send({ n, text: 'x'.repeat(50_000) })
  await socket.end()
  assert.deepEqual(await closed, [1000, ''])
  assert.equal(messages.length, 100)
  assert.equal(over.signal.aborted, true)
})

for (const [error, expected] of [
  [new BerthError('not_found', 'file_not_found', 'gone'), 4404],
  [new BerthError('invalid_argument', 'invalid_cursor', 'no'), 4400],
  [new BerthError('exhausted', 'disk_full', 'full'), 1013],
  [new BerthError('unavailable', 'host_stopping', 'ends'), 1001],
] as const) {
  test(`an error of kind ${error.kind} is told, and closes with ${expected}`, async t => {
    const { socket, closed, messages } = await build(t)
    await socket.fail(error)
    assert.deepEqual(await closed, [expected, error.code])
    assert.deepEqual(messages, [{ type: 'error', code: error.code, message: error.message }])
  })
}

test('what went wrong inside is in the log, and nothing of it on the wire', async t => {
  const { socket, closed, messages, logged } = await build(t)
  await socket.fail(new Error('EIO: /var/lib/secret'))
  assert.deepEqual(await closed, [1011, 'internal'])
  assert.equal(JSON.stringify(messages).includes('secret'), false)
  assert.deepEqual(logged, ['socket failed'])
})

test('a daemon that ends says so and does not wait for the peer', async t => {
  const { peer, closed, closing, gone } = await build(t, { farewellMs: 50 })
  closing.abort()
  assert.deepEqual(await closed, [1001, 'host_stopping'])
  await gone
  assert.equal(peer.readyState, peer.CLOSED)
})

test('a peer that is stuck when the daemon ends is left', async t => {
  const { peer, closing, gone, socket } = await build(t, { farewellMs: 50 })
  peer.pause()
  const sending = flood(socket)
  await Promise.race([sending, new Promise(resolve => setTimeout(resolve, 100))])
  closing.abort()
  await gone
  await sending
})

test('a peer that takes nothing is cut off, and sending comes to an end', async t => {
  const { peer, socket, gone, over } = await build(t, { stallMs: 100, farewellMs: 50 })
  peer.pause()
  await flood(socket)
  assert.equal(over.signal.aborted, true)
  await gone
})

test('a peer that answers no ping is gone; one that does stays', async t => {
  const quiet = await build(t, { pingMs: 20 }, { autoPong: false })
  const lively = await build(t, { pingMs: 20 })
  await quiet.gone
  for (let n = 0; n < 5; n++) await once(lively.peer, 'ping')
  assert.equal(lively.peer.readyState, lively.peer.OPEN)
})

test('a peer that sends, or sends too much at once, is closed', async t => {
  const sends = await build(t)
  sends.peer.send('hello')
  assert.deepEqual(await sends.closed, [1003, 'no_messages_taken'])
  const floods = await build(t)
  floods.peer.send('x'.repeat(2000))
  assert.deepEqual(await floods.closed, [1009, ''])
})

test('a peer that breaks off ends it at once', async t => {
  const { peer, over, gone, socket } = await build(t)
  peer.terminate()
  await gone
  assert.equal(over.signal.aborted, true)
  await socket.send({ n: 1 })
  await socket.end()
})

/** Sends until there is no use in it. */
async function flood (socket: JsonSocket): Promise<void> {
  for (let n = 0; n < 1000; n++) await socket.send({ text: 'x'.repeat(100_000) })
}
