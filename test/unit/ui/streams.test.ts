import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findLastSeq, mergeEvents } from '../../../src/ui/api/event-history.ts'
import { readLines, readNdjson, readSse } from '../../../src/ui/api/line-splitter.ts'
import { retryDelayMs } from '../../../src/ui/api/retry-delay.ts'
import type { Event } from '../../../src/schemas/event.ts'

function streamOf (...pieces: (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start (controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === 'string' ? new TextEncoder().encode(piece) : piece)
      controller.close()
    },
  })
}

test('lines are whole, however their bytes came', async () => {
  const bytes = new TextEncoder().encode('grün\r\nzwei\n\nohne Ende')
  for (const at of [1, 3, 4, 6, 12]) {
    assert.deepEqual(await Array.fromAsync(readLines(streamOf(bytes.slice(0, at), bytes.slice(at)))), ['grün', 'zwei', '', 'ohne Ende'])
  }
})

test('a line that never ends is refused', async () => {
  const piece = 'x'.repeat(1024 * 1024)
  await assert.rejects(Array.fromAsync(readLines(streamOf(piece, piece, piece, piece, piece))), /too long/)
})

test('who stops reading ends the stream', async () => {
  let isCancelled = false
  const body = new ReadableStream<Uint8Array>({
    pull (controller) { controller.enqueue(new TextEncoder().encode('a\n')) },
    cancel () { isCancelled = true },
  })
  for await (const line of readLines(body)) if (line === 'a') break
  assert.equal(isCancelled, true)
})

test('records come one a line, and empty lines are none', async () => {
  assert.deepEqual(await Array.fromAsync(readNdjson(streamOf('{"a":1}\n\n{"a"', ':2}\n'))), [{ a: 1 }, { a: 2 }])
})

test('messages of server-sent events have their fields; comments are signs of life', async () => {
  let beats = 0
  const messages = await Array.fromAsync(readSse(streamOf(': still here\n\nid: 7\nevent: task.status\ndata: {"a":1}\n\ndata: x\ndata: y\n\nevent: lost\n\n'), () => { beats++ }))
  assert.deepEqual(messages, [{ event: 'task.status', data: '{"a":1}', id: '7' }, { event: 'message', data: 'x\ny' }])
  assert.equal(beats, 1)
})

test('the newest event is found in few questions, wherever the kept ones begin', async () => {
  for (const [first, last] of [[1, 0], [1, 1], [1, 2], [1, 1000], [90_000, 123_456], [5, 5]] as const) {
    let questions = 0
    const found = await findLastSeq(async seq => {
      questions++
      const next = Math.max(seq + 1, first)
      return next <= last ? { seq: next } : undefined
    })
    assert.equal(found, last, `of ${first} to ${last}`)
    assert.ok(questions < 60, `${questions} questions for ${last}`)
  }
})

test('older and newer events make one list without doubles', () => {
  const event = (seq: number) => ({ seq }) as Event
  assert.deepEqual(mergeEvents([1, 2, 3].map(event), [3, 4].map(event), 3).map(({ seq }) => seq), [2, 3, 4])
})

test('tries come slower, up to five seconds', () => {
  assert.deepEqual([0, 1, 4, 5, 50].map(failures => retryDelayMs(failures, () => 1)), [250, 500, 4000, 5000, 5000])
  assert.equal(retryDelayMs(0, () => 0), 125)
})
