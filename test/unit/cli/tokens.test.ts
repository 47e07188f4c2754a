import assert from 'node:assert/strict'
import { test } from 'node:test'
import { id, refuse, run, sandbox, startFakeDaemon } from './fake-daemon.ts'

const tokenId = `tok_${'0'.repeat(20)}`

test('token create prints the token alone, and asks for what was said', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/sandboxes': () => ({ items: [sandbox()] }),
    [`POST /v1/sandboxes/${id}/tokens`]: () => ({ id: tokenId, token: 'berth_secret' }),
  })
  assert.deepEqual(await run(fake, ['token', 'create', id.slice(0, 10), '--name', 'agent', '--expires', '1h']), { exitCode: 0, stdout: 'berth_secret\n', stderr: '' })
  assert.deepEqual((await run(fake, ['token', 'create', id, '--json'])).stdout, `${JSON.stringify({ id: tokenId, token: 'berth_secret' }, null, 2)}\n`)
  assert.deepEqual(fake.callsTo(`POST /v1/sandboxes/${id}/tokens`).map(({ body }) => body), [{ name: 'agent', expiresInMs: 3_600_000 }, {}])
})

test('token list says when each ends, and token revoke ends some', async t => {
  const now = Date.now()
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/tokens`]: () => ({
      items: [
        { id: tokenId, name: 'agent', createdAt: new Date(now - 300_000).toISOString(), expiresAt: new Date(now + 7_300_000).toISOString() },
        { id: `tok_${'1'.repeat(20)}`, name: 'for ever', createdAt: new Date(now - 300_000).toISOString() },
      ]
    }),
    [`DELETE /v1/sandboxes/${id}/tokens/${tokenId}`]: (_call, response) => void response.writeHead(204).end(),
    [`DELETE /v1/sandboxes/${id}/tokens/nope`]: (_call, response) => refuse(response, 404, 'not_found', 'token_not_found', 'the sandbox has no token with this id'),
  })
  const { stdout } = await run(fake, ['token', 'ls', id])
  assert.match(stdout, /^ID +NAME +CREATED +EXPIRES *\ntok_0+ +agent +5 minutes ago +in 2 hours *\ntok_1+ +for ever +5 minutes ago +with the sandbox *\n$/)
  assert.deepEqual(await run(fake, ['token', 'revoke', id, tokenId]), { exitCode: 0, stdout: `${tokenId}\n`, stderr: '' })
  const { exitCode, stderr } = await run(fake, ['token', 'revoke', id, 'nope'])
  assert.notEqual(exitCode, 0)
  assert.match(stderr, /the sandbox has no token with this id/)
})

test('preview prints an address that a browser can open', async t => {
  const path = `/v1/sandboxes/${id}/ports/3000/?berth_ticket=T`
  const fake = await startFakeDaemon(t, { 'POST /v1/tickets': () => ({ ticket: 'T', expiresAt: '2026-03-01T09:30:00.000Z', path }) }, { tcp: true })
  assert.equal((await run(fake, ['preview', id, '3000'])).stdout, `${fake.url}${path}\n`)
  assert.deepEqual(fake.callsTo('POST /v1/tickets')[0]!.body, { sandboxId: id, scope: 'preview', port: 3000 })
  for (const port of ['0', '65536', 'http', '-1', '1e3']) assert.notEqual((await run(fake, ['preview', id, '--', port])).exitCode, 0, port)
  assert.equal(fake.callsTo('POST /v1/tickets').length, 1)
})
