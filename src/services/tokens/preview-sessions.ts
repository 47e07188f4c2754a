import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { DatabaseSync } from 'node:sqlite'

export interface PreviewSessionsOptions {
  /** As opened by openStateDatabase: it keeps the key, so that open pages outlive the daemon. */
  db: DatabaseSync
  /** Whether a token is still good: a session ends with the token that began it. */
  isTokenValid: (tokenId: string) => boolean
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

/** A port of a sandbox. */
export interface PreviewScope {
  sandboxId: string
  port: number
}

export const sessionLifeMs = 12 * 3600 * 1000

const keyName = 'preview_sessions'
const keyBytes = 32
const pattern = /^([0-9a-z]{1,12})\.([a-z0-9_]{1,64})\.([A-Za-z0-9_-]{43})$/

/**
 * What a browser holds after it came with a ticket: `<end in base 36>.<token id>.<HMAC-SHA-256 in base64url>`.
 * Good for one port of one sandbox, for 12 hours, and no longer than the token behind it.
 */
export class PreviewSessions {
  readonly #options: Required<PreviewSessionsOptions>
  readonly #key: Buffer

  constructor (options: PreviewSessionsOptions) {
    this.#options = { now: Date.now, ...options }
    const { db } = options
    db.prepare('INSERT OR IGNORE INTO secrets (name, value) VALUES (?, ?)').run(keyName, randomBytes(keyBytes))
    this.#key = Buffer.from(db.prepare('SELECT value FROM secrets WHERE name = ?').get(keyName)!.value as Uint8Array)
  }

  issue (scope: PreviewScope & { tokenId: string }): string {
    const end = (this.#options.now() + sessionLifeMs).toString(36)
    return `${end}.${scope.tokenId}.${this.#sign(scope, end, scope.tokenId).toString('base64url')}`
  }

  verify (value: string, scope: PreviewScope): boolean {
    const [, end, tokenId, signature] = pattern.exec(value) ?? []
    if (end === undefined || tokenId === undefined || signature === undefined) return false
    if (!timingSafeEqual(this.#sign(scope, end, tokenId), Buffer.from(signature, 'base64url'))) return false
    return parseInt(end, 36) > this.#options.now() && this.#options.isTokenValid(tokenId)
  }

  #sign ({ sandboxId, port }: PreviewScope, end: string, tokenId: string): Buffer {
    // None of the parts can hold a space, so no two scopes read the same.
    return createHmac('sha256', this.#key).update(`preview ${sandboxId} ${port} ${end} ${tokenId}`).digest()
  }
}
