import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { decodeSpanTable, encodeSpanTable, spanAt, type Span, type SpanTable } from '../../../src/services/images/layers/span-table.ts'

const digest = `sha256:${'1'.repeat(64)}`
const diffId = `sha256:${'2'.repeat(64)}`

test('a table is read as it was written', () => {
  const table = tableOf([[18, 0, 0], [400, 1000, 500], [900, 3000, 32_780]])
  const decoded = decodeSpanTable(encodeSpanTable(table))
  assert.deepEqual(decoded, table)
  assert.deepEqual(decodeSpanTable(encodeSpanTable({ ...table, spans: [], tarBytes: 0 })).spans, [])
})

test('the span of a byte is the one that holds it', () => {
  const table = tableOf([[18, 0, 0], [400, 1000, 0], [900, 3000, 0]])
  for (const [offset, index] of [[0, 0], [999, 0], [1000, 1], [2999, 1], [3000, 2], [4999, 2]] as const) assert.equal(spanAt(table, offset), index, String(offset))
})

const impossible: ReadonlyArray<readonly [what: string, change: (table: SpanTable) => SpanTable]> = [
  ['spans that go backwards in the tar', table => withSpan(table, 1, { tarStart: 3500 })],
  ['spans that go backwards in the blob', table => withSpan(table, 1, { blobStart: 950 })],
  ['two spans at one place', table => withSpan(table, 1, { tarStart: 3000 })],
  ['a first span that leaves out the beginning', table => withSpan(table, 0, { tarStart: 1 })],
  ['a last span beyond the tar', table => ({ ...table, tarBytes: 2999 })],
  ['a last span beyond the blob', table => ({ ...table, blobBytes: 899 })],
  ['a span of a gigabyte', table => ({ ...table, tarBytes: 1024 ** 3 })],
  ['a span of more blob than its data could need', table => ({ ...table, blobBytes: 100 * 1024 ** 2 })],
  ['a window of more than 32 KiB', table => withSpan(table, 1, { window: Buffer.alloc(64 * 1024) })],
  ['a window of a plain layer', table => ({ ...table, kind: 'plain', blobBytes: 5000, spans: table.spans.map(span => ({ ...span, blobStart: span.tarStart })) })],
  ['a plain layer whose blob is not its tar', table => ({ ...table, kind: 'plain', spans: table.spans.map(span => ({ ...span, window: Buffer.alloc(0) })) })],
  ['no spans for some data', table => ({ ...table, spans: [] })],
  ['spans for no data', table => ({ ...table, tarBytes: 0 })],
]

for (const [what, change] of impossible) {
  test(`a table is refused that has ${what}`, () => {
    const bytes = encodeSpanTable(change(tableOf([[18, 0, 0], [400, 1000, 500], [900, 3000, 600]])))
    assert.throws(() => decodeSpanTable(bytes), { code: 'image_invalid' })
  })
}

test('a table is refused that is cut off, longer, or damaged at any byte', () => {
  const bytes = encodeSpanTable(tableOf([[18, 0, 0], [400, 1000, 50]]))
  for (let at = 0; at < bytes.length; at++) {
    const damaged = Buffer.from(bytes)
    damaged[at] = (damaged[at] ?? 0) ^ 1
    assert.throws(() => decodeSpanTable(damaged), { code: 'image_invalid' })
    assert.throws(() => decodeSpanTable(bytes.subarray(0, at)), { code: 'image_invalid' })
  }
  assert.throws(() => decodeSpanTable(Buffer.concat([bytes, Buffer.alloc(1)])), { code: 'image_invalid' })
})

test('a table that was damaged and signed again is refused or is a table', () => {
  const bytes = encodeSpanTable(tableOf([[18, 0, 0], [400, 1000, 50], [900, 3000, 60]]))
  for (let at = 0; at < bytes.length - 32; at++) {
    for (const value of [0, 1, 0x7f, 0xff]) {
      const content = Buffer.from(bytes.subarray(0, -32))
      content[at] = value
      const signed = Buffer.concat([content, createHash('sha256').update(content).digest()])
      try {
        decodeSpanTable(signed)
      } catch (error) {
        assert.equal((error as { code?: string }).code, 'image_invalid', `byte ${at}: ${String(error)}`)
      }
    }
  }
})

/** [blobStart, tarStart, bytes of the window] of each span; 5,000 bytes of tar in 2,000 of blob. */
function tableOf (starts: ReadonlyArray<readonly [number, number, number]>): SpanTable {
  const [blobBytes, tarBytes] = [2000, 5000]
  const spans = starts.map(([blobStart, tarStart, windowBytes], i): Span => ({
    blobStart, blobEnd: starts[i + 1]?.[0] ?? blobBytes, tarStart, tarEnd: starts[i + 1]?.[1] ?? tarBytes, window: randomBytes(windowBytes), sha256: randomBytes(32),
  }))
  return { digest, diffId, blobBytes, tarBytes, kind: 'gzip', spans }
}

function withSpan (table: SpanTable, index: number, change: Partial<Span>): SpanTable {
  return { ...table, spans: table.spans.map((span, i) => i === index ? { ...span, ...change } : span) }
}
