import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type AddressInfo } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { test, type TestContext } from 'node:test'
import type { AppOptions } from '../../../src/app.ts'
import { BerthError } from '../../../src/errors.ts'
import type { ExecEvent } from '../../../src/schemas/exec.ts'
import { adminToken, asAdmin, at, buildTestApp, makeSandbox } from './fake-services.ts'

async function listen (t: TestContext, options: Partial<AppOptions> = {}) {
  const parts = await buildTestApp(t, options)
  await parts.app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = parts.app.server.address() as AddressInfo
  const { id } = makeSandbox()
  parts.sandboxes.set(id, { ...makeSandbox(), id })
  return { ...parts, port, base: `http://127.0.0.1:${port}`, id }
}

const post = (body: object, headers: Record<string, string> = {}): RequestInit =>
  ({ method: 'POST', headers: { ...asAdmin, 'content-type': 'application/json', ...headers }, body: JSON.stringify(body) })

/** An endless source that says when it was begun and when it was told to end. */
function endless<T> (first: T[]) {
  const ended = Promise.withResolvers<void>()
  async function * source (signal: AbortSignal): AsyncGenerator<T> {
    try {
      yield * first
      await once(signal, 'abort').catch(() => {})
    } finally {
      ended.resolve()
    }
  }
  return { source, ended: ended.promise }
}

test('an exec streams its events as NDJSON', async t => {
  const { base, id } = await listen(t)
  const answer = await fetch(`${base}/v1/sandboxes/${id}/execs?format=ndjson`, post({ argv: ['a'] }))
  assert.equal(answer.headers.get('content-type'), 'application/x-ndjson; charset=utf-8')
  assert.equal(answer.headers.get('x-accel-buffering'), 'no')
  const types = (await answer.text()).trim().split('\n').map(line => JSON.parse(line).type)
  assert.deepEqual(types, ['started', 'stdout', 'exit'])
})

test('an exec streams as SSE when Accept asks for it', async t => {
  const { base, id } = await listen(t)
  const answer = await fetch(`${base}/v1/sandboxes/${id}/execs`, post({ argv: ['a'] }, { accept: 'text/event-stream' }))
  assert.match(await answer.text(), /^event: started\ndata: .*\n\nevent: stdout\ndata: \{"type":"stdout","data":"hello\\n"\}\n\nevent: exit\n/)
})

test('an exec that is refused before it starts is an ordinary error', async t => {
  const { base } = await listen(t)
  const answer = await fetch(`${base}/v1/sandboxes/sbx_${'z'.repeat(20)}/execs?format=sse`, post({ argv: ['a'] }))
  assert.equal(answer.status, 404)
  assert.equal((await answer.json() as { code: string }).code, 'sandbox_not_found')
})

test('an error after the head was sent is the last record', async t => {
  const { base, id, services } = await listen(t)
  services.execs.stream = async () => (async function * (): AsyncGenerator<ExecEvent> {
    yield { type: 'stdout', data: 'x' }
    await turn()
    throw new BerthError('unavailable', 'runtime_gone', 'the runtime is gone')
  })()
  const answer = await fetch(`${base}/v1/sandboxes/${id}/execs?format=ndjson`, post({ argv: ['a'] }))
  const last = JSON.parse((await answer.text()).trim().split('\n').at(-1)!)
  assert.deepEqual(last, { type: 'error', code: 'runtime_gone', message: 'the runtime is gone' })
})

test('a client that goes away ends the exec it was watching', async t => {
  const { base, id, services } = await listen(t)
  const { source, ended } = endless<ExecEvent>([{ type: 'stdout', data: 'x' }])
  services.execs.stream = async (_id, _input, { signal }) => source(signal)
  const client = new AbortController()
  const answer = await fetch(`${base}/v1/sandboxes/${id}/execs?format=sse`, { ...post({ argv: ['a'] }), signal: client.signal })
  await answer.body!.getReader().read()
  client.abort()
  await ended
})

test('an attached exec is told when its client goes away, unless it has a key to come back with', async t => {
  const { base, id, services } = await listen(t)
  const signals: AbortSignal[] = []
  let begun = Promise.withResolvers<void>()
  services.execs.run = async (_id, _input, { signal }) => {
    signals.push(signal)
    begun.resolve()
    await once(signal, 'abort')
    throw signal.reason
  }
  for (const headers of [{}, { 'idempotency-key': 'k' }] as Array<Record<string, string>>) {
    begun = Promise.withResolvers<void>()
    const client = new AbortController()
    const answer = fetch(`${base}/v1/sandboxes/${id}/execs`, { ...post({ argv: ['a'] }, headers), signal: client.signal }).catch(() => {})
    await begun.promise
    client.abort()
    await answer
  }
  if (!signals[0]!.aborted) await once(signals[0]!, 'abort')
  await turn()
  assert.equal(signals[1]!.aborted, false)
})

test('a log is text by default, with times on demand', async t => {
  const { base, id } = await listen(t)
  const plain = await fetch(`${base}/v1/sandboxes/${id}/logs`, { headers: asAdmin })
  assert.equal(plain.headers.get('content-type'), 'text/plain; charset=utf-8')
  assert.match(await plain.text(), /^one\n/)
  const timed = await fetch(`${base}/v1/sandboxes/${id}/logs?timestamps`, { headers: asAdmin })
  assert.ok((await timed.text()).startsWith(`${at} one\n`))
})

test('a log over SSE carries cursors as ids, and the last one seen goes first', async t => {
  const { base, id, calls } = await listen(t)
  const answer = await fetch(`${base}/v1/sandboxes/${id}/logs?follow=true&tail=5&stream=stdout`, { headers: { ...asAdmin, accept: 'text/event-stream', 'last-event-id': '0:5' } })
  const text = await answer.text()
  assert.match(text, /^id: 0:10\n/)
  assert.match(text, /event: end\ndata: .*\n\n$/)
  const { signal: _, isEnded: __, ...asked } = calls[0]!.args[0] as Record<string, unknown>
  assert.deepEqual(asked, { dir: '/log', cursor: '0:5', follow: true, stream: 'stdout' })
})

test('events come as a page, or as a stream from the last one seen or from this moment on', async t => {
  const { base, calls } = await listen(t)
  const page = await fetch(`${base}/v1/events?cursor=0&type=host.started,host.stopping&limit=1`, { headers: asAdmin })
  assert.deepEqual(await page.json(), { items: [{ seq: 1, at, type: 'host.started', data: {} }], nextCursor: '1' })
  const stream = await fetch(`${base}/v1/events?format=sse&cursor=0`, { headers: { ...asAdmin, 'last-event-id': '1' } })
  assert.match(await stream.text(), /^id: 2\nevent: host.stopping\ndata: \{"seq":2/)
  await (await fetch(`${base}/v1/events?follow=true`, { headers: asAdmin })).text()
  assert.deepEqual(calls.map(call => (call.args[0] as { after: number }).after), [0, 1, 7])
})

test('a silent stream sends its head at once and comments while it is silent', async t => {
  const { base, services } = await listen(t, { limits: { heartbeatMs: 5 } })
  const { source } = endless<never>([])
  services.events.follow = ({ signal }) => source(signal)
  const client = new AbortController()
  const answer = await fetch(`${base}/v1/events?format=sse`, { headers: asAdmin, signal: client.signal })
  assert.equal(answer.status, 200)
  const { value } = await answer.body!.getReader().read()
  assert.match(Buffer.from(value!).toString(), /^: still here\n\n/)
  client.abort()
})

test('a reader that stops reading stops the source', async t => {
  const { port, services } = await listen(t)
  const block = 'x'.repeat(64 * 1024)
  let made = 0
  const stalled = Promise.withResolvers<void>()
  const ended = Promise.withResolvers<void>()
  services.events.follow = async function * () {
    try {
      for (;; made++) {
        yield { seq: made, at, type: 'host.started' as const, data: { block } }
        if (made > 10_000) throw new Error('nothing holds the source back')
      }
    } finally {
      ended.resolve()
    }
  }
  const socket = connect(port, '127.0.0.1')
  socket.pause()
  socket.write(`GET /v1/events?format=ndjson HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${adminToken}\r\n\r\n`)
  // Held back when nothing more was made between two looks.
  let seen = -1
  const look = setInterval(() => {
    if (made > 0 && made === seen) stalled.resolve()
    seen = made
  }, 50)
  await stalled.promise
  clearInterval(look)
  assert.ok(made < 2000, `${made} blocks of 64 KiB`)
  socket.destroy()
  await ended.promise
})

test('closing ends streams and waits, and leaves no connection behind', async t => {
  const { base, id, app, services } = await listen(t)
  const { source, ended } = endless([{ seq: 1, at, type: 'host.started' as const, data: {} }])
  services.events.follow = ({ signal }) => source(signal)
  const waiting = Promise.withResolvers<void>()
  services.sandboxes.wait = async (_id, { signal }) => {
    waiting.resolve()
    await once(signal, 'abort')
    throw signal.reason
  }
  const stream = await fetch(`${base}/v1/events?follow=true`, { headers: asAdmin })
  const wait = fetch(`${base}/v1/sandboxes/${id}/wait`, { headers: asAdmin })
  await waiting.promise
  const closed = app.close()
  await stream.text()
  await ended
  const refused = await wait
  assert.equal(refused.status, 503)
  assert.equal((await refused.json() as { code: string }).code, 'host_stopping')
  await closed
})

test('what is no HTTP, and a head that is too large, get an error body too', async t => {
  const { port } = await listen(t)
  for (const [head, status, code] of [['nonsense\r\n\r\n', 400, 'malformed_request'], [`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`, 431, 'headers_too_large']] as const) {
    const socket = connect(port, '127.0.0.1')
    socket.write(head)
    const chunks = await socket.toArray()
    const [top, body] = Buffer.concat(chunks).toString().split('\r\n\r\n')
    assert.ok(top!.startsWith(`HTTP/1.1 ${status} `), top)
    assert.equal(JSON.parse(body!).code, code)
  }
})
