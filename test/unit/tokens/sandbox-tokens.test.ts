import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'
import { openStateDatabase } from '../../../src/services/database.ts'
import { PreviewSessions, sessionLifeMs } from '../../../src/services/tokens/preview-sessions.ts'
import { TicketStore } from '../../../src/services/tokens/ticket-store.ts'
import { TokenStore } from '../../../src/services/tokens/token-store.ts'

const one = `sbx_${'1'.repeat(20)}`
const two = `sbx_${'2'.repeat(20)}`

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-tokens-'))
  const path = join(dir, 'berth.db')
  const clock = { ms: Date.parse('2026-03-01T09:00:00Z') }
  const now = () => clock.ms
  const opened: DatabaseSync[] = []
  const open = () => {
    const db = openStateDatabase(path)
    opened.push(db)
    return db
  }
  t.after(() => {
    for (const db of opened) db.close()
    rmSync(dir, { recursive: true })
  })
  return { path, clock, now, open, store: () => new TokenStore({ db: open(), now }) }
}

test('a token of a sandbox names its sandbox, here and after a restart', t => {
  const { store } = build(t)
  const made = store().create({ name: 'agent', scope: 'sandbox', sandboxId: one })
  assert.deepEqual(store().verify(made.token), { id: made.id, scope: 'sandbox', sandboxId: one })
  assert.deepEqual(store().listOf(one), [{ id: made.id, name: 'agent', createdAt: '2026-03-01T09:00:00.000Z' }])
  assert.deepEqual(store().listOf(two), [])
})

test('the database itself refuses a sandbox token without a sandbox, and an admin token with one', t => {
  const { store } = build(t)
  assert.throws(() => store().create({ name: 'x', scope: 'sandbox' }), /CHECK constraint/)
  assert.throws(() => store().create({ name: 'x', scope: 'admin', sandboxId: one }), /CHECK constraint/)
})

test('a token is good until its end and not a millisecond longer', t => {
  const { store, clock } = build(t)
  const tokens = store()
  const made = tokens.create({ name: 'short', scope: 'sandbox', sandboxId: one, expiresInMs: 5000 })
  assert.equal(made.expiresAt, '2026-03-01T09:00:05.000Z')
  clock.ms += 4999
  assert.ok(tokens.verify(made.token))
  assert.equal(tokens.isValid(made.id), true)
  assert.equal(tokens.isValid('root'), true)
  clock.ms += 1
  assert.equal(tokens.verify(made.token), undefined)
  assert.equal(store().verify(made.token), undefined)
  assert.equal(tokens.isValid(made.id), false)
  assert.deepEqual(tokens.listOf(one), [])
})

test('a deleted sandbox takes its tokens with it, and no other', t => {
  const { store } = build(t)
  const tokens = store()
  const gone = [1, 2].map(() => tokens.create({ name: 'x', scope: 'sandbox', sandboxId: one }).token)
  const kept = tokens.create({ name: 'x', scope: 'sandbox', sandboxId: two })
  const admin = tokens.create({ name: 'x', scope: 'admin' })
  tokens.revokeOf(one)
  tokens.revokeOf(one)
  for (const place of [tokens, store()]) {
    assert.deepEqual(gone.map(token => place.verify(token)), [undefined, undefined])
    assert.ok(place.verify(kept.token) && place.verify(admin.token))
  }
  tokens.revokeOrphans(id => id !== two)
  assert.equal(store().verify(kept.token), undefined)
  assert.ok(store().verify(admin.token))
})

test('a token is revoked by way of its own sandbox alone', t => {
  const { store } = build(t)
  const tokens = store()
  const made = tokens.create({ name: 'x', scope: 'sandbox', sandboxId: one })
  const admin = tokens.create({ name: 'x', scope: 'admin' })
  for (const id of [made.id, admin.id, 'tok_absent']) assert.throws(() => tokens.revokeOne(two, id), { code: 'token_not_found' })
  assert.ok(tokens.verify(made.token) && tokens.verify(admin.token))
  tokens.revokeOne(one, made.id)
  assert.equal(tokens.verify(made.token), undefined)
})

test('a sandbox has at most 100 tokens at a time', t => {
  const { store, clock } = build(t)
  const tokens = store()
  const make = (sandboxId: string) => tokens.create({ name: 'x', scope: 'sandbox', sandboxId, expiresInMs: 1000 })
  for (let n = 0; n < 100; n++) make(one)
  assert.throws(() => make(one), { code: 'too_many_tokens' })
  assert.ok(make(two))
  clock.ms += 1000
  assert.ok(make(one))
})

test('tokens of a database from before sandboxes had some stay good', t => {
  const { path, store } = build(t)
  const admin = store().create({ name: 'ops', scope: 'admin' })
  const db = new DatabaseSync(path)
  db.exec(`
    DROP TABLE secrets;
    CREATE TABLE old (id TEXT PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL CHECK (scope IN ('admin', 'read')), hash BLOB NOT NULL UNIQUE, is_initial INTEGER NOT NULL, created_at TEXT NOT NULL) STRICT;
    INSERT INTO old SELECT id, name, scope, hash, is_initial, created_at FROM tokens;
    DROP TABLE tokens;
    ALTER TABLE old RENAME TO tokens;
    PRAGMA user_version = 1`)
  db.close()
  const tokens = store()
  assert.deepEqual(tokens.verify(admin.token), { id: admin.id, scope: 'admin' })
  assert.ok(tokens.create({ name: 'x', scope: 'sandbox', sandboxId: one }))
})

test('a ticket opens once, only what it was made for, and only for 30 seconds', () => {
  const clock = { ms: 1000 }
  const tickets = new TicketStore({ now: () => clock.ms })
  const wanted = { scope: 'preview' as const, sandboxId: one, port: 3000 }
  const make = (port?: number) => tickets.create({ scope: 'preview', sandboxId: one, tokenId: 'tok_a', ...(port === undefined ? {} : { port }) }).ticket
  const ticket = make(3000)
  assert.match(ticket, /^[A-Za-z0-9_-]{43}$/)
  assert.equal(tickets.redeem(ticket, wanted)?.tokenId, 'tok_a')
  assert.equal(tickets.redeem(ticket, wanted), undefined)
  assert.ok(tickets.redeem(make(), wanted), 'one without a port opens any')
  for (const other of [{ ...wanted, port: 3001 }, { ...wanted, sandboxId: two }]) {
    const misused = make(3000)
    assert.equal(tickets.redeem(misused, other), undefined)
    assert.equal(tickets.redeem(misused, wanted), undefined, 'it is used up')
  }
  const late = make()
  clock.ms += 30_000
  assert.equal(tickets.redeem(late, wanted), undefined)
  for (const bad of ['', 'x', 'x'.repeat(100_000)]) assert.equal(tickets.redeem(bad, wanted), undefined)
})

test('a ticket for a terminal says what may be done there, and is for nothing else', () => {
  const tickets = new TicketStore()
  const [wanted, other] = [`trm_${'a'.repeat(20)}`, `trm_${'b'.repeat(20)}`].map(terminalId => ({ scope: 'terminal' as const, sandboxId: one, terminalId }))
  for (const role of ['read', 'write'] as const) {
    const make = () => tickets.create({ ...wanted!, role, tokenId: 'tok_a' }).ticket
    assert.equal(tickets.redeem(make(), wanted!)?.role, role)
    for (const misuse of [other!, { ...wanted!, sandboxId: two }, { scope: 'logs', sandboxId: one }, { scope: 'preview', sandboxId: one, port: 80 }] as const) {
      assert.equal(tickets.redeem(make(), misuse), undefined)
    }
  }
  const { ticket } = tickets.create({ scope: 'logs', sandboxId: one, tokenId: 'tok_a' })
  assert.equal(tickets.redeem(ticket, wanted!), undefined)
})

test('a ticket is good for as long as it was asked for, and no longer than its token', () => {
  const clock = { ms: 1000 }
  const valid = new Set(['tok_a'])
  const tickets = new TicketStore({ now: () => clock.ms, isTokenValid: id => valid.has(id) })
  const wanted = { scope: 'logs' as const, sandboxId: one }
  const make = (ttlMs: number) => tickets.create({ ...wanted, tokenId: 'tok_a' }, { ttlMs })
  const [short, long] = [make(1000), make(60_000)]
  assert.equal(long.expiresAt, new Date(61_000).toISOString())
  clock.ms += 59_999
  assert.equal(tickets.redeem(short.ticket, wanted), undefined)
  assert.ok(tickets.redeem(long.ticket, wanted))
  const orphaned = make(60_000)
  valid.clear()
  assert.equal(tickets.redeem(orphaned.ticket, wanted), undefined)
})

test('open tickets are bounded, in all and for each token, and end by themselves', () => {
  const clock = { ms: 1000 }
  const tickets = new TicketStore({ now: () => clock.ms, maxOpen: 5, maxOpenOfToken: 3 })
  const make = (tokenId: string) => tickets.create({ scope: 'preview', sandboxId: one, tokenId })
  for (let n = 0; n < 3; n++) make('tok_a')
  assert.throws(() => make('tok_a'), { kind: 'exhausted', code: 'too_many_tickets' })
  make('tok_b')
  make('tok_b')
  assert.throws(() => make('tok_c'), { code: 'too_many_tickets' })
  clock.ms += 30_000
  assert.ok(make('tok_a'))
})

test('a session is for one port of one sandbox, survives the daemon, and ends with its token and after 12 hours', t => {
  const { open, clock, now } = build(t)
  const valid = new Set(['tok_a'])
  const sessions = () => new PreviewSessions({ db: open(), now, isTokenValid: id => valid.has(id) })
  const scope = { sandboxId: one, port: 3000 }
  const value = sessions().issue({ ...scope, tokenId: 'tok_a' })
  assert.equal(sessions().verify(value, scope), true)
  assert.equal(sessions().verify(value, { ...scope, port: 3001 }), false)
  assert.equal(sessions().verify(value, { ...scope, sandboxId: two }), false)
  const all = sessions()
  for (let at = 0; at < value.length - 1; at++) {
    const changed = value.slice(0, at) + (value[at] === 'a' ? 'b' : 'a') + value.slice(at + 1)
    assert.equal(all.verify(changed, scope), false, changed)
  }
  for (const bad of ['', 'a.b.c', value.slice(1), `${value}A`]) assert.equal(all.verify(bad, scope), false)
  valid.clear()
  assert.equal(all.verify(value, scope), false)
  valid.add('tok_a')
  assert.equal(all.verify(value, scope), true)
  clock.ms += sessionLifeMs
  assert.equal(all.verify(value, scope), false)
})
