import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OutputRing } from '../../../src/services/terminals/output-ring.ts'

const make = () => new OutputRing({ maxBytes: 16, maxChunks: 4 })

test('what was appended is read from any offset that is held', () => {
  const ring = make()
  ring.append(0, Buffer.from('abc'))
  ring.append(3, Buffer.from('def'))
  assert.equal(ring.end, 6)
  assert.equal(ring.read(0, 100)?.toString(), 'abcdef')
  assert.equal(ring.read(2, 100)?.toString(), 'cdef')
  assert.equal(ring.read(4, 1)?.toString(), 'e')
  assert.equal(ring.read(6, 100), undefined)
})

test('it holds the latest, bounded in bytes and in pieces', () => {
  const ring = make()
  ring.append(0, Buffer.from('0123456789'))
  ring.append(10, Buffer.from('abcdefghij'))
  assert.equal(ring.read(9, 100), undefined)
  assert.equal(ring.read(10, 100)?.toString(), 'abcdefghij')
  for (let offset = 20; offset < 30; offset++) ring.append(offset, Buffer.from('x'))
  assert.equal(ring.read(25, 100), undefined)
  assert.equal(ring.read(26, 100)?.length, 4)
})

test('what it knows already is left out, and behind a hole it begins anew', () => {
  const ring = make()
  ring.append(0, Buffer.from('abc'))
  ring.append(1, Buffer.from('bcd'))
  ring.append(0, Buffer.from('ab'))
  assert.equal(ring.read(0, 100)?.toString(), 'abcd')
  ring.append(10, Buffer.from('xyz'))
  assert.equal(ring.read(2, 100), undefined)
  assert.equal(ring.read(10, 100)?.toString(), 'xyz')
  ring.advance(20)
  assert.equal(ring.end, 20)
  assert.equal(ring.read(12, 100), undefined)
  ring.advance(5)
  assert.equal(ring.end, 20)
})

test('a few bytes do not keep the read that they came in', () => {
  const ring = make()
  const read = Buffer.alloc(4096, 'a')
  ring.append(0, read.subarray(0, 3))
  read.fill('b')
  assert.equal(ring.read(0, 3)?.toString(), 'aaa')
})
