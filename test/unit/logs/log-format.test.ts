import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { createTextFormatter, toNdjsonLine, toSseFrame } from '../../../src/services/logs/log-format.ts'

const record = (text: string, stream: 'stdout' | 'stderr' = 'stdout', partial = false): LogRecord =>
  ({ type: 'line', cursor: '0:9', at: 'T', stream, text, partial })
const gap: LogRecord = { type: 'gap', cursor: '1:0', bytes: 5, message: 'gone' }

test('text joins partial lines and ends full ones', () => {
  const format = createTextFormatter()
  assert.equal([record('a', 'stdout', true), record('b'), record('')].map(format).join(''), 'ab\n\n')
})

test('timestamps stand at the beginning of each line, and streams do not share a line', () => {
  const format = createTextFormatter({ timestamps: true })
  const records = [record('a', 'stdout', true), record('b'), record('c', 'stdout', true), record('e', 'stderr'), record('d')]
  assert.equal(records.map(format).join(''), 'T ab\nT c\nT e\nT d\n')
})

test('a gap is said on a line of its own', () => {
  const format = createTextFormatter()
  assert.equal([record('a', 'stdout', true), gap, record('b')].map(format).join(''), 'a\n--- gap: gone (5 bytes) ---\nb\n')
})

test('NDJSON and SSE keep one record on one line whatever it holds', () => {
  const nasty = record('a\r\u2028\n\ndata: x')
  assert.equal(toNdjsonLine(nasty).indexOf('\n'), toNdjsonLine(nasty).length - 1)
  assert.deepEqual(JSON.parse(toNdjsonLine(nasty)), nasty)
  const [id, data, ...end] = toSseFrame(nasty).split('\n')
  assert.equal(id, 'id: 0:9')
  assert.deepEqual(JSON.parse(data!.slice('data: '.length)), nasty)
  assert.deepEqual(end, ['', ''])
})
