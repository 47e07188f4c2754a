-- ARGV: time, how long ended tasks are kept. Answers how many were forgotten.
local ids = redis.call('ZRANGEBYSCORE', base .. 'ended', '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, 100)
for _, id in ipairs(ids) do forget(id) end
return #ids
