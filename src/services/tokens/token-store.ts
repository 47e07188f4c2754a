import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { DatabaseSync } from 'node:sqlite'
import { randomId } from '../../lib/id.ts'
import { readTokenFile, writeTokenFile } from './token-file.ts'

export type TokenScope = 'admin' | 'read'

/** Who a request comes from, once its token is verified. */
export interface TokenIdentity {
  id: string
  scope: TokenScope
}

export interface TokenStoreOptions {
  /** As opened by openStateDatabase. */
  db: DatabaseSync
}

interface StoredToken extends TokenIdentity {
  hash: Buffer
  isInitial: boolean
}

/** 256 bits, so that a plain hash at rest cannot be searched for. */
const secretBytes = 32

/** The longest token that is looked at; longer input is refused unhashed. */
const maxTokenLength = 256

/** Bearer tokens. Only their SHA-256 is kept; the token itself exists where its maker put it. */
export class TokenStore {
  readonly #db: DatabaseSync
  /** All of them: verifying reads no disk, and compares with each, so that its time tells nothing of a hash. */
  readonly #tokens: StoredToken[]

  constructor (options: TokenStoreOptions) {
    this.#db = options.db
    const rows = this.#db.prepare('SELECT id, scope, hash, is_initial FROM tokens').all()
    this.#tokens = rows.map(row => ({
      id: String(row.id), scope: row.scope as TokenScope, hash: Buffer.from(row.hash as Uint8Array), isInitial: row.is_initial === 1,
    }))
  }

  /**
   * Makes sure that a file holds an admin token that is valid. A lost file gets another token and the lost one is
   * revoked; the token of a file that the database does not know (it was lost) becomes valid again.
   */
  ensureAdminToken (path: string): { id: string, isNew: boolean } {
    const inFile = readTokenFile(path)
    const known = inFile === undefined ? undefined : this.verify(inFile)
    if (known?.scope === 'admin') return { id: known.id, isNew: false }
    // A known token of a smaller scope is not raised to admin because it lies in this file.
    const token = inFile !== undefined && !known ? inFile : makeToken()
    if (token !== inFile) writeTokenFile(path, token)
    const outdated = this.#tokens.filter(stored => stored.isInitial).map(stored => stored.id)
    const { id } = this.#add({ name: 'initial admin token', scope: 'admin', token, isInitial: true })
    for (const old of outdated) this.revoke(old)
    return { id, isNew: token !== inFile }
  }

  /** Makes a token. It is told only here. */
  create (options: { name: string, scope: TokenScope }): TokenIdentity & { token: string } {
    const token = makeToken()
    return { ...this.#add({ ...options, token, isInitial: false }), token }
  }

  /** Makes a token invalid at once; one that is not there already is. */
  revoke (id: string): void {
    this.#db.prepare('DELETE FROM tokens WHERE id = ?').run(id)
    const at = this.#tokens.findIndex(stored => stored.id === id)
    if (at !== -1) this.#tokens.splice(at, 1)
  }

  /** Whose token this is; undefined when it is nobody's. */
  verify (token: string): TokenIdentity | undefined {
    if (token.length > maxTokenLength) return undefined
    const hash = hashToken(token)
    let found: StoredToken | undefined
    for (const stored of this.#tokens) {
      if (timingSafeEqual(stored.hash, hash)) found = stored
    }
    return found && { id: found.id, scope: found.scope }
  }

  #add (options: { name: string, scope: TokenScope, token: string, isInitial: boolean }): TokenIdentity {
    const { name, scope, isInitial } = options
    const id = randomId('tok')
    const hash = hashToken(options.token)
    this.#db.prepare('INSERT INTO tokens (id, name, scope, hash, is_initial, created_at) VALUES (?, ?, ?, ?, ?, ?)')
      .run(id, name, scope, hash, isInitial ? 1 : 0, new Date().toISOString())
    this.#tokens.push({ id, scope, hash, isInitial })
    return { id, scope }
  }
}

function makeToken (): string {
  return `berth_${randomBytes(secretBytes).toString('base64url')}`
}

function hashToken (token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
