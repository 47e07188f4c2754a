/**
 * The daemon's SQLite files: how they are opened, and what their tables are.
 *
 * There are several, because durability has a price. `berth.db` holds what nothing else knows (tokens, keys that sign, idempotency keys):
 * synchronous=FULL, each transaction is on the disk before it is answered. `events.db` tells what the sandbox records
 * say anyway: synchronous=NORMAL, no fsync per event; a power cut may take the newest events, a killed daemon takes none.
 * `network.db` has decisions about networks, which are many, and is kept in the same way. `tasks.db` has the tasks: synchronous=FULL,
 * and a file of its own, so that its many small transactions wait for nothing else.
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
`, `
  ALTER TABLE events ADD COLUMN task_id TEXT;
  CREATE INDEX events_by_task ON events (task_id, seq) WHERE task_id IS NOT NULL;
  -- How far each outbox has been taken over; pruning events leaves it alone.
  CREATE TABLE relays (
    origin TEXT PRIMARY KEY,
    seq INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
`, `
  ALTER TABLE events ADD COLUMN terminal_id TEXT;
`]

// Rows of `tasks` change often and are small, so that many share a page; what never changes lies beside them.
const taskSteps = [`
  CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL CHECK (status IN ('pending', 'scheduled', 'running', 'complete', 'failed', 'cancelled')),
    pool TEXT NOT NULL,
    lane TEXT NOT NULL,
    idempotency_key TEXT,
    created_at INTEGER NOT NULL,
    available_at INTEGER NOT NULL,
    is_due INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    last_attempt INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    faults INTEGER NOT NULL,
    owner TEXT,
    lease_until INTEGER,
    cancel_at INTEGER,
    ended_at INTEGER,
    is_dead INTEGER NOT NULL,
    outputs_done INTEGER NOT NULL,
    end TEXT,
    attempts TEXT NOT NULL,
    history TEXT NOT NULL
  ) STRICT;
  CREATE TABLE task_specs (
    seq INTEGER PRIMARY KEY REFERENCES tasks (seq) ON DELETE CASCADE,
    spec TEXT NOT NULL
  ) STRICT;
  CREATE TABLE task_labels (
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (label, value, created_at, seq)
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX tasks_by_key ON tasks (idempotency_key) WHERE idempotency_key IS NOT NULL;
  CREATE INDEX tasks_ready ON tasks (lane, seq, available_at) WHERE is_due = 1;
  CREATE INDEX tasks_delayed ON tasks (available_at) WHERE status = 'pending' AND is_due = 0;
  CREATE INDEX tasks_leased ON tasks (lease_until) WHERE lease_until IS NOT NULL;
  CREATE INDEX tasks_by_time ON tasks (created_at);
  CREATE INDEX tasks_by_status ON tasks (status, created_at);
  CREATE INDEX tasks_by_pool ON tasks (pool, created_at);
  CREATE INDEX tasks_by_end ON tasks (ended_at, id) WHERE ended_at IS NOT NULL;
  CREATE INDEX tasks_dead ON tasks (created_at) WHERE is_dead = 1;
  CREATE INDEX tasks_with_outputs ON tasks (seq) WHERE outputs_done = 0;
  CREATE TABLE task_outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    type TEXT NOT NULL,
    task_id TEXT NOT NULL,
    sandbox_id TEXT,
    data TEXT NOT NULL
  ) STRICT;
  CREATE TABLE task_store (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
`, `
  -- Of deliveries of a fleet: how much of them the fleet has been told.
  ALTER TABLE tasks ADD COLUMN report TEXT CHECK (report IN ('none', 'started', 'settled', 'done', 'abandoned'));
  CREATE INDEX tasks_unreported ON tasks (seq) WHERE report IN ('none', 'started', 'settled');
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
  return writeMuch(openOrBeginAnew({ path, synchronous: 'NORMAL', steps: eventsSteps, table: 'events' }, log))
}

/** Opens `tasks.db`, made or brought up to date as needed. A damaged one is refused: nothing else knows what is in it. */
export function openTaskDatabase (path: string): DatabaseSync {
  const db = openDatabase({ path, synchronous: 'FULL', steps: taskSteps })
  // What is worked on stays in memory: 16 MiB.
  db.exec('PRAGMA cache_size = -16384')
  return writeMuch(db)
}

/** Opens `network.db`, as events.db is. */
export function openNetworkDatabase (path: string, log: DatabaseLog): DatabaseSync {
  return openOrBeginAnew({ path, synchronous: 'NORMAL', steps: networkSteps, table: 'decisions' }, log)
}

/** A checkpoint costs two fsyncs, so there is one in 4000 pages: a fourth of what SQLite does by itself. */
function writeMuch (db: DatabaseSync): DatabaseSync {
  db.exec('PRAGMA wal_autocheckpoint = 4000')
  return db
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
