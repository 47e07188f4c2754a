import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import type { BerthClient } from '../../../src/cli/client.ts'
import { followLog } from '../../../src/cli/log-follower.ts'
import { LogPrinter } from '../../../src/cli/log-printer.ts'
import { Output } from '../../../src/cli/command-output.ts'
import type { LogEnd, LogRecord } from '../../../src/schemas/log.ts'

const record = (cursor: string, text: string, more: object = {}): LogRecord => ({ type: 'line', cursor, at: 'T', stream: 'stdout', text, partial: false, ...more })

/** A client whose streams are these, one after the other. */
function clientOf (passes: Array<Array<LogRecord | LogEnd>>) {
  const queries: unknown[] = []
  const stream = async function * (_method: string, _path: string, options: { query: unknown }) {
    queries.push(options.query)
    yield * passes[queries.length - 1]!
  }
  return { client: { stream } as unknown as BerthClient, queries }
}

test('a log whose end is told is not asked for again', async () => {
  const { client, queries } = clientOf([[record('0:1', 'a'), { type: 'end', reason: 'exited', exitCode: 0 }]])
  const records: LogRecord[] = []
  for await (const one of followLog(client, { path: '/log', isOver: () => assert.fail('asked') })) records.push(one)
  assert.deepEqual(records.map(({ cursor }) => cursor), ['0:1'])
  assert.equal(queries.length, 1)
})

test('a stream that breaks off is read on behind its last record, whatever its cursor holds', async () => {
  const { client, queries } = clientOf([[record('0:1:oe282', 'a')], [record('0:2', 'b'), { type: 'end' }]])
  const records: LogRecord[] = []
  for await (const one of followLog(client, { path: '/log', query: { tail: 5 }, isOver: async () => false })) records.push(one)
  assert.equal(records.length, 2)
  assert.deepEqual(queries[1], { cursor: '0:1:oe282', tail: undefined, format: 'ndjson', follow: true })
})

test('bytes are printed as bytes', async () => {
  const stdout = new PassThrough()
  const output = new Output({ stdout, stderr: new PassThrough(), isTty: { stdout: false, stderr: false }, env: {} })
  const bytes = Buffer.from([0xff, 0x00, 0x0d])
  const plain = new LogPrinter({ output })
  await plain.print(record('0:1', bytes.toString('base64'), { encoding: 'base64', partial: true }))
  await plain.print(record('0:2', bytes.toString('base64'), { encoding: 'base64' }))
  await new LogPrinter({ output, timestamps: true }).print(record('0:3', bytes.toString('base64'), { encoding: 'base64' }))
  assert.deepEqual(stdout.read(), Buffer.concat([bytes, bytes, Buffer.from('\nT '), bytes, Buffer.from('\n')]))
})
