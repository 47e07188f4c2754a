import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BerthError } from '../../../src/errors.ts'
import { asAdmin, asReader, buildTestApp, execResult, makeSandbox } from './fake-services.ts'

const image = 'berth/base'

test('a created sandbox is answered with 201 and its path', async t => {
  const { app, calls } = await buildTestApp(t)
  const answer = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image, labels: { a: 'b' } } })
  assert.equal(answer.statusCode, 201)
  const made = answer.json()
  assert.equal(answer.headers.location, `/v1/sandboxes/${made.id}`)
  assert.deepEqual(made.labels, { a: 'b' })
  assert.deepEqual(calls[0], { name: 'create', args: [{ image, labels: { a: 'b' }, start: true, imagePull: 'missing' }, { idempotencyKey: undefined }] })
})

test('list filters reach the service in its own words', async t => {
  const { app, calls } = await buildTestApp(t)
  await app.inject({ url: '/v1/sandboxes?status=running,paused&status=stopped&label=a=b=c&label=d=,e&deleted&limit=5&cursor=x&runtime=runc', headers: asAdmin })
  assert.deepEqual(calls[0]!.args[0], {
    status: ['running', 'paused', 'stopped'], labels: { a: 'b=c', d: ',e' }, includeDeleted: true, limit: 5, cursor: 'x', runtime: 'runc',
  })
})

test('a list without filters asks for 100', async t => {
  const { app, calls } = await buildTestApp(t)
  await app.inject({ url: '/v1/sandboxes', headers: asAdmin })
  assert.deepEqual(calls[0]!.args[0], { limit: 100 })
})

test('stop takes no body, an empty one, or options', async t => {
  const { app, calls, sandboxes } = await buildTestApp(t)
  const { id } = makeSandbox()
  sandboxes.set(id, { ...makeSandbox(), id })
  const url = `/v1/sandboxes/${id}/stop`
  await app.inject({ method: 'POST', url, headers: asAdmin })
  await app.inject({ method: 'POST', url, headers: { ...asAdmin, 'content-type': 'application/json' }, payload: '' })
  await app.inject({ method: 'POST', url, headers: asAdmin, payload: { force: true, graceMs: 5 } })
  assert.deepEqual(calls.map(call => call.args[1]), [{ force: false, graceMs: 10_000 }, { force: false, graceMs: 10_000 }, { force: true, graceMs: 5 }])
})

test('each action reaches its method', async t => {
  const { app, calls, sandboxes } = await buildTestApp(t)
  const { id } = makeSandbox()
  sandboxes.set(id, { ...makeSandbox(), id })
  for (const name of ['start', 'pause', 'resume']) {
    const answer = await app.inject({ method: 'POST', url: `/v1/sandboxes/${id}/${name}`, headers: asAdmin })
    assert.equal(answer.statusCode, 200, answer.body)
  }
  assert.equal((await app.inject({ url: `/v1/sandboxes/${id}/wait?timeoutMs=5`, headers: asAdmin })).statusCode, 200)
  assert.equal((await app.inject({ method: 'DELETE', url: `/v1/sandboxes/${id}?force=true`, headers: asAdmin })).statusCode, 204)
  assert.deepEqual(calls.map(call => call.name), ['start', 'pause', 'resume', 'wait', 'remove'])
  assert.deepEqual(calls[4]!.args[1], { force: true })
})

test('an attached exec answers with its result, a detached one with a resource', async t => {
  const { app, sandboxes } = await buildTestApp(t)
  const { id } = makeSandbox()
  sandboxes.set(id, { ...makeSandbox(), id })
  const url = `/v1/sandboxes/${id}/execs`
  const attached = await app.inject({ method: 'POST', url: `${url}?wait=true`, headers: asAdmin, payload: { argv: ['echo'] } })
  assert.equal(attached.statusCode, 200)
  assert.deepEqual(attached.json(), execResult)
  const detached = await app.inject({ method: 'POST', url, headers: asAdmin, payload: { argv: ['echo'], detach: true } })
  assert.equal(detached.statusCode, 201)
  assert.equal(detached.headers.location, `${url}/${detached.json().id}`)
  const waited = await app.inject({ method: 'POST', url: `${url}?wait=true`, headers: asAdmin, payload: { argv: ['echo'], detach: true } })
  assert.equal(waited.statusCode, 200)
  assert.deepEqual(waited.json(), execResult)
})

test('an error of a service is answered by its kind, a stranger as internal without its text', async t => {
  const { app, services } = await buildTestApp(t)
  services.sandboxes.create = async () => { throw new BerthError('exhausted', 'no_memory_left', 'no memory left', { details: { freeBytes: 5 } }) }
  const full = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: { ...asAdmin, 'x-request-id': 'my-id.1' }, payload: { image } })
  assert.equal(full.statusCode, 429)
  assert.equal(full.headers['retry-after'], '1')
  assert.deepEqual(full.json(), { code: 'no_memory_left', kind: 'exhausted', message: 'no memory left', requestId: 'my-id.1', details: { freeBytes: 5 } })
  services.sandboxes.create = async () => { throw new Error('ENOENT /var/lib/secret') }
  const broken = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asAdmin, payload: { image } })
  assert.equal(broken.statusCode, 500)
  assert.equal(broken.json().code, 'internal')
  assert.doesNotMatch(broken.body, /secret|ENOENT|at /)
})

test('without a token only probes and documentation answer', async t => {
  const { app } = await buildTestApp(t)
  for (const url of ['/healthz', '/readyz', '/openapi.json', '/docs/', '/docs/static/swagger-ui-bundle.js']) {
    assert.equal((await app.inject({ url })).statusCode, 200, url)
  }
  for (const url of ['/v1/sandboxes', '/v1/host', '/v1/events', '/metrics', '/v1/nothing', '/docsx']) {
    const answer = await app.inject({ url })
    assert.equal(answer.statusCode, 401, url)
    assert.equal(answer.json().code, 'token_missing')
    assert.equal(answer.headers['www-authenticate'], 'Bearer realm="berth"')
  }
  for (const authorization of ['Bearer wrong', 'Basic abc', 'Bearer', `Bearer ${'x'.repeat(600)}`]) {
    const answer = await app.inject({ url: '/v1/sandboxes', headers: { authorization } })
    assert.equal(answer.json().code, 'token_invalid', authorization)
  }
})

test('the token is checked before the body is read', async t => {
  const { app } = await buildTestApp(t)
  const answer = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: { 'content-type': 'application/json' }, payload: '{' })
  assert.equal(answer.statusCode, 401)
})

test('a read token may read and nothing else', async t => {
  const { app, calls } = await buildTestApp(t)
  assert.equal((await app.inject({ url: '/v1/sandboxes', headers: asReader })).statusCode, 200)
  const answer = await app.inject({ method: 'POST', url: '/v1/sandboxes', headers: asReader, payload: { image } })
  assert.equal(answer.statusCode, 403)
  assert.equal(answer.json().code, 'scope_insufficient')
  assert.deepEqual(calls.map(call => call.name), ['list'])
})

test('a trusted connection needs no token', async t => {
  const { app } = await buildTestApp(t, { isTrusted: () => true })
  assert.equal((await app.inject({ method: 'POST', url: '/v1/sandboxes', payload: { image } })).statusCode, 201)
})

test('a request id that is not sane is replaced', async t => {
  const { app } = await buildTestApp(t)
  const kept = await app.inject({ url: '/healthz', headers: { 'x-request-id': 'abc-1' } })
  assert.equal(kept.headers['x-request-id'], 'abc-1')
  const replaced = await app.inject({ url: '/healthz', headers: { 'x-request-id': 'a b' } })
  assert.match(String(replaced.headers['x-request-id']), /^[0-9a-f-]{36}$/)
  assert.equal(kept.headers['cache-control'], 'no-store')
  assert.equal(kept.headers['x-content-type-options'], 'nosniff')
})

test('a key sent twice creates one sandbox and answers the same twice', async t => {
  const { app, calls } = await buildTestApp(t)
  const send = (key: string, payload: object, headers: Record<string, string> = asAdmin) =>
    app.inject({ method: 'POST', url: '/v1/sandboxes', headers: { ...headers, 'idempotency-key': key }, payload })
  const first = await send('k1', { image })
  const again = await send('k1', { image })
  assert.equal(again.statusCode, 201)
  assert.equal(again.body, first.body)
  assert.equal(again.headers.location, first.headers.location)
  assert.equal(again.headers['content-type'], first.headers['content-type'])
  assert.equal(again.headers['idempotency-replayed'], 'true')
  assert.equal(calls.length, 1)
  assert.deepEqual(calls[0]!.args[1], { idempotencyKey: 'tok_admin/k1' })
  const other = await send('k1', { image: 'dir:/x' })
  assert.equal(other.statusCode, 409)
  assert.equal(other.json().code, 'idempotency_key_reused')
})

test('a key of a failed request is free again', async t => {
  const { app, services } = await buildTestApp(t)
  const { create } = services.sandboxes
  const send = () => app.inject({ method: 'POST', url: '/v1/sandboxes', headers: { ...asAdmin, 'idempotency-key': 'k' }, payload: { image } })
  services.sandboxes.create = async () => { throw new BerthError('unavailable', 'busy', 'busy') }
  assert.equal((await send()).statusCode, 503)
  services.sandboxes.create = create
  assert.equal((await send()).statusCode, 201)
})

test('a key whose request is under way is refused meanwhile', async t => {
  const { app, services } = await buildTestApp(t)
  const { create } = services.sandboxes
  const begun = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  services.sandboxes.create = async (input, options) => {
    begun.resolve()
    await go.promise
    return create(input, options)
  }
  const send = () => app.inject({ method: 'POST', url: '/v1/sandboxes', headers: { ...asAdmin, 'idempotency-key': 'k' }, payload: { image } })
  const first = send()
  await begun.promise
  const second = await send()
  assert.equal(second.json().code, 'idempotency_in_progress')
  go.resolve()
  assert.equal((await first).statusCode, 201)
})

test('an answer without body is replayed without body', async t => {
  const { app, calls, sandboxes } = await buildTestApp(t)
  const { id } = makeSandbox()
  sandboxes.set(id, { ...makeSandbox(), id })
  const send = () => app.inject({
    method: 'POST', url: `/v1/sandboxes/${id}/execs/exe_${'a'.repeat(20)}/signal`, headers: { ...asAdmin, 'idempotency-key': 'k' }, payload: { signal: 'SIGTERM' },
  })
  assert.equal((await send()).statusCode, 204)
  const again = await send()
  assert.equal(again.statusCode, 204)
  assert.equal(again.body, '')
  assert.equal(calls.length, 1)
})

test('readiness names its problems with 503', async t => {
  const { app, services } = await buildTestApp(t)
  services.host.readiness = () => ({ ready: false, problems: ['runsc is missing'] })
  const answer = await app.inject({ url: '/readyz' })
  assert.equal(answer.statusCode, 503)
  assert.deepEqual(answer.json(), { ready: false, problems: ['runsc is missing'] })
})

test('requests are measured by route, not by path', async t => {
  const { app } = await buildTestApp(t)
  await app.inject({ url: `/v1/sandboxes/sbx_${'a'.repeat(20)}`, headers: asAdmin })
  const { body } = await app.inject({ url: '/metrics', headers: asAdmin })
  assert.match(body, /berth_http_request_duration_seconds_count\{method="GET",route="\/v1\/sandboxes\/:id",status="404"\} 1/)
  assert.match(body, /berth_http_requests_open 1\n/)
})

test('the OpenAPI document names every operation once and shares its schemas', async t => {
  const { app } = await buildTestApp(t)
  const document = (await app.inject({ url: '/openapi.json' })).json()
  const operations = Object.values<Record<string, { operationId: string, summary: string, responses: object }>>(document.paths).flatMap(path => Object.values(path))
  const ids = operations.map(operation => operation.operationId)
  assert.equal(new Set(ids).size, ids.length)
  assert.ok(ids.every(Boolean) && operations.every(operation => operation.summary))
  assert.ok(Object.keys(document.components.schemas).includes('SandboxCreate'))
  assert.ok(!Object.keys(document.components.schemas).some(name => name.startsWith('def-')))
})
