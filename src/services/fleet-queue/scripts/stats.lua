-- ARGV: time. Answers of each pool: name, delayed, due, scheduled, running, dead, since when the oldest is due or nothing.
promote(500)
sendNews()
local pools = {}
for _, pool in ipairs(redis.call('SMEMBERS', base .. 'pools')) do
  local counts = redis.call('HMGET', base .. 'counts:' .. pool, 'delayed', 'scheduled', 'running', 'dead')
  for index = 1, 4 do counts[index] = tonumber(counts[index]) or 0 end
  local due = redis.call('ZCARD', base .. 'due:' .. pool)
  local oldest = redis.call('ZRANGE', base .. 'due:' .. pool, 0, 0, 'WITHSCORES')[2]
  if due + counts[1] + counts[2] + counts[3] + counts[4] == 0 then
    redis.call('SREM', base .. 'pools', pool)
    redis.call('DEL', base .. 'counts:' .. pool)
    redis.call('HDEL', base .. 'told', pool, 'listeners:' .. pool)
  else
    pools[#pools + 1] = { pool, counts[1], due, counts[2], counts[3], counts[4], oldest and int(tonumber(oldest)) or '' }
  end
end
return pools
