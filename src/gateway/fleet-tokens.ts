import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { BerthError } from '../errors.ts'
import { randomId } from '../lib/id.ts'
import type { FleetToken, FleetTokenCreate } from '../schemas/fleet.ts'
import { runBatch } from '../services/redis/redis-batch.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import { FleetScript } from './fleet-script.ts'
import type { FleetPrincipal } from './worker-record.ts'

export interface FleetTokensOptions {
  redis: RedisConnection
  /** The token of the file: it is good whatever Redis says, and is never told to Redis. */
  adminToken: string
  /** How long what Redis said of a token is believed, ms. At most so long a token that was revoked is taken elsewhere. */
  believeMs?: number
  /** Milliseconds since the epoch; another clock serves tests. */
  now?: () => number
}

/** As it lies in Redis under the hash of its secret. */
interface StoredToken extends Omit<FleetToken, 'token'> {
  /** SHA-256 in hexadecimal. */
  hash: string
}

interface Belief {
  token: StoredToken | undefined
  untilMs: number
}

/** The id of the token in the file. */
export const adminId = 'admin'

/** 256 bits, so that a plain hash at rest cannot be searched for. */
const secretBytes = 32
/** The longest token that is looked at; longer input is refused unhashed. */
const maxTokenLength = 512
const maxTokens = 10_000
const maxBeliefs = 10_000

/** KEYS: ids, token. ARGV: hash, id, record, ms that it is good or 0. Answers 0 when there are too many. */
const addScript = new FleetScript(`
if redis.call('HLEN', KEYS[1]) >= ${maxTokens} then return 0 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[1])
if ARGV[4] == '0' then redis.call('SET', KEYS[2], ARGV[3]) else redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
return 1
`)

/** The tokens of a fleet: who may ask its gateways what. Only their SHA-256 is in Redis. */
export class FleetTokens {
  readonly #redis: RedisConnection
  readonly #adminHash: Buffer
  readonly #believeMs: number
  readonly #now: () => number
  /** By hash; an unknown token is believed in no longer than a known one. */
  readonly #beliefs = new Map<string, Belief>()
  readonly #asked = new Map<string, Promise<StoredToken | undefined>>()

  constructor ({ redis, adminToken, believeMs = 500, now = Date.now }: FleetTokensOptions) {
    this.#redis = redis
    this.#adminHash = hashOf(adminToken)
    this.#believeMs = believeMs
    this.#now = now
  }

  /**
   * Whose token this is; undefined when it is nobody's, or no longer good.
   * @throws BerthError unavailable `redis_unavailable`: it may be somebody's, and nobody can say.
   */
  async verify (token: string): Promise<FleetPrincipal | undefined> {
    if (token.length > maxTokenLength) return undefined
    const hash = hashOf(token)
    if (timingSafeEqual(hash, this.#adminHash)) return { id: adminId, scope: 'admin' }
    const stored = await this.#find(hash.toString('hex'))
    if (!stored || !timingSafeEqual(Buffer.from(stored.hash, 'hex'), hash) || this.#isExpired(stored)) return undefined
    return { id: stored.id, scope: stored.scope, ...stored.pools ? { pools: stored.pools } : {} }
  }

  /** Whether the token with this id is one, and good. @throws BerthError unavailable `redis_unavailable`. */
  async isGood (id: string): Promise<boolean> {
    if (id === adminId) return true
    const hash = await this.#redis.run(client => client.hget(this.#idsKey, id))
    const text = hash === null ? null : await this.#redis.run(client => client.get(this.#key(hash)))
    return text !== null && !this.#isExpired(JSON.parse(text) as StoredToken)
  }

  /** Makes a token. It is told only here. @throws BerthError exhausted `too_many_tokens`; invalid_argument `invalid_field`. */
  async create ({ name, scope, pools, expiresInMs }: FleetTokenCreate): Promise<FleetToken> {
    // It makes tokens, and so could make itself one for all.
    if (scope === 'admin' && pools) throw new BerthError('invalid_argument', 'invalid_field', 'pools must be left out for the scope admin, which is for the whole fleet', { details: { field: 'pools' } })
    const secret = `berth_${randomBytes(secretBytes).toString('base64url')}`
    const nowMs = this.#now()
    const made: Omit<FleetToken, 'token'> = {
      id: randomId('tok'),
      name,
      scope,
      ...pools ? { pools } : {},
      createdAt: new Date(nowMs).toISOString(),
      ...expiresInMs === undefined ? {} : { expiresAt: new Date(nowMs + expiresInMs).toISOString() },
    }
    const hash = hashOf(secret).toString('hex')
    const isAdded = await addScript.run(this.#redis, [this.#idsKey, this.#key(hash)], [hash, made.id, JSON.stringify({ ...made, hash }), expiresInMs ?? 0])
    if (isAdded === 0) throw new BerthError('exhausted', 'too_many_tokens', `a fleet has at most ${maxTokens} tokens; revoke those that are no longer used`)
    return { ...made, token: secret }
  }

  /** All that are good, the oldest first, without their secrets. */
  async list (): Promise<FleetToken[]> {
    const known = await this.#redis.run(client => client.hgetall(this.#idsKey))
    const records = await this.#redis.run(client => runBatch(client, Object.values(known).map(hash => ['GET', this.#key(hash)])))
    const tokens = records.flatMap(text => text === null ? [] : [JSON.parse(String(text)) as StoredToken]).filter(token => !this.#isExpired(token))
    const living = new Set(tokens.map(({ id }) => id))
    const gone = Object.keys(known).filter(id => !living.has(id))
    if (gone.length > 0) await this.#redis.run(client => client.hdel(this.#idsKey, ...gone))
    return tokens.map(({ hash, ...shown }) => shown).sort((one, other) => `${one.createdAt}${one.id}` < `${other.createdAt}${other.id}` ? -1 : 1)
  }

  /** Makes a token invalid: here at once, elsewhere within what is believed. @throws BerthError not_found `token_not_found`. */
  async revoke (id: string): Promise<void> {
    const hash = await this.#redis.run(client => client.hget(this.#idsKey, id))
    if (hash === null) throw new BerthError('not_found', 'token_not_found', 'there is no token with this id')
    // The token first: what is left of a revocation that is cut off is an id that leads nowhere.
    await this.#redis.run(client => client.del(this.#key(hash)))
    this.#beliefs.delete(hash)
    await this.#redis.run(client => client.hdel(this.#idsKey, id))
  }

  async #find (hash: string): Promise<StoredToken | undefined> {
    const belief = this.#beliefs.get(hash)
    if (belief && belief.untilMs > performance.now()) return belief.token
    const asked = this.#asked.get(hash) ?? this.#ask(hash)
    this.#asked.set(hash, asked)
    try {
      return await asked
    } finally {
      this.#asked.delete(hash)
    }
  }

  async #ask (hash: string): Promise<StoredToken | undefined> {
    // From before the question: an answer that is late is no younger for it.
    const untilMs = performance.now() + this.#believeMs
    const text = await this.#redis.run(client => client.get(this.#key(hash)))
    const token = text === null ? undefined : JSON.parse(text) as StoredToken
    if (this.#beliefs.size >= maxBeliefs) this.#beliefs.clear()
    this.#beliefs.set(hash, { token, untilMs })
    return token
  }

  #isExpired ({ expiresAt }: StoredToken): boolean {
    return expiresAt !== undefined && Date.parse(expiresAt) <= this.#now()
  }

  #key (hash: string): string { return `${this.#redis.prefix}:{berth}:token:${hash}` }
  get #idsKey (): string { return `${this.#redis.prefix}:{berth}:tokens` }
}

function hashOf (token: string): Buffer {
  return createHash('sha256').update(token).digest()
}
