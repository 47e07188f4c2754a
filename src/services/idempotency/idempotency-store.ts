import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { BerthError, errorKinds } from '../../errors.ts'

/** A request that carries an Idempotency-Key. Keys of different tokens are different keys. */
export interface IdempotentRequest {
  tokenId: string
  key: string
  method: string
  path: string
  /** Any digest of the body that differs when the body does. */
  bodyHash: string
}

export interface StoredAnswer {
  status: number
  headers: Record<string, string>
  body: string
}

export type IdempotencyState = { state: 'new' } | { state: 'replay' } & StoredAnswer

export interface IdempotencyStoreOptions {
  /** As opened by openStateDatabase. */
  db: DatabaseSync
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

type Row = { method: string, path: string, body_hash: string, status: number, headers: string, body: string | null }

const keepMs = 24 * 3600 * 1000
const keyPattern = /^[\x20-\x7e]{1,255}$/

/** Larger answers are not kept: a day of them would fill the disk. */
const maxBodyBytes = 1024 * 1024

/** Answers of a moment (429, 499, 503 …): the same request is to be carried out when it comes again. */
const passingStatuses = new Set([
  errorKinds.cancelled.http, ...Object.values(errorKinds).filter(facts => facts.retryable).map(facts => facts.http),
])

/**
 * Answers to requests with an Idempotency-Key, so that a repeated request is answered and not carried out again.
 *
 * Which requests are under way is known in memory alone: they end with the daemon, and a new one starts with none.
 */
export class IdempotencyStore {
  readonly #db: DatabaseSync
  readonly #now: () => number
  readonly #find: StatementSync
  readonly #put: StatementSync
  readonly #inProgress = new Map<string, IdempotentRequest>()

  constructor (options: IdempotencyStoreOptions) {
    this.#db = options.db
    this.#now = options.now ?? Date.now
    this.#find = this.#db.prepare('SELECT * FROM idempotency_keys WHERE token_id = ? AND key = ? AND completed_at > ?')
    this.#put = this.#db.prepare(`INSERT OR REPLACE INTO idempotency_keys
      (token_id, key, method, path, body_hash, status, headers, body, completed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`)
  }

  /** Says whether to carry a request out (and then to `complete` or `abandon` it), or what it was answered before. */
  begin (request: IdempotentRequest): IdempotencyState {
    if (!keyPattern.test(request.key)) {
      throw new BerthError('invalid_argument', 'invalid_idempotency_key', 'Idempotency-Key must be 1 to 255 printable ASCII characters')
    }
    const running = this.#inProgress.get(place(request))
    if (running) {
      assertSame(request, running)
      throw new BerthError('conflict', 'idempotency_in_progress', 'the first request with this Idempotency-Key is still running; repeat this one later to get its answer')
    }
    const row = this.#find.get(request.tokenId, request.key, this.#now() - keepMs) as Row | undefined
    if (!row) {
      this.#inProgress.set(place(request), request)
      return { state: 'new' }
    }
    assertSame(request, { method: row.method, path: row.path, bodyHash: row.body_hash })
    if (row.body === null) {
      throw new BerthError('conflict', 'idempotency_answer_not_kept', 'the first request with this Idempotency-Key was carried out, but its answer was too large to keep', { details: { status: row.status } })
    }
    return { state: 'replay', status: row.status, headers: JSON.parse(row.headers) as Record<string, string>, body: row.body }
  }

  /** Keeps the answer of a request that was begun. An answer of 500 and above, or of a moment, frees the key. */
  complete (request: IdempotentRequest, answer: StoredAnswer): void {
    const { tokenId, key, method, path, bodyHash } = request
    const { status, headers, body } = answer
    try {
      if (status >= 500 || passingStatuses.has(status)) return
      const kept = Buffer.byteLength(body) > maxBodyBytes ? null : body
      this.#put.run(tokenId, key, method, path, bodyHash, status, JSON.stringify(headers), kept, this.#now())
    } finally {
      this.abandon(request)
    }
  }

  /** Frees the key of a request that was begun and got no answer. */
  abandon (request: IdempotentRequest): void {
    this.#inProgress.delete(place(request))
  }

  /** Deletes answers that are older than 24 h. Returns how many. */
  prune (): number {
    return Number(this.#db.prepare('DELETE FROM idempotency_keys WHERE completed_at <= ?').run(this.#now() - keepMs).changes)
  }
}

function assertSame (request: IdempotentRequest, first: Pick<IdempotentRequest, 'method' | 'path' | 'bodyHash'>): void {
  if (request.method === first.method && request.path === first.path && request.bodyHash === first.bodyHash) return
  throw new BerthError('conflict', 'idempotency_key_reused', 'this Idempotency-Key was used for a different request; take a new key for each request')
}

/** Keys hold no line end, token ids neither. */
function place (request: IdempotentRequest): string {
  return `${request.tokenId}\n${request.key}`
}
