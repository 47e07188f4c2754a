import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { brotliCompressSync } from 'node:zlib'
import Fastify from 'fastify'
import { consoleRoutes } from '../../../src/routes/console.ts'

function build (t: TestContext, files: Record<string, string>) {
  const directory = mkdtempSync(join(tmpdir(), 'berth-console-'))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text)
  const app = Fastify()
  app.setErrorHandler((error, _request, reply) => reply.code(404).send({ code: (error as { code?: string }).code }))
  void app.register(consoleRoutes, { directory })
  t.after(async () => {
    await app.close()
    rmSync(directory, { recursive: true })
  })
  return { app, directory }
}

test('the page allows nothing from elsewhere and nothing inline, and is asked for each time', async t => {
  const { app } = build(t, { 'index.html': '<title>Berth</title>' })
  const { statusCode, headers, body } = await app.inject('/')
  assert.deepEqual([statusCode, body, headers['content-type'], headers['cache-control']], [200, '<title>Berth</title>', 'text/html; charset=utf-8', 'no-cache'])
  const policy = String(headers['content-security-policy'])
  assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self';/)
  assert.doesNotMatch(policy, /unsafe|\*|https?:/)
  assert.match(policy, /frame-ancestors 'none'/)
  assert.deepEqual([headers['referrer-policy'], headers['cross-origin-opener-policy']], ['no-referrer', 'same-origin'])
  assert.equal((await app.inject({ url: '/', headers: { 'if-none-match': String(headers['etag']) } })).statusCode, 304)
})

test('files named by their hash are kept for good', async t => {
  const { app } = build(t, { 'index.html': '', 'console-ABC.js': 'alert(1)' })
  const plain = await app.inject('/console/console-ABC.js')
  assert.deepEqual([plain.body, plain.headers['cache-control'], plain.headers['content-type']], ['alert(1)', 'public, max-age=31536000, immutable', 'text/javascript; charset=utf-8'])
  assert.equal(plain.headers['content-encoding'], undefined)
})

test('a compressed one goes to who takes it', async t => {
  const { app, directory } = build(t, { 'index.html': '', 'console-ABC.css': 'p{}' })
  writeFileSync(join(directory, 'console-ABC.css.br'), brotliCompressSync('p{}'))
  const url = '/console/console-ABC.css'
  assert.equal((await app.inject({ url, headers: { 'accept-encoding': 'gzip, br;q=0.9' } })).headers['content-encoding'], 'br')
  for (const accepted of ['gzip', 'br;q=0', 'identity']) assert.equal((await app.inject({ url, headers: { 'accept-encoding': accepted } })).headers['content-encoding'], undefined, accepted)
})

test('nothing else of the directory, and nothing outside of it, is there', async t => {
  const { app } = build(t, { 'index.html': '', 'console-ABC.css.br': '', 'notes.txt': 'x' })
  for (const name of ['index.html', 'console-ABC.css.br', 'notes.txt', '..%2f..%2fpackage.json', '__proto__']) {
    assert.equal((await app.inject(`/console/${name}`)).json<{ code: string }>().code, 'route_not_found', name)
  }
})

test('where it was not built, the page says what to run; when it is, it is there', async t => {
  const { app, directory } = build(t, {})
  const { statusCode, body } = await app.inject('/')
  assert.equal(statusCode, 503)
  assert.match(body, /npm run setup/)
  writeFileSync(join(directory, 'index.html'), 'built')
  assert.equal((await app.inject('/')).body, 'built')
})
