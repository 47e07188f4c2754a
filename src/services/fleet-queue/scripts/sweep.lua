-- ARGV: time, who sweeps. Of all who do, one is the timekeeper, as long as it comes often enough: it is told when to come again so that
-- nothing waits; the others see whether there still is one.
-- Answers {1 if it is the timekeeper, milliseconds until there is more to do or -1}.
local timekeeperMs = 3000
local timekeeper = redis.call('GET', base .. 'timekeeper')
if not timekeeper or timekeeper == ARGV[2] then
  timekeeper = ARGV[2]
  redis.call('SET', base .. 'timekeeper', timekeeper, 'PX', timekeeperMs)
end
attend()
promote(200)

-- Each lapse is told once; whoever claims then takes the task back.
local told = tonumber(redis.call('HGET', base .. 'clock', 'lapsesTold')) or 0
if told > now then told = 0 end
local lapsed = redis.call('ZRANGEBYSCORE', base .. 'leases', '(' .. int(told), now, 'WITHSCORES', 'LIMIT', 0, 100)
for index = 1, #lapsed, 2 do
  local pool = redis.call('HGET', base .. 'task:' .. lapsed[index], 'pool')
  if pool then tellAvailable(pool, 1) end
  told = tonumber(lapsed[index + 1])
end
if #lapsed > 0 then redis.call('HSET', base .. 'clock', 'lapsesTold', int(told)) end
sendNews()

local due = tonumber(redis.call('ZRANGE', base .. 'delayed', 0, 0, 'WITHSCORES')[2])
local lapse = tonumber(redis.call('ZRANGEBYSCORE', base .. 'leases', '(' .. int(told), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
local nextAt = math.min(due or math.huge, lapse or math.huge)
return { timekeeper == ARGV[2] and 1 or 0, nextAt == math.huge and -1 or math.max(0, nextAt - now) }
