import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import { openStateDatabase } from '../../../src/services/database.ts'
import { IdempotencyStore, type IdempotentRequest } from '../../../src/services/idempotency/idempotency-store.ts'

const hourMs = 3600 * 1000
const answer = { status: 201, headers: { location: '/v1/sandboxes/sbx_a' }, body: '{"id":"sbx_a"}' }
const request = (more: Partial<IdempotentRequest> = {}): IdempotentRequest =>
  ({ tokenId: 'tok_a', key: 'k1', method: 'POST', path: '/v1/sandboxes', bodyHash: 'h1', ...more })
const withCode = (code: string) => (error: BerthError) => error.code === code && error.kind === (code.startsWith('invalid') ? 'invalid_argument' : 'conflict')

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-idempotency-'))
  let db = openStateDatabase(join(dir, 'berth.db'))
  t.after(() => {
    db.close()
    rmSync(dir, { recursive: true })
  })
  const clock = { now: 1_000_000_000 }
  const open = () => new IdempotencyStore({ db, now: () => clock.now })
  const reopen = () => {
    db.close()
    db = openStateDatabase(join(dir, 'berth.db'))
    return open()
  }
  return { store: open(), reopen, clock }
}

test('a repeated request gets the first answer, after a restart too', t => {
  const { store, reopen } = build(t)
  assert.deepEqual(store.begin(request()), { state: 'new' })
  store.complete(request(), answer)
  assert.deepEqual(store.begin(request()), { state: 'replay', ...answer })
  assert.deepEqual(reopen().begin(request()), { state: 'replay', ...answer })
})

test('a key that comes with another request is refused, running or answered', t => {
  const { store } = build(t)
  const others = [{ bodyHash: 'h2' }, { path: '/v1/other' }, { method: 'DELETE' }]
  store.begin(request())
  for (const other of others) assert.throws(() => store.begin(request(other)), withCode('idempotency_key_reused'))
  store.complete(request(), answer)
  for (const other of others) assert.throws(() => store.begin(request(other)), withCode('idempotency_key_reused'))
})

test('a request that is still running is told to come later', t => {
  const { store } = build(t)
  store.begin(request())
  assert.throws(() => store.begin(request()), withCode('idempotency_in_progress'))
  store.abandon(request())
  assert.deepEqual(store.begin(request()), { state: 'new' })
})

test('what ran when the daemon died is free again', t => {
  const { store, reopen } = build(t)
  store.begin(request())
  assert.deepEqual(reopen().begin(request()), { state: 'new' })
})

test('keys of different tokens are different keys', t => {
  const { store } = build(t)
  store.begin(request())
  assert.deepEqual(store.begin(request({ tokenId: 'tok_b' })), { state: 'new' })
  assert.deepEqual(store.begin(request({ key: 'k2' })), { state: 'new' })
})

test('refusals are kept; failures of the daemon and of the moment free the key', t => {
  const { store } = build(t)
  for (const status of [200, 204, 400, 403, 404, 409]) {
    store.begin(request({ key: `k${status}` }))
    store.complete(request({ key: `k${status}` }), { ...answer, status })
    assert.equal(store.begin(request({ key: `k${status}` })).state, 'replay', String(status))
  }
  for (const status of [429, 499, 500, 503, 504]) {
    store.begin(request({ key: `k${status}` }))
    store.complete(request({ key: `k${status}` }), { ...answer, status })
    assert.equal(store.begin(request({ key: `k${status}` })).state, 'new', String(status))
  }
})

test('an answer too large to keep is not carried out twice', t => {
  const { store } = build(t)
  store.begin(request())
  store.complete(request(), { ...answer, body: 'x'.repeat(1024 * 1024 + 1) })
  assert.throws(() => store.begin(request()), withCode('idempotency_answer_not_kept'))
})

test('answers are kept for 24 hours and pruned then', t => {
  const { store, clock } = build(t)
  store.begin(request())
  store.complete(request(), answer)
  clock.now += 24 * hourMs - 1
  assert.equal(store.prune(), 0)
  assert.equal(store.begin(request()).state, 'replay')
  clock.now += 1
  assert.equal(store.begin(request({ bodyHash: 'h2' })).state, 'new')
  store.complete(request({ bodyHash: 'h2' }), { ...answer, body: 'second' })
  assert.equal(store.prune(), 0)
  clock.now += 24 * hourMs
  assert.equal(store.prune(), 1)
})

test('keys are 1 to 255 printable characters', t => {
  const { store } = build(t)
  for (const key of ['', 'x'.repeat(256), 'a\n', 'a\0', 'é', '\x7f']) assert.throws(() => store.begin(request({ key })), withCode('invalid_idempotency_key'))
  for (const key of ['x', 'x'.repeat(255), "~ !'\";--"]) assert.equal(store.begin(request({ key })).state, 'new')
})
