import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { OutputRing } from '../../../src/services/terminals/output-ring.ts'

const maxBytes = 40_000
const make = () => new OutputRing({ maxBytes })
const read = (ring: OutputRing, from: number, bytes = 100) => ring.read(from, Buffer.alloc(bytes))?.toString()

test('what was appended is read from any offset that is held', () => {
  const ring = make()
  ring.append(0, Buffer.from('abc'))
  ring.append(3, Buffer.from('def'))
  assert.equal(ring.end, 6)
  assert.equal(read(ring, 0), 'abcdef')
  assert.equal(read(ring, 2), 'cdef')
  assert.equal(read(ring, 4, 1), 'e')
  assert.equal(read(ring, 6), undefined)
})

test('what it knows already is left out, and behind a hole it begins anew', () => {
  const ring = make()
  ring.append(0, Buffer.from('abc'))
  ring.append(1, Buffer.from('bcd'))
  ring.append(0, Buffer.from('ab'))
  assert.equal(read(ring, 0), 'abcd')
  ring.append(10, Buffer.from('xyz'))
  assert.equal(read(ring, 2), undefined)
  assert.equal(read(ring, 10), 'xyz')
  ring.advance(20)
  assert.equal(ring.end, 20)
  assert.equal(read(ring, 12), undefined)
  ring.advance(5)
  assert.equal(ring.end, 20)
  ring.append(20, Buffer.from('more'))
  ring.clear()
  assert.deepEqual([ring.end, read(ring, 20)], [24, undefined])
})

test('it keeps its own copy, and gives away another', () => {
  const ring = make()
  const written = Buffer.from('aaa')
  ring.append(0, written)
  written.fill('b')
  const given = Buffer.alloc(3)
  ring.read(0, given)
  given.fill('c')
  assert.equal(read(ring, 0), 'aaa')
})

test('whatever comes in whatever pieces, it holds the latest of it, byte for byte, and no more than it may', () => {
  const all = Buffer.alloc(400_000)
  for (let at = 0; at < all.length; at += 4) all.writeUInt32LE(at, at)
  const size = fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 60_000 }))
  const piece = fc.record({ bytes: size, skipped: fc.constantFrom(0, 0, 0, 7), again: fc.constantFrom(0, 0, 5) })
  fc.assert(fc.property(fc.array(piece, { maxLength: 12 }), pieces => {
    const ring = make()
    let heldFrom = 0
    for (const { bytes, skipped, again } of pieces) {
      const end = ring.end
      const from = Math.max(0, end + skipped - again)
      if (from + bytes > all.length) break
      ring.append(from, all.subarray(from, from + bytes))
      if (from > end) heldFrom = from
      assert.equal(ring.end, Math.max(end, from + bytes))
      const into = Buffer.alloc(maxBytes + 10)
      const begin = Math.max(heldFrom, ring.end - maxBytes)
      assert.equal(ring.read(ring.end - maxBytes - 1, into), undefined)
      // What was made room for before it was full may hold a little less; never another byte.
      for (const position of [begin, Math.floor((begin + ring.end) / 2), ring.end - 1]) {
        const got = ring.read(position, into)
        if (got && position < ring.end) assert.ok(got.equals(all.subarray(position, ring.end)))
        else assert.equal(position < ring.end - 16_384 ? got : undefined, undefined)
      }
      assert.ok(ring.read(ring.end - 1, into))
    }
  }))
})
