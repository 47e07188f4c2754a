-- ARGV: time, index, first and last seq as ZREVRANGEBYSCORE takes them, filter (JSON), how many are wanted.
-- Looks at a bounded number of tasks. Answers {seq of the last one looked at, or nothing where there are no more, tasks…}.
local page = 250
local filter, wanted = cjson.decode(ARGV[5]), tonumber(ARGV[6])

local function matches (id)
  local status, pool, isDead, labels = unpack(redis.call('HMGET', base .. 'task:' .. id, 'status', 'pool', 'isDead', 'labels'))
  if not status or (filter.status and not filter.status[status]) then return false end
  for _, pools in ipairs(filter.pools) do
    if not pools[pool] then return false end
  end
  if filter.isDeadLetter ~= nil and filter.isDeadLetter ~= (isDead ~= false) then return false end
  if #filter.labels == 0 then return true end
  local has = cjson.decode(labels or '{}')
  for _, label in ipairs(filter.labels) do
    if has[label[1]] ~= label[2] then return false end
  end
  return true
end

local found = redis.call('ZREVRANGEBYSCORE', base .. ARGV[2], ARGV[3], ARGV[4], 'WITHSCORES', 'LIMIT', 0, page)
local answer = { #found < 2 * page and '' or int(tonumber(found[#found])) }
for index = 1, #found, 2 do
  if matches(found[index]) then answer[#answer + 1] = record(found[index]) end
  if #answer > wanted then
    answer[1] = int(tonumber(found[index + 1]))
    return answer
  end
end
return answer
