import assert from 'node:assert/strict'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { BerthError } from '../../../src/errors.ts'
import { GroupCommit } from '../../../src/services/tasks/group-commit.ts'

function build (t: TestContext) {
  const db = new DatabaseSync(':memory:')
  t.after(() => db.close())
  // A missing parent is seen by COMMIT alone, so that COMMIT can be made to fail.
  db.exec(`
    CREATE TABLE parents (id INTEGER PRIMARY KEY);
    CREATE TABLE rows (text TEXT NOT NULL, parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)`)
  const seen: string[] = []
  const group = new GroupCommit({
    db,
    load: () => seen.push(`load ${texts(db)}`),
    afterCommit: () => seen.push(`commit ${texts(db)}`),
    afterFailure: () => seen.push('failure'),
  })
  const insert = (text: string | null, parent: number | null = null) => group.run(() => {
    db.prepare('INSERT INTO rows (text, parent) VALUES (?, ?)').run(text, parent)
    return text
  })
  return { db, group, insert, seen }
}

function texts (db: DatabaseSync): string {
  return db.prepare('SELECT text FROM rows').all().map(({ text }) => text).join('')
}

test('operations of one turn share a commit, and are answered after it', async t => {
  const { insert, seen, db } = build(t)
  const answers = ['a', 'b', 'c'].map(async text => {
    await insert(text)
    assert.equal(db.isTransaction, false)
    return [...seen]
  })
  assert.equal(texts(db), '')
  for (const before of await Promise.all(answers)) assert.deepEqual(before, ['load ', 'commit abc'])
  await insert('d')
  assert.deepEqual(seen, ['load ', 'commit abc', 'commit abcd'])
})

test('one that fails is taken back alone; after one that fails in an unforeseen way memory is loaded anew', async t => {
  const { group, insert, seen, db } = build(t)
  const refuse = group.run(() => { throw new BerthError('conflict', 'invalid_state', 'no') })
  const results = await Promise.allSettled([insert('a'), refuse, insert('b'), insert(null), insert('c')])
  assert.deepEqual(results.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled'])
  assert.equal(texts(db), 'abc')
  assert.deepEqual(seen, ['load ', 'load ab', 'commit abc'])
})

test('when the commit fails, none was carried out and all are told', async t => {
  const { insert, seen, db } = build(t)
  await insert('a')
  const results = await Promise.allSettled([insert('b'), insert('c', 7), insert('d')])
  assert.deepEqual(results.map(({ status }) => status), ['rejected', 'rejected', 'rejected'])
  assert.deepEqual([texts(db), db.isTransaction], ['a', false])
  await insert('e')
  assert.deepEqual(seen, ['load ', 'commit a', 'failure', 'load a', 'commit ae'])
})

test('a long group is committed in parts, between which others run', async t => {
  const { group, seen } = build(t)
  let turns = 0
  const slow = Array.from({ length: 3 }, () => group.run(() => {
    const end = performance.now() + 25
    while (performance.now() < end);
    return turns
  }))
  void (async () => { for (;;) { await setImmediate(); turns++; if (turns > 20) return } })()
  const [first, second, third] = await Promise.all(slow)
  assert.ok(first! < second! && second! < third!, 'turns of the event loop lie between')
  assert.equal(seen.filter(what => what.startsWith('commit')).length, 3)
})
