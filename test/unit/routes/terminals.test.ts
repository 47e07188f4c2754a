import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { InjectOptions } from 'fastify'
import type { Terminal } from '../../../src/schemas/terminal.ts'
import { asAdmin, asReader, buildTestApp, makeSandbox } from './fake-services.ts'

async function build (t: TestContext) {
  const parts = await buildTestApp(t)
  const { id } = makeSandbox()
  const url = `/v1/sandboxes/${id}/terminals`
  const ask = async (method: InjectOptions['method'], path: string, payload?: object, headers: Record<string, string> = asAdmin) => {
    const answer = await parts.app.inject({ method, url: `${url}${path}`, headers, ...(payload && { payload }) })
    return { status: answer.statusCode, headers: answer.headers, body: answer.body === '' ? undefined : answer.json() }
  }
  const argsOf = (name: string) => parts.calls.filter(call => call.name === name).map(({ args }) => args)
  return { ...parts, id, url, ask, argsOf }
}

test('a terminal is made, looked at, listed, changed and removed', async t => {
  const { id, url, ask, argsOf } = await build(t)
  const input = { argv: ['/bin/sh'], env: { A: 'b' }, cwd: '/tmp', user: '0:0', cols: 120, rows: 40, name: 'build', idleTimeoutMs: 60_000 }
  const { status, headers, body: made } = await ask('POST', '', input)
  assert.equal(status, 201)
  assert.equal(headers.location, `${url}/${made.id}`)
  assert.deepEqual([made.cols, made.rows, made.name, made.status], [120, 40, 'build', 'running'])
  assert.deepEqual((await ask('GET', `/${made.id}`)).body, made)
  assert.deepEqual((await ask('GET', '?limit=5&status=running,ended&cursor=c')).body, { items: [made] })
  assert.deepEqual(argsOf('listTerminals').map(([sandboxId, filter]) => [sandboxId, { ...filter as object }]), [[id, { limit: 5, status: ['running', 'ended'], cursor: 'c' }]])
  assert.equal((await ask('PATCH', `/${made.id}`, { name: 'other' })).body.name, 'other')
  assert.deepEqual((await ask('PATCH', `/${made.id}`, { cols: 90, rows: 30 })).body, { ...made, name: 'other', cols: 90, rows: 30 })
  const removed = await ask('DELETE', `/${made.id}`)
  assert.deepEqual([removed.status, removed.body], [204, undefined])
  assert.equal((await ask('GET', `/${made.id}`)).body.code, 'terminal_not_found')
})

test('all has defaults, the body too', async t => {
  const { id, ask, argsOf } = await build(t)
  assert.equal((await ask('POST', '')).status, 201)
  assert.deepEqual(argsOf('createTerminal'), [[id, { cols: 80, rows: 24 }, { idempotencyKey: undefined }]])
})

test('a key makes one terminal, and reaches the service', async t => {
  const { ask, argsOf } = await build(t)
  const headers = { ...asAdmin, 'idempotency-key': 'k' }
  const [first, second] = [await ask('POST', '', { cols: 80, rows: 24 }, headers), await ask('POST', '', { cols: 80, rows: 24 }, headers)]
  assert.deepEqual(second.body, first.body)
  assert.equal(second.headers.location, first.headers.location)
  assert.deepEqual(argsOf('createTerminal').map(([,, options]) => options), [{ idempotencyKey: 'tok_admin/k' }])
})

test('what is wrong is refused in words', async t => {
  const { ask } = await build(t)
  const { body: { id } } = await ask('POST', '', {}) as { body: Terminal }
  for (const [method, path, payload, code] of [
    ['POST', '', { cols: 0 }, 'invalid_field'],
    ['POST', '', { rows: 1001 }, 'invalid_field'],
    ['POST', '', { argv: [] }, 'invalid_field'],
    ['POST', '', { cwd: 'relative' }, 'invalid_field'],
    ['POST', '', { shell: 'bash' }, 'unknown_field'],
    ['PATCH', `/${id}`, {}, 'invalid_field'],
    ['PATCH', `/${id}`, { cols: 80 }, 'invalid_field'],
    ['PATCH', `/${id}`, { argv: ['x'] }, 'unknown_field'],
    ['GET', '?status=gone', undefined, 'invalid_parameter'],
    ['GET', '/trm_7', undefined, 'terminal_not_found'],
    ['GET', `/trm_${'z'.repeat(20)}`, undefined, 'terminal_not_found'],
    ['DELETE', `/trm_${'z'.repeat(20)}`, undefined, 'terminal_not_found'],
  ] as const) assert.equal((await ask(method, path, payload)).body.code, code, `${method} ${path} ${JSON.stringify(payload)}`)
})

test('a token that only reads looks', async t => {
  const { ask } = await build(t)
  const { body: { id } } = await ask('POST', '', {}) as { body: Terminal }
  for (const [method, path, status] of [['GET', '', 200], ['GET', `/${id}`, 200], ['POST', '', 403], ['PATCH', `/${id}`, 403], ['DELETE', `/${id}`, 403]] as const) {
    assert.equal((await ask(method, path, method === 'POST' || method === 'PATCH' ? { cols: 80, rows: 24 } : undefined, asReader)).status, status, method)
  }
})
