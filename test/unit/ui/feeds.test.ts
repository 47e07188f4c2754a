import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ApiError } from '../../../src/ui/api/api-client.ts'
import { ApiClient } from '../../../src/ui/api/api-client.ts'
import { EventFeed } from '../../../src/ui/api/event-feed.ts'
import { followLog } from '../../../src/ui/api/log-feed.ts'

type Answer = (url: URL, init: RequestInit) => Response | Promise<Response>

/** Answers one call after the other; the last answer goes on. */
function clientOf (answers: Answer[], told: { unauthenticated?: number } = {}) {
  const calls: URL[] = []
  const client = new ApiClient({
    token: 'secret',
    fetch: async (input, init) => {
      const url = new URL(String(input), 'http://berth')
      calls.push(url)
      return await answers[Math.min(calls.length, answers.length) - 1]!(url, init!)
    },
    onUnauthenticated: () => { told.unauthenticated = (told.unauthenticated ?? 0) + 1 },
  })
  return { client, calls }
}

const text = (...lines: string[]) => new Response(lines.join(''))
const down: Answer = () => { throw new TypeError('fetch failed') }
const event = (seq: number) => `id: ${seq}\nevent: task.created\ndata: ${JSON.stringify({ seq, at: '', type: 'task.created', data: {} })}\n\n`
const never = (init: RequestInit, first: string) => new Response(new ReadableStream({
  start (controller) {
    controller.enqueue(new TextEncoder().encode(first))
    init.signal!.addEventListener('abort', () => controller.error(new DOMException('gone', 'AbortError')))
  },
}))

async function until (isSo: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1000 && !isSo(); turn++) await new Promise(resolve => setTimeout(resolve, 5))
  assert.ok(isSo(), String(isSo))
}

test('a refusal is told in the words of the API, and the token goes in a header alone', async () => {
  const { client, calls } = clientOf([(_url, init) => {
    assert.equal((init.headers as Record<string, string>)['authorization'], 'Bearer secret')
    return Response.json({ code: 'sandbox_not_found', kind: 'not_found', message: 'there is none', details: { a: 1 } }, { status: 404 })
  }])
  await assert.rejects(client.get('/v1/sandboxes/x', { a: 1, b: undefined }), (error: ApiError) => {
    assert.deepEqual([error.status, error.code, error.message, error.details, error.isUnreachable], [404, 'sandbox_not_found', 'there is none', { a: 1 }, false])
    return true
  })
  assert.equal(calls[0]!.href, 'http://berth/v1/sandboxes/x?a=1')
})

test('no answer, an answer of a proxy and a daemon that ends are times to try again', async () => {
  for (const answer of [down, () => new Response('bad gateway', { status: 502 }), () => Response.json({ code: 'host_stopping', message: 'later' }, { status: 503 })]) {
    await assert.rejects(clientOf([answer]).client.get('/v1/host'), (error: ApiError) => error.isUnreachable)
  }
})

test('a token that is not known signs out', async () => {
  const told: { unauthenticated?: number } = {}
  await assert.rejects(clientOf([() => Response.json({ code: 'token_invalid', message: 'no' }, { status: 401 })], told).client.get('/v1/host'))
  assert.equal(told.unauthenticated, 1)
})

test('lists are read to their end', async () => {
  const { client, calls } = clientOf([() => Response.json({ items: [1], nextCursor: 'c' }), () => Response.json({ items: [2] })])
  assert.deepEqual(await client.list('/v1/tasks'), [1, 2])
  assert.equal(calls[1]!.searchParams.get('cursor'), 'c')
})

test('events go on where they broke off, and everybody is told that what is known may be old', async () => {
  const seen: number[] = []
  const { client, calls } = clientOf([() => text(event(1), event(2)), down, (_url, init) => never(init, event(3))])
  const feed = new EventFeed(client)
  feed.subscribe(({ seq }) => seen.push(seq))
  const running = feed.run()
  await until(() => feed.state.value === 'lost')
  feed.retryNow()
  await until(() => seen.length === 3)
  assert.deepEqual([seen, feed.state.value, feed.generation.value], [[1, 2, 3], 'online', 1])
  assert.equal(calls.at(-1)!.searchParams.get('cursor'), '2')
  feed.stop()
  await running
})

test('a log is followed through losses, with nothing twice', async () => {
  const record = (cursor: string) => `${JSON.stringify({ type: 'line', cursor, at: '', stream: 'stdout', text: cursor, partial: false })}\n`
  const { client, calls } = clientOf([() => text(record('1'), record('2'), '{"type":"li'), down, () => text(record('3'), '{"type":"end","reason":"exited","exitCode":0}\n')])
  const lines: string[] = []
  const states: string[] = []
  const end = await followLog(client, { path: '/v1/tasks/t/logs', query: { tail: 10 }, signal: new AbortController().signal, onRecords: records => lines.push(...records.map(({ cursor }) => cursor)), onState: state => states.push(state) })
  assert.deepEqual([lines, end, states.at(-1)], [['1', '2', '3'], { type: 'end', reason: 'exited', exitCode: 0 }, 'ended'])
  assert.deepEqual(calls.map(({ searchParams }) => [searchParams.get('tail'), searchParams.get('cursor')]), [['10', null], [null, '2'], [null, '2']])
})

test('a log that is refused is not tried again', async () => {
  const { client, calls } = clientOf([() => Response.json({ code: 'sandbox_not_found', message: 'none' }, { status: 404 })])
  await assert.rejects(followLog(client, { path: '/x', query: {}, signal: new AbortController().signal, onRecords: () => {}, onState: () => {} }), /none/)
  assert.equal(calls.length, 1)
})
