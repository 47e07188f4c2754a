import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import pino from 'pino'
import { openConsoleSink, visibleText } from '../../../src/services/outputs/console-sink.ts'

const shown = (text: string | Buffer): string => visibleText({ data: Buffer.from(text) })

test('lines go into the log with task, stream and number', async () => {
  const messages: Record<string, unknown>[] = []
  const logger = pino({ base: null, timestamp: false }, new Writable({
    write: (chunk, _encoding, done) => {
      messages.push(JSON.parse(String(chunk)))
      done()
    },
  }))
  const sink = openConsoleSink({ taskId: 'tsk_a', spec: { type: 'console' }, index: 0, state: undefined }, logger)
  const common = { cursor: '0:1', at: 'then', isLineEnd: true }
  await sink.write([{ ...common, seq: 0, stream: 'stdout', data: Buffer.from('hello') }, { ...common, seq: 1, stream: 'stderr', data: Buffer.from('gone'), isGap: true }])
  await sink.close()
  assert.deepEqual(messages, [
    { level: 30, taskId: 'tsk_a', stream: 'stdout', seq: 0, msg: 'hello' },
    { level: 30, taskId: 'tsk_a', stream: 'stderr', seq: 1, isGap: true, msg: 'gone' },
  ])
})

test('of a progress bar the last state is shown, and nothing that a terminal obeys', () => {
  assert.equal(shown('10%\r50%\r100%'), '100%')
  assert.equal(shown('10%\r100%\r'), '100%')
  assert.equal(shown('dos\r'), 'dos')
  assert.equal(shown(''), '')
  assert.equal(shown('\u001b[31mred\u001b[0m\ttab'), 'red\ttab')
  assert.equal(shown('a\u0000b\u0007\u0008c\u009b2J'.replace('\u009b2J', '\u0085')), 'a\\x00b\\x07\\x08c\\x85')
  assert.equal(shown('a\u202eb\u2066c\u2028'), 'a\\u202eb\\u2066c\\u2028')
  assert.equal(shown(Buffer.from([0x61, 0xff])), 'a\ufffd')
  assert.doesNotMatch(shown('\u001b]0;title\u0007x\u001b'), /[\u0000-\u001f]/) // eslint-disable-line no-control-regex
})
