-- ARGV: time, request (JSON: see ClaimRequest), limits of labels (JSON: an object of {max, values} by label), reserveAfterMs, maxReturns.
-- Answers {leaseUntil, tasks…}.
local request = cjson.decode(ARGV[2])
local limits = cjson.decode(ARGV[3])
local reserveAfterMs, maxReturns = tonumber(ARGV[4]), tonumber(ARGV[5])
local owner, room, capacity = request.owner, request.room, request.capacity
local dueBatch, lapseBatch = 200, 100
-- Mostly the first will do; where it will not, more are looked at with each step.
local firstPage, longestPage = 1, 64

local function takeBackLapsed ()
  local own, taken = 0, 0
  while taken < lapseBatch and own < 10 * lapseBatch do
    local ids = redis.call('ZRANGEBYSCORE', base .. 'leases', '-inf', now, 'LIMIT', own, lapseBatch)
    for _, id in ipairs(ids) do
      local task = find(id)
      if not task or not task.owner then
        redis.call('ZREM', base .. 'leases', id)
      elseif task.owner == owner then
        own = own + 1
      else
        giveBack(task, 0, true, 'the lease of host ' .. task.owner .. ' lapsed', maxReturns)
        if task.endedAt then noteUntold(task) end
        save(task)
        taken = taken + 1
      end
    end
    if #ids < lapseBatch then return end
  end
end

local function fits (lane, space)
  return lane.cpuMillis <= space.cpuMillis and lane.memoryBytes <= space.memoryBytes
end

local function isLimited (lane)
  for _, label in ipairs(lane.buckets) do
    local limit = limits[label[1]]
    local max = limit and (limit.values[label[2]] or limit.max)
    if max and (tonumber(redis.call('HGET', base .. 'buckets', bucketOf(label))) or 0) >= max then return true end
  end
  return false
end

local function isMeantForUs (lane)
  for _, label in ipairs(lane.hostLabels) do
    if request.labels[label[1]] ~= label[2] then return false end
  end
  return true
end

-- The lane of a value with the oldest task that this claim may have, or for which room is to be kept.
local function turnOf (row, fair)
  local key, from, page = base .. 'value:' .. row .. ':' .. fair, 0, firstPage
  while true do
    local found = redis.call('ZRANGE', key, from, from + page - 1, 'WITHSCORES')
    for index = 1, #found, 2 do
      local lane = laneOf(found[index])
      if fits(lane, capacity) and isMeantForUs(lane) and not isLimited(lane) then
        local hasRoom = fits(lane, room)
        local head = redis.call('ZRANGE', lane.dueKey, 0, 0)[1]
        local dueAt = not hasRoom and tonumber(redis.call('ZSCORE', base .. 'due:' .. lane.pool, head)) or now
        if hasRoom or now - dueAt > reserveAfterMs then return { lane = lane, id = head, seq = tonumber(found[index + 1]), isReserved = not hasRoom } end
      end
    end
    if #found < 2 * page then return nil end
    from, page = from + page, math.min(4 * page, longestPage)
  end
end

local function firstOfRow (row)
  local key, from, page = base .. 'row:' .. row, 0, firstPage
  while true do
    local found = redis.call('ZRANGE', key, from, from + page - 1, 'WITHSCORES')
    for index = 1, #found, 2 do
      local turn = turnOf(row, found[index])
      if turn then
        turn.rank = tonumber(found[index + 1])
        return turn
      end
    end
    if #found < 2 * page then return nil end
    from, page = from + page, math.min(4 * page, longestPage)
  end
end

local function nextOf (priority)
  local best
  for _, pool in ipairs(request.pools) do
    local turn = firstOfRow(pool .. ':' .. priority)
    if turn and (not best or turn.rank < best.rank or (turn.rank == best.rank and turn.seq < best.seq)) then best = turn end
  end
  return best
end

local function priorities ()
  local known, sorted = {}, {}
  for _, pool in ipairs(request.pools) do
    for _, priority in ipairs(redis.call('ZRANGE', base .. 'prio:' .. pool, 0, -1)) do
      if not known[priority] then sorted[#sorted + 1] = priority end
      known[priority] = true
    end
  end
  table.sort(sorted, function (a, b) return tonumber(a) > tonumber(b) end)
  return sorted
end

local leaseUntil = now + request.leaseMs
local claims = { int(leaseUntil) }

local function take (turn)
  local task = findCore(turn.id)
  if not task then return removeDue(turn.lane, turn.id) end
  deliver(task, owner, leaseUntil)
  save(task)
  room.cpuMillis = room.cpuMillis - turn.lane.cpuMillis
  room.memoryBytes = room.memoryBytes - turn.lane.memoryBytes
  claims[#claims + 1] = record(turn.id)
end

local function takeAll ()
  for _, priority in ipairs(priorities()) do
    while true do
      if #claims > request.limit then return end
      local turn = nextOf(priority)
      if not turn then break end
      -- Nothing of its own or a lower priority goes before it.
      if turn.isReserved then return end
      take(turn)
    end
  end
end

local returned = attend()
promote(dueBatch)
if not returned or now < returned or now - returned >= request.leaseMs then takeBackLapsed() end
takeAll()
sendNews()
return claims
