import assert from 'node:assert/strict'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { BerthError } from '../../../src/errors.ts'
import { openStateDatabase } from '../../../src/services/database.ts'
import { TokenStore } from '../../../src/services/tokens/token-store.ts'

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-tokens-'))
  const path = join(dir, 'admin.token')
  let db = openStateDatabase(join(dir, 'berth.db'))
  t.after(() => {
    db.close()
    rmSync(dir, { recursive: true })
  })
  return {
    dir,
    path,
    store: () => new TokenStore({ db }),
    loseDatabase: () => {
      db.close()
      for (const suffix of ['', '-wal', '-shm']) rmSync(join(dir, `berth.db${suffix}`), { force: true })
      db = openStateDatabase(join(dir, 'berth.db'))
    },
    token: () => readFileSync(path, 'utf8').trim(),
    databaseBytes: () => Buffer.concat(readdirSync(dir).filter(name => name.startsWith('berth.db')).map(name => readFileSync(join(dir, name)))),
  }
}

test('the first start makes an admin token in a private file, and keeps only its hash', t => {
  const { path, store, token, dir, databaseBytes } = build(t)
  const tokens = store()
  const { id, isNew } = tokens.ensureAdminToken(path)
  assert.equal(isNew, true)
  assert.match(token(), /^berth_[A-Za-z0-9_-]{43}$/)
  assert.equal(statSync(path).mode & 0o777, 0o600)
  assert.deepEqual(tokens.verify(token()), { id, scope: 'admin' })
  assert.equal(databaseBytes().includes(token()), false)
  assert.deepEqual(readdirSync(dir).filter(name => name.endsWith('.tmp')), [])
})

test('later starts keep the token and mend the mode of its file', t => {
  const { path, store, token } = build(t)
  const { id } = store().ensureAdminToken(path)
  const first = token()
  chmodSync(path, 0o644)
  assert.deepEqual(store().ensureAdminToken(path), { id, isNew: false })
  assert.equal(token(), first)
  assert.equal(statSync(path).mode & 0o777, 0o600)
})

test('a lost file gets another token, and the lost one is revoked', t => {
  const { path, store, token } = build(t)
  store().ensureAdminToken(path)
  const lost = token()
  rmSync(path)
  const tokens = store()
  assert.equal(tokens.ensureAdminToken(path).isNew, true)
  assert.equal(tokens.verify(lost), undefined)
  assert.equal(store().verify(lost), undefined)
  assert.equal(store().verify(token())?.scope, 'admin')
})

test('the token of the file becomes valid again when the database was lost', t => {
  const { path, store, token, loseDatabase } = build(t)
  store().ensureAdminToken(path)
  const kept = token()
  loseDatabase()
  const tokens = store()
  assert.equal(tokens.verify(kept), undefined)
  assert.equal(tokens.ensureAdminToken(path).isNew, false)
  assert.equal(token(), kept)
  assert.equal(store().verify(kept)?.scope, 'admin')
})

for (const [name, content] of [['empty', ''], ['torn', 'berth_abc'], ['foreign', 'x'.repeat(5000)]] as const) {
  test(`a file whose content is ${name} is replaced`, t => {
    const { path, store, token } = build(t)
    writeFileSync(path, content)
    writeFileSync(`${path}.tmp`, 'left by a crash')
    const tokens = store()
    assert.equal(tokens.ensureAdminToken(path).isNew, true)
    assert.equal(tokens.verify(token())?.scope, 'admin')
  })
}

test('a token of scope read does not become admin by lying in the file', t => {
  const { path, store, token } = build(t)
  const tokens = store()
  const read = tokens.create({ name: 'viewer', scope: 'read' })
  writeFileSync(path, read.token)
  assert.equal(tokens.ensureAdminToken(path).isNew, true)
  assert.notEqual(token(), read.token)
  assert.equal(tokens.verify(read.token)?.scope, 'read')
})

test('a link or a directory in the place of the file is refused', t => {
  const { path, store, dir } = build(t)
  writeFileSync(join(dir, 'other'), 'precious')
  symlinkSync(join(dir, 'other'), path)
  assert.throws(() => store().ensureAdminToken(path), (error: BerthError) => error.code === 'token_file_invalid' && !error.message.includes(dir))
  assert.equal(readFileSync(join(dir, 'other'), 'utf8'), 'precious')
  rmSync(path)
  mkdirSync(path)
  assert.throws(() => store().ensureAdminToken(path), (error: BerthError) => error.code === 'token_file_invalid')
})

test('a token that differs anywhere is nobody\'s', t => {
  const { path, store, token } = build(t)
  const tokens = store()
  tokens.ensureAdminToken(path)
  const good = token()
  for (let at = 0; at < good.length; at++) {
    const other = good[at] === 'A' ? 'B' : 'A'
    assert.equal(tokens.verify(good.slice(0, at) + other + good.slice(at + 1)), undefined)
  }
  for (const bad of ['', 'berth_', ` ${good}`, `${good}\n`, good.slice(0, -1), `${good}A`, good.toUpperCase(), 'x'.repeat(1_000_000), '\0', 'é']) {
    assert.equal(tokens.verify(bad), undefined)
  }
  assert.ok(tokens.verify(good))
})

test('tokens have their scope, and a revoked one is invalid at once and after a restart', t => {
  const { store } = build(t)
  const tokens = store()
  const read = tokens.create({ name: 'viewer', scope: 'read' })
  const admin = tokens.create({ name: 'ops', scope: 'admin' })
  assert.deepEqual(store().verify(read.token), { id: read.id, scope: 'read' })
  assert.deepEqual(store().verify(admin.token), { id: admin.id, scope: 'admin' })
  tokens.revoke(read.id)
  tokens.revoke('tok_absent')
  assert.equal(tokens.verify(read.token), undefined)
  assert.equal(store().verify(read.token), undefined)
  assert.ok(tokens.verify(admin.token))
})

test('a named token takes the place of the one before, also for a store opened later, until its name is ended', t => {
  const { store, databaseBytes } = build(t)
  const tokens = store()
  const first = tokens.mintNamed('gateway')
  const owner = tokens.verify(first)
  assert.equal(owner?.scope, 'admin')
  const second = tokens.mintNamed('gateway')
  assert.equal(tokens.verify(first), undefined)
  assert.deepEqual(tokens.verify(second), owner, 'its holder is who it was')
  const third = store().mintNamed('gateway')
  assert.deepEqual(store().verify(third), owner)
  assert.equal(databaseBytes().includes(third), false)
  const last = store()
  last.endNamed('gateway')
  assert.equal(last.verify(third), undefined)
  assert.equal(store().verify(third), undefined)
})
