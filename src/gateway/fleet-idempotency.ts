import { createHash } from 'node:crypto'
import { BerthError } from '../errors.ts'
import type { IdempotencyKeys, IdempotentRequest, KeptAnswer, KeyState } from '../routes/idempotency.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import { FleetScript } from './fleet-script.ts'

const keepMs = 24 * 3_600_000
/** A request under way holds its key for so long unless it says again that it lives; a gateway that died frees it so. */
const holdMs = 30_000
const renewEveryMs = 10_000
/** Larger answers are not kept: a day of them would fill Redis. */
const maxBodyBytes = 256 * 1024

interface Entry {
  /** Digest of method, path and body. */
  asked: string
  /** Names the request that holds the key, while it is under way. */
  holder?: string
  answer?: KeptAnswer
  /** Of an answer that was too large to keep. */
  status?: number
}

/** KEYS: key. ARGV: holder, entry, ms. Replaces or removes (ms 0) the entry of a request that still holds its key. */
const settleScript = new FleetScript(`
local entry = redis.call('GET', KEYS[1])
if not entry or cjson.decode(entry).holder ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
`)

/** Answers to requests with an Idempotency-Key, for all gateways: whichever one a repeated request reaches, it is answered and not carried out again. */
export class FleetIdempotency implements IdempotencyKeys {
  readonly #redis: RedisConnection
  readonly #instanceId: string
  readonly #held = new Map<IdempotentRequest, { place: string, holder: string, entry: Entry }>()
  readonly #timer: NodeJS.Timeout
  #count = 0

  constructor ({ redis, instanceId }: { redis: RedisConnection, instanceId: string }) {
    this.#redis = redis
    this.#instanceId = instanceId
    this.#timer = setInterval(() => { void this.#renew() }, renewEveryMs).unref()
  }

  async begin (request: IdempotentRequest): Promise<KeyState> {
    const { tokenId, key, method, path, bodyHash } = request
    const place = `${this.#redis.prefix}:{berth}:idempotency:${digest(`${tokenId}\n${key}`)}`
    const holder = `${this.#instanceId}:${++this.#count}`
    const entry: Entry = { asked: digest(`${method}\n${path}\n${bodyHash}`), holder }
    const isNew = await this.#redis.run(client => client.set(place, JSON.stringify(entry), 'PX', holdMs, 'NX'))
    if (isNew !== null) {
      this.#held.set(request, { place, holder, entry })
      return { state: 'new' }
    }
    const text = await this.#redis.run(client => client.get(place))
    const known = text === null ? undefined : JSON.parse(text) as Entry
    if (known && known.asked !== entry.asked) {
      throw new BerthError('conflict', 'idempotency_key_reused', 'this Idempotency-Key was used for a different request; take a new key for each request')
    }
    if (known?.answer) return { state: 'replay', ...known.answer }
    if (known?.status !== undefined) {
      throw new BerthError('conflict', 'idempotency_answer_not_kept', 'the first request with this Idempotency-Key was carried out, but its answer was too large to keep', { details: { status: known.status } })
    }
    throw new BerthError('conflict', 'idempotency_in_progress', 'the first request with this Idempotency-Key is still running; repeat this one later to get its answer')
  }

  async complete (request: IdempotentRequest, answer: KeptAnswer): Promise<void> {
    const held = this.#held.get(request)
    if (!held) return
    this.#held.delete(request)
    const { asked } = held.entry
    const kept: Entry = Buffer.byteLength(answer.body) > maxBodyBytes ? { asked, status: answer.status } : { asked, answer }
    // It was carried out: that Redis went away before it could be written down is no failure of the request.
    await settleScript.run(this.#redis, [held.place], [held.holder, JSON.stringify(kept), keepMs]).catch(() => {})
  }

  async abandon (request: IdempotentRequest): Promise<void> {
    const held = this.#held.get(request)
    if (!held) return
    this.#held.delete(request)
    // Its time would free it as well.
    await settleScript.run(this.#redis, [held.place], [held.holder, '', 0]).catch(() => {})
  }

  close (): void {
    clearInterval(this.#timer)
  }

  async #renew (): Promise<void> {
    for (const { place, holder, entry } of [...this.#held.values()]) {
      await settleScript.run(this.#redis, [place], [holder, JSON.stringify(entry), holdMs]).catch(() => {})
    }
  }
}

function digest (text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
