import type { RedisConnection } from '../redis/redis-types.ts'

/** Longer than the work of a round takes, with pauses of a process. */
const heldMs = 6000

/** KEYS turn  ARGV holder, ms → 1: it is the holder's, for that long from now */
const take = `
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`

/** KEYS turn  ARGV holder */
const giveBack = `
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1`

/** Who works on a list at the moment. It saves work and nothing else: two who both believe that it is their turn do no harm. */
export class IntakeTurn {
  readonly #options: { redis: RedisConnection, key: string, holder: string }

  constructor (options: { redis: RedisConnection, key: string, holder: string }) {
    this.#options = options
  }

  /** Takes it, or keeps it. */
  async take (): Promise<boolean> {
    const { redis, key, holder } = this.#options
    return await redis.run(client => client.eval(take, 1, key, holder, heldMs)) === 1
  }

  /** How long to wait before asking again, ms: not all at once. */
  pauseMs (): number {
    return heldMs / 4 + Math.random() * heldMs / 4
  }

  /** Lets another have it at once; without a connection it lapses. */
  async giveBack (): Promise<void> {
    const { redis, key, holder } = this.#options
    if (redis.isReady) await redis.run(client => client.eval(giveBack, 1, key, holder)).catch(() => undefined)
  }
}
