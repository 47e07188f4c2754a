import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { pino } from 'pino'
import { BerthError } from '../../../src/errors.ts'
import type { IdempotentRequest } from '../../../src/routes/idempotency.ts'
import type { PullOptions } from '../../../src/routes/images.ts'
import type { PullProgress } from '../../../src/schemas/image.ts'
import { asAdmin, asReader, buildTestApp, makeImage, makeImageDetail } from './fake-services.ts'

const reference = '127.0.0.1:5000/python:3.12'
const image = makeImage('a')

async function listen (t: TestContext) {
  const parts = await buildTestApp(t)
  await parts.app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = parts.app.server.address() as AddressInfo
  const pull = (headers: Record<string, string> = {}, options: RequestInit = {}) => fetch(`http://127.0.0.1:${port}/v1/images/pull`, {
    method: 'POST', headers: { ...asAdmin, 'content-type': 'application/json', ...headers }, body: JSON.stringify({ reference }), ...options,
  })
  return { ...parts, pull }
}

function progress (fetchedBytes: number): PullProgress {
  const layer = { digest: `sha256:${'1'.repeat(64)}`, state: 'fetching' as const, fetchedBytes, sizeBytes: 100, localBytes: 0, totalBytes: 0 }
  return { phase: 'fetching', reference, layers: [layer], fetchedBytes, sizeBytes: 100 }
}

test('a pull answers with the image when it is done', async t => {
  const { app, calls } = await buildTestApp(t)
  const credentials = { username: 'me', password: 'hunter2' }
  const answer = await app.inject({ method: 'POST', url: '/v1/images/pull', headers: asAdmin, payload: { reference, mode: 'eager', credentials } })
  assert.equal(answer.statusCode, 200, answer.body)
  assert.deepEqual(answer.json(), makeImageDetail(image))
  const [asked, { signal, ...options }] = calls[0]!.args as [string, PullOptions]
  assert.deepEqual([asked, options], [reference, { mode: 'eager', credentials }])
  assert.ok(signal)
})

test('a pull is lazy unless asked otherwise, and takes a token', async t => {
  const { app, calls } = await buildTestApp(t)
  await app.inject({ method: 'POST', url: '/v1/images/pull', headers: asAdmin, payload: { reference, credentials: { token: 'abc' } } })
  const { mode, credentials } = calls[0]!.args[1] as PullOptions
  assert.deepEqual([mode, credentials], ['lazy', { token: 'abc' }])
})

test('a pull streams its progress and then the image, as SSE or NDJSON', async t => {
  const { pull, services } = await listen(t)
  services.images.pull = async (_reference, { onProgress }) => {
    onProgress?.(progress(10))
    await turn()
    return image
  }
  const sse = await pull({ accept: 'text/event-stream' })
  assert.equal(sse.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  assert.equal(await sse.text(), [{ type: 'progress', ...progress(10) }, { type: 'image', ...image }].map(event => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(''))
  const lines = (await (await pull({ accept: 'application/x-ndjson' })).text()).trimEnd().split('\n').map(line => JSON.parse(line))
  assert.deepEqual(lines, [{ type: 'progress', ...progress(10) }, { type: 'image', ...image }])
})

test('progress that comes faster than it is sent shows its newest state alone', async t => {
  const { pull, services } = await listen(t)
  services.images.pull = async (_reference, { onProgress }) => {
    for (let n = 0; n <= 100; n++) onProgress?.(progress(n))
    return image
  }
  const lines = (await (await pull({ accept: 'application/x-ndjson' })).text()).trimEnd().split('\n').map(line => JSON.parse(line))
  assert.deepEqual(lines.map(({ type, fetchedBytes }) => [type, fetchedBytes]), [['progress', 100], ['image', undefined]])
})

test('an error after progress was sent is the last message, with all that an error answer has', async t => {
  const { pull, services } = await listen(t)
  services.images.pull = async (_reference, { onProgress }) => {
    onProgress?.(progress(10))
    await turn()
    throw new BerthError('unavailable', 'registry_unavailable', 'the registry is away', { details: { registry: '127.0.0.1:5000' } })
  }
  const answer = await pull({ accept: 'text/event-stream', 'x-request-id': 'req-1' })
  assert.equal(answer.status, 200)
  const last = (await answer.text()).trimEnd().split('\n\n').at(-1)!
  assert.ok(last.startsWith('event: error\ndata: '), last)
  assert.deepEqual(JSON.parse(last.slice(last.indexOf('{'))), {
    type: 'error', code: 'registry_unavailable', kind: 'unavailable', message: 'the registry is away', requestId: 'req-1', details: { registry: '127.0.0.1:5000' },
  })
})

test('what goes wrong before anything was sent is an ordinary error', async t => {
  const { pull, services } = await listen(t)
  const rows = [
    ['invalid_argument', 'image_not_found', 400], ['invalid_argument', 'image_invalid', 400], ['permission_denied', 'image_auth_required', 403],
    ['exhausted', 'disk_full', 429], ['unavailable', 'registry_unavailable', 503],
  ] as const
  for (const [kind, code, status] of rows) {
    services.images.pull = async () => { throw new BerthError(kind, code, 'what to do') }
    for (const accept of ['application/json', 'text/event-stream', 'application/x-ndjson']) {
      const answer = await pull({ accept })
      assert.equal(answer.status, status)
      assert.equal((await answer.json() as { code: string }).code, code)
    }
  }
})

test('a client that goes away ends its own wait, unless it has a key to come back with', async t => {
  const { pull, services } = await listen(t)
  const signals: AbortSignal[] = []
  let begun = Promise.withResolvers<void>()
  services.images.pull = async (_reference, { signal }) => {
    signals.push(signal!)
    begun.resolve()
    await once(signal!, 'abort')
    throw signal!.reason
  }
  for (const headers of [{}, { accept: 'text/event-stream' }, { 'idempotency-key': 'k' }] as Array<Record<string, string>>) {
    begun = Promise.withResolvers<void>()
    const client = new AbortController()
    const answer = pull(headers, { signal: client.signal }).then(answer => answer.text()).catch(() => {})
    await begun.promise
    client.abort()
    await answer
  }
  for (const signal of signals.slice(0, 2)) if (!signal.aborted) await once(signal, 'abort')
  await turn()
  assert.equal(signals[2]!.aborted, false)
})

test('a streamed pull takes no Idempotency-Key', async t => {
  const { app, calls } = await buildTestApp(t)
  const answer = await app.inject({ method: 'POST', url: '/v1/images/pull?format=sse', headers: { ...asAdmin, 'idempotency-key': 'k' }, payload: { reference } })
  assert.deepEqual([answer.statusCode, answer.json().code], [400, 'idempotency_key_on_stream'])
  assert.deepEqual(calls, [])
})

test('credentials are no part of what is kept under an Idempotency-Key', async t => {
  const { app, services, calls } = await buildTestApp(t)
  const { begin } = services.idempotency
  const claims: IdempotentRequest[] = []
  services.idempotency.begin = request => {
    claims.push(request)
    return begin(request)
  }
  const send = (url: string, payload: object) => app.inject({ method: 'POST', url, headers: { ...asAdmin, 'idempotency-key': url }, payload })
  for (const [url, payload, field] of [['/v1/images/pull', { reference }, 'credentials'], ['/v1/sandboxes', { image: reference }, 'registryCredentials']] as const) {
    const answers = [
      await send(url, { ...payload, [field]: { username: 'me', password: 'hunter2' } }), await send(url, { ...payload, [field]: { token: 'abc' } }), await send(url, payload),
    ]
    assert.deepEqual(answers.map(answer => answer.headers['idempotency-replayed']), [undefined, 'true', 'true'])
    assert.ok(answers.every(({ body }) => body === answers[0]!.body && !body.includes('hunter2')))
    assert.equal((await send(url, { ...payload, [field]: { token: 'abc' }, ...('image' in payload ? { image: 'berth/base' } : { reference: 'other' }) })).json().code, 'idempotency_key_reused')
  }
  assert.equal(new Set(claims.map(({ path, bodyHash }) => `${path} ${bodyHash}`)).size, 4)
  assert.deepEqual(calls.map(({ name }) => name), ['pull', 'create'])
})

test('credentials that are incomplete are refused without a word of them in answer or log', async t => {
  let log = ''
  const sink = new Writable({ write: (chunk, _encoding, done) => { log += String(chunk); done() } })
  const { app, calls, services } = await buildTestApp(t, { logger: pino({ level: 'trace' }, sink) })
  const send = (credentials: object) => app.inject({ method: 'POST', url: '/v1/images/pull', headers: asAdmin, payload: { reference, credentials } })
  const rows: Array<[object, RegExp]> = [
    [{}, /^credentials must name at least one field$/],
    [{ username: 'me' }, /^credentials must have property password when property username is present$/],
    [{ password: 'hunter2' }, /^credentials must have property username when property password is present$/],
    [{ username: 'me', password: 'hunter2', token: 'hunter2' }, /^credentials must have at most 2 entries$/],
    [{ token: 'hunter2', password: 'hunter2' }, /username when property password/],
    [{ username: 'a:b', password: 'hunter2' }, /^credentials.username must not contain colons/],
    [{ username: 'me', password: 'hunter2\r\nX: y' }, /^credentials.password must not contain NUL characters or line ends$/],
    [{ token: 'hunter2'.repeat(2000) }, /^credentials.token must have at most 8192 characters$/],
    [{ token: '' }, /^credentials.token must not be empty$/],
    [{ user: 'me', password: 'hunter2' }, /unknown field "user" in credentials/],
  ]
  for (const [credentials, says] of rows) {
    const answer = await send(credentials)
    assert.equal(answer.statusCode, 400, answer.body)
    assert.match(answer.json().message, says)
    assert.doesNotMatch(answer.body, /hunter2/)
  }
  assert.deepEqual(calls, [])
  services.images.pull = async () => { throw new BerthError('permission_denied', 'image_auth_required', 'give credentials') }
  await send({ username: 'me', password: 'hunter2' })
  services.images.pull = async () => { throw new Error('a stranger') }
  await send({ username: 'me', password: 'hunter2' })
  assert.match(log, /a stranger/)
  assert.doesNotMatch(log, /hunter2/)
})

test('images are listed in pages, the newest first, and found by a reference', async t => {
  const { app, images } = await buildTestApp(t)
  const made = ['1', '2', '3', '4'].map((digit, index) => makeImage(digit, { createdAt: `2026-03-0${index < 2 ? 1 : index}T09:30:00.000Z`, references: [`docker.io/library/img:${digit}`, `dir:/img/${digit}`] }))
  for (const one of made) images.set(one.digest, one)
  const digits: string[] = []
  let cursor = ''
  for (let pages = 0; pages < 2; pages++) {
    const page = (await app.inject({ url: `/v1/images?limit=2${cursor}`, headers: asReader })).json()
    digits.push(...page.items.map((one: { digest: string }) => one.digest.at(-1)))
    // An image that goes between two pages hides no other one.
    images.delete(made[2]!.digest)
    cursor = `&cursor=${page.nextCursor}`
  }
  assert.deepEqual(digits, ['4', '3', '2', '1'])
  assert.equal(cursor, '&cursor=undefined')
  for (const named of ['img:2', 'docker.io/img:2', 'docker.io/library/img:2', 'dir:/img/2', `elsewhere@${made[1]!.digest}`]) {
    assert.deepEqual((await app.inject({ url: `/v1/images?reference=${named}`, headers: asReader })).json(), { items: [made[1]] }, named)
  }
  for (const named of ['img', 'img:22', 'other/img:2', 'dir:/img', 'A b']) {
    assert.deepEqual((await app.inject({ url: `/v1/images?reference=${encodeURIComponent(named)}`, headers: asReader })).json(), { items: [] }, named)
  }
  const refused = await app.inject({ url: '/v1/images?cursor=nonsense', headers: asReader })
  assert.deepEqual([refused.statusCode, refused.json().code], [400, 'invalid_cursor'])
})

test('an image is told of and deleted by its digest', async t => {
  const { app, images, services } = await buildTestApp(t)
  images.set(image.digest, image)
  const url = `/v1/images/${image.digest}`
  assert.deepEqual((await app.inject({ url, headers: asReader })).json(), makeImageDetail(image))
  const { remove } = services.images
  services.images.remove = async () => { throw new BerthError('conflict', 'image_in_use', 'in use', { details: { leases: ['sbx_1'] } }) }
  const used = await app.inject({ method: 'DELETE', url, headers: asAdmin })
  assert.deepEqual([used.statusCode, used.json().code, used.json().details], [409, 'image_in_use', { leases: ['sbx_1'] }])
  services.images.remove = remove
  const gone = await app.inject({ method: 'DELETE', url, headers: asAdmin })
  assert.deepEqual([gone.statusCode, gone.json()], [200, { freedBytes: 1000 }])
  for (const other of [image.digest, 'sha256:abc', 'python', '..%2f..%2fetc']) {
    const answer = await app.inject({ url: `/v1/images/${other}`, headers: asReader })
    assert.deepEqual([answer.statusCode, answer.json().code], [404, 'image_not_found'])
  }
})

test('prune takes bounds, or no body at all', async t => {
  const { app, calls, images } = await buildTestApp(t)
  images.set(image.digest, image)
  const answer = await app.inject({ method: 'POST', url: '/v1/images/prune', headers: asAdmin })
  assert.deepEqual(answer.json(), { digests: [image.digest], freedBytes: 1000 })
  await app.inject({ method: 'POST', url: '/v1/images/prune', headers: asAdmin, payload: { keepBytes: 5, unusedForMs: 7 } })
  assert.deepEqual(calls.map(({ args }) => args[0]), [{}, { keepBytes: 5, unusedForMs: 7 }])
})

test('a token that may only read neither pulls nor deletes', async t => {
  const { app, calls } = await buildTestApp(t)
  for (const [method, url] of [['POST', '/v1/images/pull'], ['POST', '/v1/images/prune'], ['DELETE', `/v1/images/${image.digest}`]] as const) {
    const answer = await app.inject({ method, url, headers: asReader, ...(method === 'POST' && { payload: { reference } }) })
    assert.deepEqual([answer.statusCode, answer.json().code], [403, 'scope_insufficient'])
  }
  assert.deepEqual(calls, [])
})

test('what a sandbox brings for its image reaches the service and is not answered', async t => {
  const { app, calls } = await buildTestApp(t)
  const registryCredentials = { username: 'me', password: 'hunter2' }
  const answer = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image: reference, imagePull: 'always', registryCredentials } })
  assert.equal(answer.statusCode, 201, answer.body)
  assert.doesNotMatch(answer.body, /hunter2/)
  assert.deepEqual(calls[0]!.args[0], { image: reference, imagePull: 'always', registryCredentials, start: true })
})

test('the OpenAPI document marks credentials as write-only', async t => {
  const { app } = await buildTestApp(t)
  const { components } = (await app.inject({ url: '/openapi.json' })).json()
  const { properties, writeOnly } = components.schemas.RegistryCredentials
  assert.deepEqual([writeOnly, properties.password.writeOnly, properties.token.writeOnly], [true, true, true])
})
