/**
 * What changes workers on Redis, each in one step. A worker is a hash; the sorted set of its pool says when each was last heard of.
 * The time is that of Redis, so that gateways need not agree on theirs.
 */
import { FleetScript } from './fleet-script.ts'

const now = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/** By one token, within the time for which a worker is kept. Far above any fleet, and far below what would fill Redis. */
const maxWorkersOfToken = 10_000

/**
 * KEYS: worker, pools, workers of its pool, workers of the pool it was in, token that it came by, workers that came by this token.
 * ARGV: id, pool, ms to keep it, token, token in whose place it may come or `*`, ms to remember the token, then fields and values.
 * Answers 1, or 0: too many came by this token, or the other token that it came by. What was wished of it and when it first came stays.
 */
export const registerScript = new FleetScript(`${now}
local owner = redis.call('GET', KEYS[5])
if owner and owner ~= ARGV[4] and owner ~= ARGV[5] and ARGV[5] ~= '*' then return owner end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now - ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 0 and not redis.call('ZSCORE', KEYS[6], ARGV[1]) and redis.call('ZCARD', KEYS[6]) >= ${maxWorkersOfToken} then return 0 end
redis.call('ZADD', KEYS[6], now, ARGV[1])
redis.call('PEXPIRE', KEYS[6], ARGV[3])
redis.call('SET', KEYS[5], ARGV[4], 'PX', ARGV[6])
if KEYS[4] ~= KEYS[3] then redis.call('ZREM', KEYS[4], ARGV[1]) end
redis.call('HSETNX', KEYS[1], 'registeredAt', now)
redis.call('HSET', KEYS[1], 'pool', ARGV[2], 'lastSeenAt', now, unpack(ARGV, 7))
redis.call('HDEL', KEYS[1], 'reservedCpu', 'reservedMemory', 'isOutdated')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], now, ARGV[1])
return 1
`)

/**
 * KEYS: worker, workers of its pool, token that it came by. ARGV: id, pool, ms to keep it, token or `*`, ms to remember it, then fields
 * and values. Answers the wish and its number; nothing when this token has no such worker, or it is to register again; its pool when
 * that is another.
 */
export const heartbeatScript = new FleetScript(`
local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[4] and ARGV[4] ~= '*' then return false end
local facts = redis.call('HMGET', KEYS[1], 'pool', 'wish', 'wishNumber', 'isOutdated')
if not facts[1] or facts[4] then return false end
if facts[1] ~= ARGV[2] then return { facts[1] } end
${now}
redis.call('HSET', KEYS[1], 'lastSeenAt', now, unpack(ARGV, 6))
redis.call('PEXPIRE', KEYS[3], ARGV[5])
redis.call('HDEL', KEYS[1], 'reservedCpu', 'reservedMemory')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return { facts[1], facts[2] or '', facts[3] or '0' }
`)

/** KEYS: worker. ARGV: fields and values. Answers whether there is such a worker; none is made. */
export const changeScript = new FleetScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
`)

/**
 * KEYS: worker. ARGV: wish. Answers its number, or nothing when there is no such worker.
 * The number begins from the time: a worker that left and came back has heard no number that is given to it.
 */
export const wishScript = new FleetScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
${now}
local number = math.max(now, (tonumber(redis.call('HGET', KEYS[1], 'wishNumber')) or 0) + 1)
redis.call('HSET', KEYS[1], 'wish', ARGV[1], 'wishNumber', string.format('%.0f', number))
return number
`)

/** KEYS: worker. ARGV: thousandths of a core, bytes. */
export const reserveScript = new FleetScript(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'reservedCpu', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'reservedMemory', ARGV[2])
return 1
`)

/**
 * KEYS: worker, workers of its pool, token that it came by. ARGV: id, ms without a word after which it may go, or -1: whenever it was
 * heard of, and then its token keeps its name for it. Answers -1 when there is none, 0 when it is still heard of, 1 when it is gone.
 */
export const removeScript = new FleetScript(`${now}
local seen = redis.call('HGET', KEYS[1], 'lastSeenAt')
local limit = tonumber(ARGV[2])
if not seen then
  redis.call('ZREM', KEYS[2], ARGV[1])
  if limit >= 0 then redis.call('DEL', KEYS[3]) end
  return -1
end
if limit >= 0 and now - seen <= limit then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if limit >= 0 then redis.call('DEL', KEYS[3]) end
return 1
`)

/** KEYS: pools, then the workers of each. ARGV: ms to keep one, then each pool. Answers the time and the ids; forgets what is too old, and empty pools. */
export const rollScript = new FleetScript(`${now}
local ids = {}
for i = 2, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now - ARGV[1])
  local found = redis.call('ZRANGE', KEYS[i], 0, -1)
  if #found == 0 then redis.call('SREM', KEYS[1], ARGV[i]) end
  for _, id in ipairs(found) do ids[#ids + 1] = id end
end
return { now, ids }
`)
