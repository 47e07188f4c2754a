import assert from 'node:assert/strict'
import { once } from 'node:events'
import http, { type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { asAdmin, at, buildTestApp, makeSandbox } from './fake-services.ts'

const batch: LogRecord[] = [{ type: 'line', cursor: '0:1', at, stream: 'stdout', text: 'x'.repeat(50_000), partial: false }]

/** Follows a log that never ends, whose reading is looked at. */
async function follow (t: TestContext, headers: Record<string, string> = {}) {
  const parts = await buildTestApp(t, { limits: { followerStallMs: 200 } })
  const sandbox = makeSandbox()
  parts.sandboxes.set(sandbox.id, sandbox)
  let isReading = true
  let batches = 0
  parts.services.logs.readBatches = async function * ({ signal }) {
    try {
      while (!signal.aborted) {
        batches++
        yield batch
        await new Promise(resolve => setImmediate(resolve))
      }
    } finally {
      isReading = false
    }
  }
  await parts.app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = parts.app.server.address() as AddressInfo
  const request = http.get({ host: '127.0.0.1', port, path: `/v1/sandboxes/${sandbox.id}/logs?follow=true&format=sse`, headers: { ...asAdmin, ...headers }, agent: false })
  request.on('error', () => {})
  const [answer] = await once(request, 'response') as [IncomingMessage]
  answer.on('error', () => {})
  t.after(() => answer.destroy())
  return { answer, isReading: () => isReading, batches: () => batches }
}

for (const encoding of ['identity', 'gzip']) {
  test(`a follower over HTTP that stops reading is cut off (${encoding})`, async t => {
    const { answer, isReading } = await follow(t, { 'accept-encoding': encoding })
    answer.pause()
    while (isReading()) await new Promise(resolve => setTimeout(resolve, 10))
    answer.resume()
    await new Promise(resolve => answer.once('close', resolve))
    assert.equal(answer.complete, false)
  })
}

test('a follower over HTTP that reads slowly is waited for', async t => {
  const { answer, isReading, batches } = await follow(t)
  answer.on('data', () => {
    answer.pause()
    setTimeout(() => answer.resume(), 1)
  })
  for (const since = performance.now(); performance.now() - since < 1000;) {
    const seen = batches()
    while (batches() === seen) await new Promise(resolve => setTimeout(resolve, 10))
    assert.equal(isReading(), true)
  }
})
