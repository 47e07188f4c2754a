import { createHash } from 'node:crypto'
import type { RedisConnection } from '../services/redis/redis-types.ts'

/** A Lua script: one atomic step on Redis. It is sent whole only to a server that does not know it yet. All its keys are in one hash slot. */
export class FleetScript {
  readonly #text: string
  readonly #sha: string

  constructor (text: string) {
    this.#text = text
    this.#sha = createHash('sha1').update(text).digest('hex')
  }

  /** @throws BerthError unavailable `redis_unavailable`; then it may have been carried out. */
  async run (redis: Pick<RedisConnection, 'run'>, keys: readonly string[], values: ReadonlyArray<string | number> = []): Promise<unknown> {
    return await redis.run(async client => {
      try {
        return await client.evalsha(this.#sha, keys.length, ...keys, ...values)
      } catch (error) {
        if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
        return await client.eval(this.#text, keys.length, ...keys, ...values)
      }
    })
  }
}
