import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EventRing } from '../../../src/lib/event-ring.ts'

test('a reader gets what is kept since a number, then what comes, until the ring is closed', async () => {
  const ring = fill(3)
  const read: number[] = []
  const reading = (async () => { for await (const { seq } of ring.read(1, new AbortController().signal)) read.push(seq) })()
  await new Promise(resolve => { setImmediate(resolve) })
  assert.deepEqual(read, [2, 3])
  ring.append(seq => ({ seq }))
  ring.append(seq => ({ seq }))
  ring.close()
  await reading
  assert.deepEqual(read, [2, 3, 4, 5])
})

test('what does not fit pushes the oldest out, and a slow reader goes on with what is left', async () => {
  const ring = fill(2)
  const reader = ring.read(0, new AbortController().signal)
  assert.equal((await reader.next()).value.seq, 1)
  for (let i = 0; i < 10; i++) ring.append(seq => ({ seq }))
  ring.close()
  const rest: number[] = []
  for await (const { seq } of reader) rest.push(seq)
  assert.deepEqual(rest, [9, 10, 11, 12])
})

test('an abort ends a reader that waits', async () => {
  const leaving = new AbortController()
  const reader = fill(0).read(0, leaving.signal)
  const next = reader.next()
  leaving.abort()
  assert.deepEqual(await next, { value: undefined, done: true })
})

function fill (count: number): EventRing<{ seq: number }> {
  const ring = new EventRing<{ seq: number }>({ capacity: 4 })
  for (let i = 0; i < count; i++) ring.append(seq => ({ seq }))
  return ring
}
