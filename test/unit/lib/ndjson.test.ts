import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseNdjson } from '../../../src/lib/ndjson.ts'

const refuse = (problem: string) => new Error(`it sent ${problem}`)

test('JSON lines are put together from any pieces, and a line without end is refused', async () => {
  async function * pieces (text: string, size: number) {
    const bytes = Buffer.from(text)
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
  }
  for (const size of [1, 2, 3, 7, 100]) {
    const values: unknown[] = []
    for await (const value of parseNdjson(pieces('{"a":"é€"}\n\n[1]\n{"half":', size), { refuse })) values.push(value)
    assert.deepEqual(values, [{ a: 'é€' }, [1]])
  }
  await assert.rejects(parseNdjson(pieces('x'.repeat(100), 10), { maxLineBytes: 50, refuse }).next(), /more than 50 bytes/)
  await assert.rejects(parseNdjson(pieces('nope\n', 10), { refuse }).next(), /not JSON/)
})
