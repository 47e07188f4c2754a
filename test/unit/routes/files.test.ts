import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test, type TestContext } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import type { AppLimits } from '../../../src/app.ts'
import type { FileEntry } from '../../../src/schemas/file.ts'
import { isKnown, isRangeCurrent, parseRange } from '../../../src/routes/byte-range.ts'
import type { Files } from '../../../src/routes/files.ts'
import { asAdmin, asReader, buildTestApp } from './fake-services.ts'

const base = `/v1/sandboxes/sbx_${'a'.repeat(20)}/files`
const entry: FileEntry = { name: 'f', path: '/f', type: 'file', sizeBytes: 5, mode: '0644', uid: 1, gid: 2, modifiedAt: '2026-01-01T00:00:00.000Z' }

async function build (t: TestContext, files: Partial<Files>, limits: Partial<AppLimits> = {}) {
  const { app, services } = await buildTestApp(t, { limits })
  Object.assign(services.files, files)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const open = (method: string, path: string, headers: Record<string, string> = {}): ClientRequest => {
    const request = httpRequest({ host: '127.0.0.1', port, method, path: `${base}${path}`, headers: { ...asAdmin, ...headers }, agent: false })
    request.on('error', () => {})
    return request
  }
  return { app, open }
}

async function answerTo (request: ClientRequest): Promise<IncomingMessage> {
  return (await once(request, 'response') as [IncomingMessage])[0]
}

test('ranges are read as the standard says', () => {
  assert.deepEqual(parseRange('bytes=0-4'), { first: 0, last: 4 })
  assert.deepEqual(parseRange('bytes = 7-'), { first: 7 })
  assert.deepEqual(parseRange('bytes=-0'), { suffix: 0 })
  for (const none of [undefined, '', 'bytes=', 'bytes=-', 'bytes=4-2', 'bytes=1-2,4-5', 'lines=1-2', 'bytes=a-b', 'bytes=9999999999999999-']) assert.equal(parseRange(none), undefined, none)
  assert.ok(isKnown({ 'if-none-match': 'W/"a", "b"' }, '"b"') && isKnown({ 'if-none-match': '*' }, '"b"') && isKnown({ 'if-none-match': 'W/"b"' }, '"b"'))
  assert.ok(!isKnown({ 'if-none-match': '"a"' }, '"b"') && !isKnown({}, '"b"'))
  const current = { etag: '"b"', modifiedAt: new Date('2026-01-01T00:00:00.400Z') }
  assert.ok(isRangeCurrent('"b"', current) && isRangeCurrent('Thu, 01 Jan 2026 00:00:00 GMT', current))
  assert.ok(!isRangeCurrent('"a"', current) && !isRangeCurrent('W/"b"', current) && !isRangeCurrent('Thu, 01 Jan 2026 00:00:01 GMT', current))
})

test('any body is the file, whatever its type and its length', async t => {
  const seen: Array<[string, number | undefined]> = []
  const { open } = await build(t, {
    write: async (_target, { source, sizeBytes, onReady }) => {
      onReady?.()
      seen.push([await text(source), sizeBytes])
      return { entry, isNew: true }
    },
  }, { bodyBytes: 8 })
  for (const type of ['application/json', 'text/plain', 'not a type', 'multipart/form-data']) {
    assert.equal((await answerTo(open('PUT', '?path=/f', { 'content-type': type, 'content-length': '13' }).end('{"a":1,"a":2}'))).statusCode, 201, type)
  }
  assert.equal((await answerTo(open('PUT', '?path=/f').end())).statusCode, 201)
  assert.equal((await answerTo(open('PUT', '?path=/f', { 'transfer-encoding': 'chunked' }).end('x'))).statusCode, 201)
  assert.deepEqual(seen, [...Array.from({ length: 4 }, () => ['{"a":1,"a":2}', 13]), ['', 0], ['x', undefined]])
})

test('the deadline of other bodies is none for a file', async t => {
  const { open } = await build(t, { write: async (_target, { source }) => { await text(source); return { entry, isNew: false } } }, { requestTimeoutMs: 50 })
  const request = open('PUT', '?path=/f', { 'content-length': '2' })
  request.write('a')
  setTimeout(() => request.end('b'), 200)
  assert.equal((await answerTo(request)).statusCode, 200)
})

test('a body waits for its leave, and is not asked for where it is refused', async t => {
  let refusal: BerthError | undefined = new BerthError('permission_denied', 'permission_denied', 'no')
  const { open } = await build(t, {
    write: async (_target, { source, onReady }) => {
      if (refusal) throw refusal
      onReady?.()
      assert.equal(await text(source), 'hello')
      return { entry, isNew: true }
    },
  })
  const send = async () => {
    const request = open('PUT', '?path=/f', { expect: '100-continue', 'content-length': '5' })
    let isAsked = false
    request.on('continue', () => { isAsked = true; request.end('hello') })
    request.flushHeaders()
    const { statusCode, headers } = await answerTo(request)
    request.destroy()
    return [isAsked, statusCode, headers.connection]
  }
  assert.deepEqual(await send(), [false, 403, 'close'])
  refusal = undefined
  assert.deepEqual(await send(), [true, 201, 'close'])
})

test('who sends on after a refusal reads it, and is cut off then', async t => {
  const { open } = await build(t, { write: async () => { throw new BerthError('exhausted', 'no_space', 'full') } })
  const request = open('PUT', '?path=/f', { 'content-length': String(1024 ** 3) })
  const answer = answerTo(request)
  let isCut = false
  request.on('close', () => { isCut = true })
  const send = () => { while (!isCut && request.write(Buffer.alloc(65536))) { /* until it is full */ } }
  request.on('drain', send)
  send()
  const response = await answer
  assert.equal(response.statusCode, 429)
  assert.equal(JSON.parse(await text(response)).code, 'no_space')
  // Being cut off is an error to whoever sends.
  if (!isCut) await new Promise(resolve => request.once('close', resolve))
})

test('what comes out runs nowhere, and breaks off where it is cut', async t => {
  const { open } = await build(t, {
    read: async (_target, { range }) => ({
      entry: { ...entry, name: '"; x=\n\u202e.html' },
      first: range && 'first' in range ? range.first : 0,
      lengthBytes: 5,
      body: Readable.from(range ? ['abcde'] : (async function * () { yield 'abc'; throw new BerthError('unavailable', 'file_program_failed', 'cut') })()),
    }),
  })
  const response = await answerTo(open('GET', '?path=/f').end())
  assert.equal(response.headers['content-length'], '5')
  assert.equal(response.headers['content-disposition'], "attachment; filename*=UTF-8''%22%3B%20x%3D%0A%E2%80%AE.html")
  assert.equal(response.headers['content-security-policy'], "sandbox; default-src 'none'")
  assert.equal(response.headers['x-content-type-options'], 'nosniff')
  await assert.rejects(text(response), { code: 'ECONNRESET' })
  const part = await answerTo(open('GET', '?path=/f', { range: 'bytes=0-4' }).end())
  assert.deepEqual([part.statusCode, part.headers['content-range'], await text(part)], [206, 'bytes 0-4/5', 'abcde'])
})

test('a client that goes away is told to the service', async t => {
  const gone = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<void>()
  const { open } = await build(t, {
    stat: async (_target, { signal }) => {
      begun.resolve()
      await once(signal, 'abort')
      gone.resolve()
      return entry
    },
  })
  const request = open('GET', '/stat?path=/f').end()
  await begun.promise
  request.destroy()
  await gone.promise
})

test('the error of a range says how long the file is', async t => {
  const { open } = await build(t, { read: async () => { throw new BerthError('invalid_argument', 'range_not_satisfiable', 'behind', { details: { sizeBytes: 7 } }) } })
  const { statusCode, headers } = await answerTo(open('GET', '?path=/f', { range: 'bytes=9-' }).end())
  assert.deepEqual([statusCode, headers['content-range']], [416, 'bytes */7'])
})

test('who may only read writes nothing', async t => {
  const { app } = await build(t, { stat: async () => entry })
  assert.equal((await app.inject({ method: 'PUT', url: `${base}?path=/f`, headers: asReader, payload: 'x' })).statusCode, 403)
  assert.equal((await app.inject({ method: 'POST', url: `${base}/remove`, headers: asReader, payload: { path: '/f' } })).statusCode, 403)
  assert.equal((await app.inject({ method: 'GET', url: `${base}/stat?path=/f`, headers: asReader })).statusCode, 200)
})
