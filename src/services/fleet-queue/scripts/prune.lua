-- ARGV: time, how long ended tasks are kept. Answers how many were forgotten.
local ids = redis.call('ZRANGEBYSCORE', base .. 'ended', '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, 100)
local isSomeUntold = redis.call('EXISTS', base .. 'untold') == 1
local forgotten = 0

-- Without its record nobody could tell how it ended.
local function isUntold (id)
  local task = isSomeUntold and findCore(id)
  return task and redis.call('SISMEMBER', base .. 'untold', untoldName(task)) == 1
end

for _, id in ipairs(ids) do
  if isUntold(id) then
    redis.call('ZADD', base .. 'ended', now, id)
  else
    forget(id)
    forgotten = forgotten + 1
  end
end
return forgotten
