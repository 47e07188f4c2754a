import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { WebSocket, WebSocketServer, type ClientOptions } from 'ws'
import { BerthError } from '../../../src/errors.ts'
import { defaultSocketLimits, JsonSocket, type JsonSocketOptions, type SocketLimits } from '../../../src/ws/json-socket.ts'

/** One JsonSocket and its peer, over a real connection. */
async function build (t: TestContext, limits: Partial<SocketLimits> = {}, clientOptions: ClientOptions = {}, onMessage?: JsonSocketOptions['onMessage'], mayStay?: () => boolean) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 1024, autoPong: false })
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
    onMessage,
    mayStay,
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
  peer.on('message', (data, isBinary) => messages.push(isBinary ? data : JSON.parse(String(data))))
  return { accepted, socket, peer, closed, closing, over, logged, messages, gone: gone.promise }
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

test('bytes go out as they are, among messages', async t => {
  const { socket, closed, messages } = await build(t)
  await socket.send({ n: 1 })
  await socket.sendBytes(Buffer.from([0xff, 0x00]))
  await socket.send({ n: 2 })
  await socket.end()
  await closed
  assert.deepEqual(messages, [{ n: 1 }, Buffer.from([0xff, 0x00]), { n: 2 }])
})

test('what a peer sends is dealt with one after the other', async t => {
  const seen: string[] = []
  let open = 0
  const { peer } = await build(t, {}, {}, async data => {
    assert.equal(++open, 1)
    await new Promise(resolve => setImmediate(resolve))
    seen.push(String(data))
    open--
  })
  for (let n = 0; n < 500; n++) peer.send(String(n))
  await until(() => seen.length === 500)
  assert.deepEqual(seen, Array.from({ length: 500 }, (_, n) => String(n)))
})

test('a fault in dealing with a message closes at once, and is in the log', async t => {
  const { peer, closed, logged, messages, over } = await build(t, {}, {}, async () => { throw new Error('EIO: /var/lib/secret') })
  for (let n = 0; n < 3; n++) peer.send('x')
  assert.deepEqual(await closed, [1011, 'internal'])
  assert.deepEqual([logged, messages], [['socket failed'], []])
  assert.equal(over.signal.aborted, true)
})

test('a peer whose message is dealt with for long is not taken for gone', async t => {
  const gate = Promise.withResolvers<void>()
  const { peer, socket, closed } = await build(t, { pingMs: 20 }, {}, () => gate.promise)
  peer.send('x')
  for (let n = 0; n < 10; n++) await once(peer, 'ping')
  assert.equal(peer.readyState, peer.OPEN)
  gate.resolve()
  for (let n = 0; n < 5; n++) await once(peer, 'ping')
  await socket.end()
  assert.deepEqual(await closed, [1000, ''])
})

test('one who waits for room is not cut off by another who has found it', async t => {
  const { peer, socket, over } = await build(t, { stallMs: 1000, farewellMs: 50 })
  peer.pause()
  const first = flood(socket, 400)
  const second = flood(socket, 400)
  await new Promise(resolve => setTimeout(resolve, 20))
  peer.resume()
  await Promise.all([first, second])
  await new Promise(resolve => setTimeout(resolve, 1500))
  assert.equal(over.signal.aborted, false)
})

test('a peer that asks for answers and takes none has them not kept for it', async t => {
  const { accepted, peer, socket } = await build(t, { bufferedBytes: 1000 })
  peer.pause()
  void flood(socket)
  await until(() => accepted.bufferedAmount > 1000)
  const before = accepted.bufferedAmount
  let heard = 0
  accepted.on('ping', () => { heard++ })
  for (let n = 0; n < 5000; n++) peer.ping(Buffer.alloc(100))
  await until(() => heard === 5000)
  assert.ok(accepted.bufferedAmount <= before, `${accepted.bufferedAmount} bytes wait`)
  const answered = await build(t)
  answered.peer.ping('hello')
  assert.equal(String((await once(answered.peer, 'pong'))[0]), 'hello')
})

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setTimeout(resolve, 5))
}

/** Sends until there is no use in it. */
async function flood (socket: JsonSocket, count = 1000): Promise<void> {
  for (let n = 0; n < count; n++) await socket.send({ text: 'x'.repeat(100_000) })
}

test('a peer whose token has ended is sent away', async t => {
  let isGood = true
  const { closed, over } = await build(t, { admissionCheckMs: 5 }, {}, undefined, () => isGood)
  isGood = false
  assert.deepEqual(await closed, [4401, 'token_ended'])
  assert.equal(over.signal.aborted, true)
})
