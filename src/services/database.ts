/**
 * The daemon's SQLite files: how they are opened, and what their tables are.
 *
 * There are several, because durability has a price. `berth.db` holds what nothing else knows (tokens, keys that sign, idempotency keys):
 * synchronous=FULL, each transaction is on the disk before it is answered. `events.db` tells what the sandbox records
 * say anyway: synchronous=NORMAL, no fsync per event; a power cut may take the newest events, a killed daemon takes none.
 * `network.db` has decisions about networks, which are many, and is kept in the same way.
 */
import { closeSync, openSync, renameSync, rmSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { BerthError } from '../errors.ts'

/** What the daemon's logger offers here. */
export interface DatabaseLog {
  warn: (fields: object, message: string) => void
}

interface DatabaseOptions {
  path: string
  synchronous: 'FULL' | 'NORMAL'
  /** Step n takes a database from version n to n + 1. Steps are only ever added. */
  steps: readonly string[]
}

const busyTimeoutMs = 5000

const stateSteps = [`
  CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('admin', 'read')),
    hash BLOB NOT NULL UNIQUE,
    is_initial INTEGER NOT NULL,
    created_at TEXT NOT NULL
  ) STRICT;
  CREATE TABLE idempotency_keys (
    token_id TEXT NOT NULL,
    key TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    status INTEGER NOT NULL,
    headers TEXT NOT NULL,
    body TEXT,
    completed_at INTEGER NOT NULL,
    PRIMARY KEY (token_id, key)
  ) STRICT;
  CREATE INDEX idempotency_keys_by_age ON idempotency_keys (completed_at);
`, `
  CREATE TABLE wider_tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL CHECK (scope IN ('admin', 'read', 'sandbox')),
    hash BLOB NOT NULL UNIQUE,
    is_initial INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    sandbox_id TEXT,
    expires_at INTEGER,
    CHECK ((scope = 'sandbox') = (sandbox_id IS NOT NULL))
  ) STRICT;
  INSERT INTO wider_tokens (id, name, scope, hash, is_initial, created_at) SELECT id, name, scope, hash, is_initial, created_at FROM tokens;
  DROP TABLE tokens;
  ALTER TABLE wider_tokens RENAME TO tokens;
  CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
  ) STRICT;
`]

const eventsSteps = [`
  CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    type TEXT NOT NULL,
    sandbox_id TEXT,
    exec_id TEXT,
    data TEXT NOT NULL
  ) STRICT;
  CREATE INDEX events_by_sandbox ON events (sandbox_id, seq);
`]

const networkSteps = [`
  CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    sandbox_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL,
    name TEXT,
    entry TEXT,
    protocol TEXT,
    address TEXT,
    port INTEGER
  ) STRICT;
  CREATE INDEX decisions_by_sandbox ON decisions (sandbox_id, seq);
  CREATE INDEX decisions_by_age ON decisions (at);
  CREATE TABLE decision_gaps (
    sandbox_id TEXT PRIMARY KEY,
    up_to_seq INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
`]

/** Opens `berth.db`, made or brought up to date as needed. */
export function openStateDatabase (path: string): DatabaseSync {
  return openDatabase({ path, synchronous: 'FULL', steps: stateSteps })
}

/** Opens `events.db`. A damaged one is kept beside it as `<path>.damaged`, and begun anew. */
export function openEventsDatabase (path: string, log: DatabaseLog): DatabaseSync {
  return openOrBeginAnew({ path, synchronous: 'NORMAL', steps: eventsSteps, table: 'events' }, log)
}

/** Opens `network.db`, as events.db is. */
export function openNetworkDatabase (path: string, log: DatabaseLog): DatabaseSync {
  return openOrBeginAnew({ path, synchronous: 'NORMAL', steps: networkSteps, table: 'decisions' }, log)
}

function openOrBeginAnew (options: DatabaseOptions & { table: string }, log: DatabaseLog): DatabaseSync {
  const { path, table } = options
  try {
    return openDatabase(options)
  } catch (error) {
    if (!isDamage(error)) throw error
    log.warn({ err: error }, `${table} database is damaged; it is set aside and ${table} begin anew`)
  }
  renameSync(path, `${path}.damaged`)
  for (const suffix of ['-wal', '-shm']) rmSync(`${path}${suffix}`, { force: true })
  const db = openDatabase(options)
  // Clients hold on to the last seq they saw. The time in milliseconds is beyond any seq that was given out before.
  db.prepare('INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)').run(table, Date.now())
  return db
}

function openDatabase (options: DatabaseOptions): DatabaseSync {
  // SQLite gives its -wal and -shm files the mode of the database file.
  closeSync(openSync(options.path, 'a', 0o600))
  const db = new DatabaseSync(options.path, { timeout: busyTimeoutMs, enableForeignKeyConstraints: true })
  try {
    db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${options.synchronous}`)
    const [check] = db.prepare('PRAGMA quick_check(1)').all()
    if (check?.quick_check !== 'ok') throw damaged(new Error(String(check?.quick_check)))
    migrate(db, options.steps)
    return db
  } catch (error) {
    db.close()
    throw isSqliteDamage(error) ? damaged(error) : error
  }
}

function migrate (db: DatabaseSync, steps: readonly string[]): void {
  const version = Number(db.prepare('PRAGMA user_version').get()?.user_version)
  if (version > steps.length) {
    throw new BerthError('internal', 'database_too_new',
      `the state directory was last used by a newer Berth (schema ${version}, this one knows up to ${steps.length}); run that version or a later one`)
  }
  for (const [index, step] of steps.entries()) {
    if (index < version) continue
    db.exec('BEGIN IMMEDIATE')
    try {
      db.exec(`${step}; PRAGMA user_version = ${index + 1}`)
      db.exec('COMMIT')
    } catch (error) {
      db.exec('ROLLBACK')
      throw error
    }
  }
}

function damaged (cause: unknown): BerthError {
  return new BerthError('internal', 'database_damaged',
    'a database in the state directory is damaged; restore it from a backup, or move it away to begin without it', { cause })
}

function isDamage (error: unknown): boolean {
  return error instanceof BerthError && error.code === 'database_damaged'
}

/** SQLITE_CORRUPT and SQLITE_NOTADB, whatever their extension (sqlite.org/rescode.html). */
function isSqliteDamage (error: unknown): boolean {
  const code = (error as { errcode?: number } | undefined)?.errcode
  return code !== undefined && [11, 26].includes(code & 0xff)
}
