/**
 * What changes workers on Redis, each in one step. A worker is a hash; the sorted set of its pool says when each was last heard of.
 * The time is that of Redis, so that gateways need not agree on theirs.
 */
import { FleetScript } from './fleet-script.ts'

const now = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/**
 * KEYS: worker, pools, workers of its pool, workers of the pool it was in. ARGV: id, pool, ms to keep it, then fields and values.
 * What was wished of it and when it first came stays.
 */
export const registerScript = new FleetScript(`${now}
if KEYS[4] ~= KEYS[3] then redis.call('ZREM', KEYS[4], ARGV[1]) end
redis.call('HSETNX', KEYS[1], 'registeredAt', now)
redis.call('HSET', KEYS[1], 'pool', ARGV[2], 'lastSeenAt', now, unpack(ARGV, 4))
redis.call('HDEL', KEYS[1], 'reservedCpu', 'reservedMemory', 'isOutdated')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], now, ARGV[1])
return 1
`)

/**
 * KEYS: worker, workers of its pool. ARGV: id, pool, ms to keep it, then fields and values.
 * Answers the wish and its number; nothing when there is no such worker, or it is to register again; its pool when that is another.
 */
export const heartbeatScript = new FleetScript(`
local facts = redis.call('HMGET', KEYS[1], 'pool', 'wish', 'wishNumber', 'isOutdated')
if not facts[1] or facts[4] then return false end
if facts[1] ~= ARGV[2] then return { facts[1] } end
${now}
redis.call('HSET', KEYS[1], 'lastSeenAt', now, unpack(ARGV, 4))
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
 * KEYS: worker, workers of its pool. ARGV: id, ms without a word after which it may go, or -1: whenever it was heard of.
 * Answers -1 when there is none, 0 when it is still heard of, 1 when it is gone.
 */
export const removeScript = new FleetScript(`${now}
local seen = redis.call('HGET', KEYS[1], 'lastSeenAt')
if not seen then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return -1
end
local limit = tonumber(ARGV[2])
if limit >= 0 and now - seen <= limit then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
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
