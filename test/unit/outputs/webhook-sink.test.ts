import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { Webhook } from 'standardwebhooks'
import type { OutputSpec } from '../../../src/schemas/output.ts'
import { SinkBusy, SinkRefusal, type OutputEntry } from '../../../src/services/outputs/output-sink.ts'
import { WebhookSender, readRetryAfter } from '../../../src/services/outputs/webhook-sender.ts'
import { openWebhookSink } from '../../../src/services/outputs/webhook-sink.ts'
import { build, line, until } from './output-fixture.ts'

interface Received {
  headers: IncomingHttpHeaders
  body: string
}

/** A receiver on a real port, and a sender; `answer` says what it does with a request. */
async function receiver (t: TestContext) {
  const received: Received[] = []
  const it = { answer: (response: ServerResponse): void => { response.end() }, received, url: '', sender: new WebhookSender() }
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', chunk => { chunks.push(chunk) })
    request.on('end', () => {
      received.push({ headers: request.headers, body: Buffer.concat(chunks).toString() })
      it.answer(response)
    })
  })
  await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
  it.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook?x=1`
  t.after(async () => {
    await it.sender.close()
    server.closeAllConnections()
    server.close()
  })
  return it
}

const entry = (seq: number, data: Buffer, isLineEnd = true): OutputEntry => ({ seq, cursor: `0:${seq}`, at: '2026-11-22T13:30:19Z', stream: 'stdout', data, isLineEnd })
const sinkOf = (spec: Omit<OutputSpec, 'type'>, sender: WebhookSender, index = 0) => openWebhookSink({ taskId: 'tsk_a', spec: { type: 'webhook', ...spec }, index, state: undefined }, sender)

test('batches are posted as JSON with an id that says what is in them', async t => {
  const { url, sender, received } = await receiver(t)
  const sink = sinkOf({ url }, sender, 2)
  await sink.write([entry(7, Buffer.from('é')), entry(8, Buffer.from([0xff]), false)])
  await sink.writeStatus!([{ seq: 0, at: 'then', status: 'pending', attempt: 1 }])
  assert.deepEqual(JSON.parse(received[0]!.body), {
    taskId: 'tsk_a',
    entries: [
      { seq: 7, cursor: '0:7', time: '2026-11-22T13:30:19Z', stream: 'stdout', data: 'é', lineEnd: true },
      { seq: 8, cursor: '0:8', time: '2026-11-22T13:30:19Z', stream: 'stdout', data: '/w==', encoding: 'base64', lineEnd: false },
    ],
  })
  assert.deepEqual(JSON.parse(received[1]!.body), { taskId: 'tsk_a', statuses: [{ seq: 0, at: 'then', status: 'pending', attempt: 1 }] })
  assert.deepEqual(received.map(({ headers }) => headers['webhook-id']), ['tsk_a.2.7-8', 'tsk_a.2.s0-0'])
  assert.equal(received[0]!.headers['webhook-signature'], undefined)
})

test('what is posted is signed so that the public library verifies it, with both kinds of secret', async t => {
  const { url, sender, received } = await receiver(t)
  const words = 'a secret of some words'
  const coded = `whsec_${Buffer.from('0123456789abcdefghij').toString('base64')}`
  await sinkOf({ url, secret: words }, sender).write([entry(0, Buffer.from('x'))])
  await sinkOf({ url, secret: coded }, sender).write([entry(0, Buffer.from('x'))])
  const [first, second] = received
  assert.ok(new Webhook(words, { format: 'raw' }).verify(first!.body, first!.headers as Record<string, string>))
  assert.ok(new Webhook(coded).verify(second!.body, second!.headers as Record<string, string>))
  assert.throws(() => new Webhook(coded).verify(`${second!.body} `, second!.headers as Record<string, string>))
  assert.ok(!received.some(({ headers, body }) => `${JSON.stringify(headers)}${body}`.includes('some words')))
})

test('2xx confirms, 410 ends it, everything else is tried again, as late as the receiver asks', async t => {
  const hook = await receiver(t)
  const sink = sinkOf({ url: hook.url }, hook.sender)
  const send = (status: number, headers: Record<string, string> = {}): Promise<unknown> => {
    hook.answer = response => { response.writeHead(status, headers).end('x'.repeat(100)) }
    return sink.write([entry(0, Buffer.from('x'))])
  }
  for (const status of [200, 201, 202, 204]) await send(status)
  await assert.rejects(send(410), SinkRefusal)
  for (const status of [301, 302, 307, 400, 401, 403, 404, 409, 413, 422, 500, 502]) {
    await assert.rejects(send(status, { location: hook.url }), (error: Error) => error.message === `the receiver answered ${status}` && !(error instanceof SinkRefusal))
  }
  await assert.rejects(send(429, { 'retry-after': '7' }), (error: SinkBusy) => error instanceof SinkBusy && error.retryAfterMs === 7000)
  await assert.rejects(send(503, { 'retry-after': '99999' }), (error: SinkBusy) => error.retryAfterMs === 600_000)
  assert.equal(hook.received.length, 4 + 1 + 12 + 2, 'a redirect was followed')
})

test('Retry-After is seconds or a date, and bounded', () => {
  const now = Date.parse('2026-11-22T13:30:00Z')
  assert.equal(readRetryAfter('Sun, 22 Nov 2026 13:30:30 GMT', now), 30_000)
  assert.equal(readRetryAfter('Sun, 22 Nov 2020 13:30:30 GMT', now), 0)
  assert.equal(readRetryAfter('Sun, 22 Nov 2036 13:30:30 GMT', now), 600_000)
  for (const value of [undefined, '', 'soon', '-1', '0']) assert.equal(readRetryAfter(value, now), 0)
})

test('an answer without end and a receiver that is not there do no harm', async t => {
  const hook = await receiver(t)
  const sink = sinkOf({ url: hook.url }, hook.sender)
  let sent = 0
  hook.answer = response => {
    response.writeHead(200)
    const more = (): void => {
      if (response.destroyed || sent > 8 * 1024 * 1024) return
      sent += 16 * 1024
      response.write(Buffer.alloc(16 * 1024), () => setImmediate(more))
    }
    more()
  }
  await sink.write([entry(0, Buffer.from('x'))])
  assert.ok(sent < 8 * 1024 * 1024)
  await assert.rejects(sinkOf({ url: 'http://127.0.0.1:1/' }, hook.sender).write([entry(0, Buffer.from('x'))]), /cannot be reached \(ECONNREFUSED\)/)
  hook.answer = () => undefined
  const hanging = sink.write([entry(0, Buffer.from('x'))])
  await until('the request', () => hook.received.length === 2)
  await sink.close()
  await assert.rejects(hanging, /cannot be reached/)
})

test('the output of a task reaches a receiver that is down at first', async t => {
  const hook = await receiver(t)
  const { manager, task, path, done } = await build(t, { openSink: async request => openWebhookSink(request, hook.sender) })
  let answers = 0
  hook.answer = response => { response.writeHead(++answers < 5 ? 503 : 200).end() }
  const one = (await task('one', [{ type: 'webhook', url: hook.url }])).become('running').become('complete')
  await writeFile(path('one', 'log'), Buffer.concat([line('a'), line('b', 'stderr')]))
  manager.begin(one)
  await until('the end', () => done.length === 1)
  const taken = new Map(hook.received.slice(4).flatMap(({ body }) => JSON.parse(body).entries ?? []).map((one: { seq: number, data: string }) => [one.seq, one.data]))
  assert.deepEqual([...taken], [[0, 'a'], [1, 'b']])
})
