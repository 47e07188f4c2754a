/** What was asked for with an Idempotency-Key, and where it was placed: so that a repeat goes to the same host, or gets the first answer. */
import { randomUUID } from 'node:crypto'
import { BerthError } from '../../errors.ts'
import type { RedisConnection } from '../../services/redis/redis-types.ts'

export interface PlacementRecord {
  workerId: string
  bodyHash: string
  /** The sandbox as it was first answered, in JSON. */
  answer?: string
}

export interface PlacementKeys {
  /**
   * Keeps others from working on the key. Answers how to let go of it.
   * @throws BerthError conflict `idempotency_in_progress`.
   */
  hold: (key: string) => Promise<() => Promise<void>>
  read: (key: string) => Promise<PlacementRecord | undefined>
  write: (key: string, record: PlacementRecord) => Promise<void>
  forget: (key: string) => Promise<void>
}

const keepMs = 24 * 3600 * 1000
/** Of a gateway that died: its key is free again after so long. */
const holdMs = 15_000
const renewMs = 5000

/** Only who holds it. */
const ifMine = (command: string) => `if redis.call('GET', KEYS[1]) == ARGV[1] then return ${command} end return 0`
const renewScript = ifMine("redis.call('PEXPIRE', KEYS[1], ARGV[2])")
const releaseScript = ifMine("redis.call('DEL', KEYS[1])")

/** In Redis: `<prefix>:{berth}:placement:<key>`, JSON, for 24 h; and with `:hold` behind it, who works on it. */
export class RedisPlacementKeys implements PlacementKeys {
  readonly #redis: RedisConnection

  constructor (redis: RedisConnection) {
    this.#redis = redis
  }

  async hold (key: string): Promise<() => Promise<void>> {
    const place = `${this.#key(key)}:hold`
    const mark = randomUUID()
    if (await this.#redis.run(client => client.set(place, mark, 'PX', holdMs, 'NX')) === null) {
      throw new BerthError('conflict', 'idempotency_in_progress', 'the first request with this Idempotency-Key is still running; repeat this one later to get its answer')
    }
    const timer = setInterval(() => {
      // Without Redis it lapses; the host itself still knows the key.
      this.#redis.run(client => client.eval(renewScript, 1, place, mark, holdMs)).catch(() => {})
    }, renewMs)
    return async () => {
      clearInterval(timer)
      await this.#redis.run(client => client.eval(releaseScript, 1, place, mark)).catch(() => {})
    }
  }

  async read (key: string): Promise<PlacementRecord | undefined> {
    const text = await this.#redis.run(client => client.get(this.#key(key)))
    return text === null ? undefined : JSON.parse(text) as PlacementRecord
  }

  async write (key: string, record: PlacementRecord): Promise<void> {
    await this.#redis.run(client => client.set(this.#key(key), JSON.stringify(record), 'PX', keepMs))
  }

  async forget (key: string): Promise<void> {
    await this.#redis.run(client => client.del(this.#key(key)))
  }

  #key (key: string): string {
    return `${this.#redis.prefix}:{berth}:placement:${key}`
  }
}
