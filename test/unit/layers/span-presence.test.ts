import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ReadAhead } from '../../../src/services/images/layers/read-ahead.ts'
import { granuleBytes, SpanPresence } from '../../../src/services/images/layers/span-presence.ts'
import type { SpanTable } from '../../../src/services/images/layers/span-table.ts'

test('a granule counts when every span that touches it is here', () => {
  // Three spans: one and a half granules, a quarter, and the rest of four granules.
  const presence = new SpanPresence(tableOf([0, 1.5, 1.75], 4))
  presence.mark(0)
  assert.equal(granules(presence), 0b0001)
  presence.mark(2)
  assert.equal(granules(presence), 0b1101)
  presence.mark(1)
  assert.equal(granules(presence), 0b1111)
  assert.ok(presence.isComplete)
  assert.equal(presence.localBytes, 4 * granuleBytes)
})

test('the last granule counts although the tar ends inside it', () => {
  const presence = new SpanPresence(tableOf([0, 1], 1.1))
  presence.mark(1)
  assert.equal(granules(presence), 0b10)
})

test('marks survive being saved, and a mark twice counts once', () => {
  const table = tableOf([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10)
  const presence = new SpanPresence(table)
  for (const index of [0, 7, 8, 8]) presence.mark(index)
  const again = new SpanPresence(table, presence.toString())
  assert.deepEqual([again.has(0), again.has(1), again.has(7), again.has(8), again.has(9)], [true, false, true, true, false])
  assert.equal(again.localBytes, 3 * granuleBytes)
  assert.equal(again.firstMissing(7), 9)
  assert.deepEqual(Buffer.from(again.granules), Buffer.from(presence.granules))
})

test('marks of another table count as nothing', () => {
  const presence = new SpanPresence(tableOf([0, 1], 2), new SpanPresence(tableOf(Array.from({ length: 20 }, (_, i) => i), 20)).toString())
  assert.equal(presence.firstMissing(0), 0)
})

test('a stream is read ahead, further and further, and single reads are not', () => {
  const readAhead = new ReadAhead()
  assert.equal(readAhead.next(10, 10), 0)
  assert.equal(readAhead.next(50, 50), 0)
  assert.equal(readAhead.next(11, 11), 3)
  assert.equal(readAhead.next(51, 51), 3)
  // What was read ahead is here: the next missing one is behind it.
  assert.equal(readAhead.next(15, 15), 6)
  assert.equal(readAhead.next(22, 22), 12)
  assert.equal(readAhead.next(35, 35), 16)
  assert.equal(readAhead.next(20, 20), 0)
})

function granules (presence: SpanPresence): number {
  return new Uint8Array(presence.granules)[0] ?? 0
}

/** Spans that begin at these granules. */
function tableOf (starts: readonly number[], granuleCount: number): SpanTable {
  const tarBytes = Math.floor(granuleCount * granuleBytes)
  const spans = starts.map((start, i) => {
    const [tarStart, tarEnd] = [start * granuleBytes, (starts[i + 1] ?? tarBytes / granuleBytes) * granuleBytes]
    return { blobStart: tarStart, blobEnd: tarEnd, tarStart, tarEnd, window: Buffer.alloc(0), sha256: Buffer.alloc(32) }
  })
  return { digest: '', diffId: '', kind: 'plain', blobBytes: tarBytes, tarBytes, spans }
}
