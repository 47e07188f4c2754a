import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { OpenRequest } from '../../../src/services/network/server/network-protocol.ts'
import { OpenRequests } from '../../../src/services/network/server/open-requests.ts'

const wanted = { sandboxId: 'sbx_1', addresses: ['203.0.113.1'], port: 22, ttlMs: 60_000 }

test('each request gets the answer with its number', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { requests, asked } = build()
  const outcomes = Promise.all([requests.open(wanted), requests.open(wanted)])
  const [first, second] = asked
  assert.deepEqual(first, { ...wanted, requestId: first?.requestId })
  assert.ok(first && second && first.requestId !== second.requestId)
  requests.answer({ requestId: second.requestId, isOpen: true })
  requests.answer({ requestId: 12345, isOpen: true })
  requests.answer({ requestId: first.requestId, isOpen: false })
  assert.deepEqual(await outcomes, [false, true])
})

test('a request that nobody answers is refused after a while, and a late answer is nothing', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { requests, asked } = build()
  const outcome = requests.open(wanted)
  t.mock.timers.tick(5000)
  assert.equal(await outcome, false)
  requests.answer({ requestId: asked[0]!.requestId, isOpen: true })
})

test('more requests than the daemon could be expected to answer are refused at once', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { requests, asked } = build()
  const waiting = Array.from({ length: 4096 }, () => requests.open(wanted))
  assert.equal(await requests.open(wanted), false)
  assert.equal(asked.length, 4096)
  requests.answer({ requestId: asked[0]!.requestId, isOpen: true })
  waiting.push(requests.open(wanted))
  t.mock.timers.tick(5000)
  assert.equal((await Promise.all(waiting)).filter(isOpen => isOpen).length, 1)
  assert.equal(asked.length, 4097)
})

function build (): { requests: OpenRequests, asked: OpenRequest[] } {
  const asked: OpenRequest[] = []
  return { asked, requests: new OpenRequests({ ask: request => asked.push(request) }) }
}
