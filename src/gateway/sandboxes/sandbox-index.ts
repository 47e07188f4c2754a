/** On which worker each sandbox lies that was made by way of a gateway. */
import { BerthError } from '../../errors.ts'
import { runBatch, type RedisCommand } from '../../services/redis/redis-batch.ts'
import type { RedisConnection } from '../../services/redis/redis-types.ts'

export interface PlacedSandbox {
  id: string
  workerId: string
  pool: string
  /** By its host's clock. */
  createdAt: string
  labels: Record<string, string>
}

export interface SandboxIndexFilter {
  /** Only of these pools; of all without it. */
  pools?: readonly string[] | undefined
  limit: number
  cursor?: string | undefined
}

export interface SandboxIndex {
  put: (sandbox: PlacedSandbox) => Promise<void>
  find: (id: string) => Promise<PlacedSandbox | undefined>
  /** Newest first. @throws BerthError invalid_argument `invalid_cursor`. */
  page: (filter: SandboxIndexFilter) => Promise<{ items: PlacedSandbox[], nextCursor?: string }>
  drop: (id: string) => Promise<void>
  /** Its worker is not known any more: the entry goes after a while, unless it is put again. */
  fade: (id: string) => Promise<void>
}

/** Where a sandbox lies never changes; its host says when it is gone. So long it is not looked up again, in milliseconds. */
const believeMs = 10_000
const maxBelieved = 10_000

/** A worker that was forgotten may join again with all that it holds. */
const fadeSeconds = 7 * 24 * 3600

/**
 * In Redis, all keys in one slot:
 *
 *   <prefix>:{berth}:sandbox:<id>       hash: workerId, pool, createdAt, labels (JSON)
 *   <prefix>:{berth}:sandboxes          sorted set of `<milliseconds, 14 digits>:<id>`, all with the same score: ordered by their text
 *   <prefix>:{berth}:sandboxes:<pool>   likewise, of one pool
 */
export class RedisSandboxIndex implements SandboxIndex {
  readonly #redis: RedisConnection
  readonly #believed = new Map<string, { entry: PlacedSandbox, untilMs: number }>()

  constructor (redis: RedisConnection) {
    this.#redis = redis
  }

  async put ({ id, workerId, pool, createdAt, labels }: PlacedSandbox): Promise<void> {
    const member = memberOf(id, createdAt)
    const key = this.#key(id)
    await this.#redis.run(client => client.multi()
      .hset(key, { workerId, pool, createdAt, labels: JSON.stringify(labels) })
      .persist(key)
      .zadd(this.#listKey(), 0, member)
      .zadd(this.#listKey(pool), 0, member)
      .exec())
  }

  async find (id: string): Promise<PlacedSandbox | undefined> {
    const believed = this.#believed.get(id)
    if (believed && believed.untilMs > Date.now()) return believed.entry
    const entry = await this.#look(id)
    this.#believed.delete(id)
    if (!entry) return undefined
    if (this.#believed.size >= maxBelieved) this.#believed.delete(this.#believed.keys().next().value!)
    this.#believed.set(id, { entry, untilMs: Date.now() + believeMs })
    return entry
  }

  async page ({ pools, limit, cursor }: SandboxIndexFilter): Promise<{ items: PlacedSandbox[], nextCursor?: string }> {
    if (cursor !== undefined && !/^\d{14}:sbx_[a-z0-9]{20}$/.test(cursor)) {
      throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that this list answered; leave it out to begin anew')
    }
    const lists = pools === undefined ? [this.#listKey()] : [...new Set(pools)].map(pool => this.#listKey(pool))
    const from = cursor === undefined ? '+' : `(${cursor}`
    const found = await this.#batch(lists.map(list => ['ZREVRANGEBYLEX', list, from, '-', 'LIMIT', 0, limit + 1])) as string[][]
    const members = found.flat().sort().reverse()
    const wanted = members.slice(0, limit)
    const hashes = await this.#batch(wanted.map(member => ['HGETALL', this.#key(idOf(member))])) as (string[] | Record<string, string>)[]
    const entries = wanted.map((member, index) => ({ member, entry: fromHash(idOf(member), asRecord(hashes[index]!)) }))
    await this.#forget(entries.flatMap(({ member, entry }) => entry ? [] : [member]), lists)
    const items = entries.flatMap(({ entry }) => entry ?? [])
    return { items, ...(members.length > limit ? { nextCursor: wanted.at(-1)! } : {}) }
  }

  async drop (id: string): Promise<void> {
    this.#believed.delete(id)
    const entry = await this.#look(id)
    if (!entry) return
    const member = memberOf(id, entry.createdAt)
    await this.#redis.run(client => client.multi().del(this.#key(id)).zrem(this.#listKey(), member).zrem(this.#listKey(entry.pool), member).exec())
  }

  async fade (id: string): Promise<void> {
    await this.#redis.run(async client => {
      if (await client.ttl(this.#key(id)) === -1) await client.expire(this.#key(id), fadeSeconds)
    })
  }

  async #look (id: string): Promise<PlacedSandbox | undefined> {
    return fromHash(id, await this.#redis.run(client => client.hgetall(this.#key(id))))
  }

  /** Takes what has faded off the lists. */
  async #forget (members: string[], lists: string[]): Promise<void> {
    if (members.length > 0) await this.#batch([...new Set([this.#listKey(), ...lists])].map(list => ['ZREM', list, ...members]))
  }

  async #batch (commands: RedisCommand[]): Promise<unknown[]> {
    return commands.length === 0 ? [] : await this.#redis.run(client => runBatch(client, commands))
  }

  #key (id: string): string {
    return `${this.#redis.prefix}:{berth}:sandbox:${id}`
  }

  #listKey (pool?: string): string {
    return `${this.#redis.prefix}:{berth}:sandboxes${pool === undefined ? '' : `:${pool}`}`
  }
}

function memberOf (id: string, createdAt: string): string {
  return `${String(Date.parse(createdAt)).padStart(14, '0')}:${id}`
}

function idOf (member: string): string {
  return member.slice(member.indexOf(':') + 1)
}

/** By `call`, a hash comes as the list that Redis sends. */
function asRecord (answer: string[] | Record<string, string>): Record<string, string> {
  if (!Array.isArray(answer)) return answer
  return Object.fromEntries(Array.from({ length: answer.length >> 1 }, (_, index) => [answer[2 * index]!, answer[2 * index + 1]!]))
}

function fromHash (id: string, { workerId, pool, createdAt, labels }: Record<string, string>): PlacedSandbox | undefined {
  if (workerId === undefined || pool === undefined || createdAt === undefined) return undefined
  return { id, workerId, pool, createdAt, labels: JSON.parse(labels ?? '{}') as Record<string, string> }
}
