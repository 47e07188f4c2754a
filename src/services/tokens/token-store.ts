import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import type { DatabaseSync } from 'node:sqlite'
import { BerthError } from '../../errors.ts'
import { randomId } from '../../lib/id.ts'
import type { SandboxToken } from '../../schemas/token.ts'
import { readTokenFile, writeTokenFile } from './token-file.ts'

export type TokenScope = 'admin' | 'read' | 'sandbox'

/** Who a request comes from, once its token is verified. */
export interface TokenIdentity {
  id: string
  scope: TokenScope
  /** Of scope `sandbox`: the one sandbox that it is for. */
  sandboxId?: string
}

export interface TokenStoreOptions {
  /** As opened by openStateDatabase. */
  db: DatabaseSync
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

interface StoredToken extends TokenIdentity {
  name: string
  hash: Buffer
  isInitial: boolean
  createdAt: string
  /** Milliseconds since the epoch. */
  expiresAtMs?: number
}

interface TokenRequest {
  name: string
  scope: TokenScope
  sandboxId?: string
  /** For ever when absent, in milliseconds. */
  expiresInMs?: number
}

/** Stands in the place of a token's id for who came in by the unix socket. */
const rootId = 'root'

/** 256 bits, so that a plain hash at rest cannot be searched for. */
const secretBytes = 32

/** The longest token that is looked at; longer input is refused unhashed. */
const maxTokenLength = 256

/** More is a program that makes one for each request. */
const maxTokensOfSandbox = 100

/** Bearer tokens. Only their SHA-256 is kept; the token itself exists where its maker put it. */
export class TokenStore {
  readonly #db: DatabaseSync
  readonly #now: () => number
  /** All of them, by hash: verifying reads no disk, and where a guess's hash leads tells nothing of a token. */
  readonly #byHash = new Map<string, StoredToken>()
  readonly #byId = new Map<string, StoredToken>()

  constructor (options: TokenStoreOptions) {
    this.#db = options.db
    this.#now = options.now ?? Date.now
    for (const row of this.#db.prepare('SELECT id, name, scope, hash, is_initial, created_at, sandbox_id, expires_at FROM tokens').all()) {
      this.#remember({
        id: String(row.id),
        name: String(row.name),
        scope: row.scope as TokenScope,
        hash: Buffer.from(row.hash as Uint8Array),
        isInitial: row.is_initial === 1,
        createdAt: String(row.created_at),
        ...(row.sandbox_id === null ? {} : { sandboxId: String(row.sandbox_id) }),
        ...(row.expires_at === null ? {} : { expiresAtMs: Number(row.expires_at) }),
      })
    }
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
    const isTaken = inFile !== undefined && this.#byHash.has(keyOf(hashToken(inFile)))
    const token = inFile !== undefined && !isTaken ? inFile : makeToken()
    if (token !== inFile) writeTokenFile(path, token)
    const outdated = [...this.#byId.values()].filter(stored => stored.isInitial).map(stored => stored.id)
    const { id } = this.#add({ name: 'initial admin token', scope: 'admin' }, token, true)
    for (const old of outdated) this.revoke(old)
    return { id, isNew: token !== inFile }
  }

  /** Makes a token. It is told only here. */
  create (request: TokenRequest): TokenIdentity & { token: string, expiresAt?: string } {
    const { sandboxId } = request
    this.#dropExpired()
    if (sandboxId !== undefined && this.#of(sandboxId).length >= maxTokensOfSandbox) {
      throw new BerthError('exhausted', 'too_many_tokens', `a sandbox has at most ${maxTokensOfSandbox} tokens; revoke one that is no longer used`)
    }
    const token = makeToken()
    const { id, scope, expiresAtMs } = this.#add(request, token, false)
    return { id, scope, ...(sandboxId === undefined ? {} : { sandboxId }), token, ...expiry(expiresAtMs) }
  }

  /** Makes the one admin token of a name, in the place of the one before: its holder stays who it was. It is told only here. */
  mintNamed (name: string): string {
    const token = makeToken()
    const [known] = this.#named(name)
    const stored = known === undefined ? undefined : this.#byId.get(known)
    if (!stored) {
      this.#add({ name, scope: 'admin' }, token, false)
      return token
    }
    const hash = hashToken(token)
    this.#db.prepare('UPDATE tokens SET hash = ? WHERE id = ?').run(hash, stored.id)
    this.#forget([stored])
    this.#remember({ ...stored, hash })
    return token
  }

  /** Revokes what `mintNamed` has made. */
  endNamed (name: string): void {
    for (const id of this.#named(name)) this.revoke(id)
  }

  /** The tokens of a sandbox that are good, the oldest first, without their secrets. */
  listOf (sandboxId: string): SandboxToken[] {
    this.#dropExpired()
    return this.#of(sandboxId).map(({ id, name, createdAt, expiresAtMs }) => ({ id, name, createdAt, ...expiry(expiresAtMs) }))
  }

  #named (name: string): string[] {
    return [...this.#byId.values()].filter(stored => stored.name === name && stored.scope === 'admin' && !stored.isInitial).map(({ id }) => id)
  }

  /** Makes a token invalid at once; one that is not there already is. */
  revoke (id: string): void {
    this.#db.prepare('DELETE FROM tokens WHERE id = ?').run(id)
    const stored = this.#byId.get(id)
    if (stored) this.#forget([stored])
  }

  /** @throws BerthError not_found for a token that is not one of this sandbox. */
  revokeOne (sandboxId: string, id: string): void {
    if (this.#byId.get(id)?.sandboxId !== sandboxId) throw new BerthError('not_found', 'token_not_found', 'the sandbox has no token with this id')
    this.revoke(id)
  }

  /** Revokes every token of a sandbox that is deleted. Idempotent. */
  revokeOf (sandboxId: string): void {
    const stored = this.#of(sandboxId)
    if (stored.length === 0) return
    this.#db.prepare('DELETE FROM tokens WHERE sandbox_id = ?').run(sandboxId)
    this.#forget(stored)
  }

  /** Revokes the tokens of sandboxes that are gone: a daemon may die between a deletion and its end. */
  revokeOrphans (isThere: (sandboxId: string) => boolean): void {
    const owners = new Set([...this.#byId.values()].flatMap(({ sandboxId }) => sandboxId ?? []))
    for (const sandboxId of owners) if (!isThere(sandboxId)) this.revokeOf(sandboxId)
  }

  /** Whose token this is; undefined when it is nobody's, or no longer good. */
  verify (token: string): TokenIdentity | undefined {
    if (token.length > maxTokenLength) return undefined
    const hash = hashToken(token)
    const found = this.#byHash.get(keyOf(hash))
    if (!found || !timingSafeEqual(found.hash, hash) || this.#isExpired(found)) return undefined
    return { id: found.id, scope: found.scope, ...(found.sandboxId === undefined ? {} : { sandboxId: found.sandboxId }) }
  }

  /** Whether there is a token with this id that is good. Root, who comes in by the unix socket, needs none. */
  isValid (id: string): boolean {
    if (id === rootId) return true
    const stored = this.#byId.get(id)
    return stored !== undefined && !this.#isExpired(stored)
  }

  #of (sandboxId: string): StoredToken[] {
    return [...this.#byId.values()].filter(stored => stored.sandboxId === sandboxId)
  }

  #isExpired ({ expiresAtMs = Infinity }: StoredToken): boolean {
    return expiresAtMs <= this.#now()
  }

  #dropExpired (): void {
    const expired = [...this.#byId.values()].filter(stored => this.#isExpired(stored))
    if (expired.length === 0) return
    this.#db.prepare('DELETE FROM tokens WHERE expires_at <= ?').run(this.#now())
    this.#forget(expired)
  }

  #forget (gone: StoredToken[]): void {
    for (const { id, hash } of gone) {
      this.#byId.delete(id)
      this.#byHash.delete(keyOf(hash))
    }
  }

  #add (request: TokenRequest, token: string, isInitial: boolean): StoredToken {
    const { name, scope, sandboxId, expiresInMs } = request
    const nowMs = this.#now()
    const stored: StoredToken = {
      id: randomId('tok'),
      name,
      scope,
      hash: hashToken(token),
      isInitial,
      createdAt: new Date(nowMs).toISOString(),
      ...(sandboxId === undefined ? {} : { sandboxId }),
      ...(expiresInMs === undefined ? {} : { expiresAtMs: nowMs + expiresInMs }),
    }
    this.#db.prepare('INSERT INTO tokens (id, name, scope, hash, is_initial, created_at, sandbox_id, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)')
      .run(stored.id, name, scope, stored.hash, isInitial ? 1 : 0, stored.createdAt, sandboxId ?? null, stored.expiresAtMs ?? null)
    this.#remember(stored)
    return stored
  }

  #remember (stored: StoredToken): void {
    this.#byId.set(stored.id, stored)
    this.#byHash.set(keyOf(stored.hash), stored)
  }
}

function expiry (expiresAtMs: number | undefined): { expiresAt?: string } {
  return expiresAtMs === undefined ? {} : { expiresAt: new Date(expiresAtMs).toISOString() }
}

function makeToken (): string {
  return `berth_${randomBytes(secretBytes).toString('base64url')}`
}

function hashToken (token: string): Buffer {
  return createHash('sha256').update(token).digest()
}

function keyOf (hash: Buffer): string {
  return hash.toString('base64')
}
