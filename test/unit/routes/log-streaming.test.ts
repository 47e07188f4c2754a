/** Logs over REST with a real reader: bytes, ends, attempts and compression. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { appendFile, mkdtemp, rm } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { createGunzip, createZstdDecompress } from 'node:zlib'
import { pollUntil } from '../../../src/lib/poll.ts'
import { startLogFile } from '../../../src/services/logs/log-files.ts'
import { LogReader } from '../../../src/services/logs/log-reader.ts'
import type { LogSource } from '../../../src/services/logs/log-source.ts'
import { line } from '../logs/log-fixture.ts'
import { asAdmin, buildTestApp } from './fake-services.ts'

const taskPath = `/v1/tasks/tsk_${'a'.repeat(20)}/logs`

/** An app whose tasks all have the log in one directory. */
async function build (t: TestContext, source: Partial<LogSource> & { attempts?: Array<Partial<LogSource>> } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-log-routes-'))
  const { app, services } = await buildTestApp(t)
  const reader = new LogReader()
  const asked: unknown[] = []
  services.logs.readBatches = options => reader.readBatches(options)
  services.logSources.taskLog = (id, attempt) => {
    asked.push([id, attempt])
    return { dir, isEnded: () => true, ...source, ...source.attempts?.[(attempt ?? 0) - 1] }
  }
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  t.after(async () => {
    await app.close()
    // Those whose client has gone end when the daemon hears of it.
    await pollUntil(async () => reader.watchedCount === 0, 5000)
    assert.equal(reader.watchedCount, 0, 'followers are left')
    await rm(dir, { recursive: true })
  })
  const open = async (query: string, headers: Record<string, string> = {}): Promise<IncomingMessage> => {
    const request = get({ host: '127.0.0.1', port, path: `${taskPath}?${query}`, headers: { ...asAdmin, ...headers }, agent: false })
    const [answer] = await once(request, 'response') as [IncomingMessage]
    return answer
  }
  const read = async (query: string, headers?: Record<string, string>): Promise<Buffer> => Buffer.concat(await (await open(query, headers)).toArray())
  return { dir, reader, asked, open, read, write: (content: string | Buffer) => appendFile(join(dir, 'log'), content) }
}

/** A line of the log with these bytes. */
function lineOf (bytes: Buffer, tag = 'F'): Buffer {
  return Buffer.concat([Buffer.from(line('', 'stdout', tag).slice(0, -1)), bytes, Buffer.from('\n')])
}

const nasty = Buffer.from([0xff, 0x00, 0x0d, 0xe2, 0x82])

test('text is the very bytes, with times in front of lines where that is asked for', async t => {
  const { read, write } = await build(t)
  await write(Buffer.concat([lineOf(nasty, 'P'), lineOf(Buffer.from([0xac, 0x80])), lineOf(Buffer.from('ok\r')), lineOf(Buffer.from([0xe2]), 'P')]))
  const bytes = Buffer.concat([nasty, Buffer.from([0xac, 0x80, 0x0a]), Buffer.from('ok\r\n'), Buffer.from([0xe2])])
  assert.deepEqual(await read('format=text'), bytes)
  const time = Buffer.from('2026-11-22T13:30:19.628000000+00:00 ')
  assert.deepEqual(await read('format=text&timestamps=true'), Buffer.concat([time, nasty, Buffer.from([0xac, 0x80, 0x0a]), time, Buffer.from('ok\r\n'), time, Buffer.from([0xe2])]))
})

test('a followed log says how it ended', async t => {
  const { read, write } = await build(t, { end: () => ({ reason: 'exited', exitCode: 3 }) })
  await write(line('a'))
  const lines = (bytes: Buffer) => bytes.toString().trimEnd().split('\n').map(one => JSON.parse(one) as { type: string })
  const end = { type: 'end', reason: 'exited', exitCode: 3 }
  assert.deepEqual(lines(await read('format=ndjson&follow=true')).slice(1), [end])
  assert.deepEqual(lines(await read('format=ndjson')).map(({ type }) => type), ['line'])
  assert.ok((await read('format=sse&follow=true')).toString().endsWith(`\n\nevent: end\ndata: ${JSON.stringify(end)}\n\n`))
  assert.equal((await read('format=text&follow=true')).toString(), 'a\n')
})

test('a log without a known end has one all the same, and one that is broken off has none', async t => {
  const { open, read, write, dir, reader } = await build(t, { attempts: [{}, { isEnded: () => false }] })
  await write(line('a'))
  assert.match((await read('format=ndjson&follow=true&attempt=1')).toString(), /\n\{"type":"end"\}\n$/)
  const broken = await open('format=ndjson&follow=true&attempt=2')
  await once(broken, 'data')
  broken.destroy()
  await write(line('b'))
  reader.wake(dir)
})

test('the log of one attempt is its part of the log', async t => {
  const attempts: Array<Partial<LogSource>> = []
  const { dir, read, write, asked } = await build(t, { attempts })
  await write(line('one'))
  const second = await startLogFile(dir)
  await write(line('two'))
  attempts.push({ until: () => second }, { from: second })
  assert.equal((await read('attempt=1')).toString(), 'one\n')
  assert.equal((await read('attempt=2&follow=true')).toString(), 'two\n')
  assert.equal((await read('')).toString(), 'one\ntwo\n')
  assert.deepEqual(asked.map(call => (call as unknown[])[1]), [1, 2, undefined])
  for (const wrong of ['0', '-1', 'x', '1.5']) assert.match((await read(`attempt=${wrong}`)).toString(), /"code":"invalid_/)
})

for (const [encoding, decoder] of [['gzip', createGunzip], ['zstd', createZstdDecompress]] as const) {
  test(`a followed log is live in ${encoding}`, async t => {
    let isOver = false
    const { dir, reader, open, write } = await build(t, { isEnded: () => isOver })
    await write(line('first'))
    const answer = await open('format=ndjson&follow=true', { 'accept-encoding': encoding })
    assert.equal(answer.headers['content-encoding'], encoding)
    assert.equal(answer.headers.vary, 'Accept-Encoding')
    const plain = answer.pipe(decoder())
    const texts = plain[Symbol.asyncIterator]()
    const next = async () => String((await texts.next()).value)
    assert.match(await next(), /"text":"first"/)
    await write(line('second'))
    assert.match(await next(), /"text":"second"/)
    isOver = true
    reader.wake(dir)
    assert.match(await next(), /^\{"type":"end"\}\n$/)
    assert.equal((await texts.next()).done, true)
  })
}

test('what a client takes is what it gets', async t => {
  const { open, write } = await build(t)
  await write(line('a'))
  const cases = { '': undefined, identity: undefined, br: undefined, 'gzip;q=0': undefined, 'gzip, deflate, br, zstd': 'zstd', 'zstd;q=0.5, gzip': 'gzip', '*': 'zstd' }
  for (const [accepted, encoding] of Object.entries(cases)) {
    const answer = await open('format=sse', accepted === '' ? {} : { 'accept-encoding': accepted })
    assert.equal(answer.headers['content-encoding'], encoding, accepted)
    assert.equal(answer.headers.vary, 'Accept-Encoding')
    answer.resume()
  }
})

test('a compressed follower that goes away ends its reading', async t => {
  const { open, write, reader } = await build(t, { isEnded: () => false })
  await write(line('a'))
  const answer = await open('format=sse&follow=true', { 'accept-encoding': 'gzip' })
  await once(answer, 'data')
  assert.equal(reader.watchedCount, 1)
  answer.destroy()
  for (let turn = 0; reader.watchedCount > 0 && turn < 200; turn++) await new Promise(resolve => setTimeout(resolve, 5))
  assert.equal(reader.watchedCount, 0)
})
