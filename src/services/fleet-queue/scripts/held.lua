-- ARGV: time, owner, lease. Answers {leaseUntil, tasks…}.
local held = base .. 'held:' .. ARGV[2]
local leaseUntil = now + tonumber(ARGV[3])
local claims = { int(leaseUntil) }
for _, id in ipairs(redis.call('ZRANGE', held, 0, -1)) do
  if redis.call('HGET', base .. 'task:' .. id, 'owner') == ARGV[2] then
    redis.call('ZADD', base .. 'leases', leaseUntil, id)
    claims[#claims + 1] = record(id)
  else
    redis.call('ZREM', held, id)
  end
end
return claims
