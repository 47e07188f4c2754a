/** A connection to a Redis that is not there. */
import { BerthError } from '../../../../src/errors.ts'
import type { RedisConnection } from '../../../../src/services/redis/redis-types.ts'

export function absentRedis (): RedisConnection {
  const away = async (): Promise<never> => { throw new BerthError('unavailable', 'redis_unavailable', 'Redis does not serve') }
  return { prefix: 'test', isReady: false, client: { defineCommand: () => {} } as never, run: away, another: () => { throw new Error('not here') }, onReady: () => () => {}, close: async () => {} }
}
