import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { toLogFrames } from '../../../src/services/logs/log-frames.ts'

let place = 0
const record = (text: string, more: Partial<Extract<LogRecord, { type: 'line' }>> = {}): LogRecord =>
  ({ type: 'line', cursor: `0:${++place}`, at: '2026-11-22T13:30:19.628000000+00:00', stream: 'stdout', text, partial: false, ...more })
const at = (millis: string) => ({ at: `2026-11-22T13:30:${millis}000000+00:00` })

test('a run of one stream is one frame, with its line ends and the cursor of its last record', () => {
  const records = [record('a'), record('b', { partial: true }), record(''), record('e', { stream: 'stderr' }), record('c')]
  assert.deepEqual(toLogFrames(records), [
    { type: 'output', cursor: records[2]!.cursor, time: '2026-11-22T13:30:19.628000000+00:00', stream: 'stdout', data: 'a\nb\n' },
    { type: 'output', cursor: records[3]!.cursor, time: '2026-11-22T13:30:19.628000000+00:00', stream: 'stderr', data: 'e\n' },
    { type: 'output', cursor: records[4]!.cursor, time: '2026-11-22T13:30:19.628000000+00:00', stream: 'stdout', data: 'c\n' },
  ])
  assert.deepEqual(toLogFrames([]), [])
})

test('what was read more than 100 ms later is another frame, over the end of a second too', () => {
  const times = ['19.850', '19.950', '19.951', '20.040', '20.060', '20.000', '19.800']
  const frames = toLogFrames(times.map(time => record(time, at(time))))
  assert.deepEqual(frames.map(frame => frame.type === 'output' && frame.data), ['19.850\n19.950\n', '19.951\n20.040\n', '20.060\n20.000\n', '19.800\n'])
})

test('a frame holds at most 64 KiB, but never less than a record', () => {
  const sizes = [40_000, 25_535, 1, 100_000, 65_534, 1, 0]
  const frames = toLogFrames(sizes.map(size => record('x'.repeat(size))))
  assert.deepEqual(frames.map(frame => frame.type === 'output' && frame.data.length), [40_001, 25_538, 100_001, 65_535, 3])
  const wide = toLogFrames([record('€'.repeat(15_000)), record('€'.repeat(7000))])
  assert.equal(wide.length, 2, 'bytes count, not characters')
})

test('bytes are base64 only where they are not UTF-8 together', () => {
  const half = (hex: string): LogRecord => record(Buffer.from(hex, 'hex').toString('base64'), { encoding: 'base64', partial: true })
  const whole = toLogFrames([record('a'), half('e2'), half('82ac'), record('b')])
  assert.deepEqual(whole.map(frame => frame.type === 'output' && [frame.data, frame.encoding]), [['a\n€b\n', undefined]])
  const broken = toLogFrames([record('a'), half('ff'), record('b')])
  assert.deepEqual(broken.map(frame => frame.type === 'output' && [Buffer.from(frame.data, 'base64').toString('latin1'), frame.encoding]), [['a\n\xffb\n', 'base64']])
})

test('a gap is a frame of its own, and the same records give the same frames', () => {
  const records: LogRecord[] = [record('a'), { type: 'gap', cursor: '1:0', bytes: 5, message: 'gone' }, { type: 'gap', cursor: '1:9', message: 'lost' }, record('b')]
  const frames = toLogFrames(records)
  assert.deepEqual(frames.slice(1, 3), [{ type: 'gap', cursor: '1:0', bytes: 5, message: 'gone' }, { type: 'gap', cursor: '1:9', message: 'lost' }])
  assert.equal(toLogFrames(records), frames)
})
