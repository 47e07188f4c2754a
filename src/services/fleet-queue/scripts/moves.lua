-- What becomes of a task: the rules of task-moves.ts, with what is known about all tasks changed in the same step.

-- Deliveries that a task remembers; of more, those that did not count go first, then the oldest.
local maxKeptAttempts = 200
-- What nearly every move asks for, and what few do.
local coreFields = { 'seq', 'pool', 'lane', 'status', 'owner', 'history', 'attempt', 'fence', 'kept' }
local otherFields = { 'cancelAt', 'endedAt', 'isDead', 'lastAttempt', 'maxAttempts', 'used', 'faults', 'backoffMs', 'maxBackoffMs' }
local isText = { pool = true, lane = true, status = true, owner = true, history = true }
-- These may be missing.
local isOptional = { cancelAt = true, endedAt = true, isDead = true }

local function read (task, fields)
  local values = redis.call('HMGET', task.key, unpack(fields))
  for index, field in ipairs(fields) do
    local value = values[index] or nil
    if isText[field] then
      if value ~= '' then task[field] = value end
    else
      task[field] = tonumber(value) or (not isOptional[field] and 0 or nil)
    end
  end
end

local function findCore (id)
  local task = { id = id, key = base .. 'task:' .. id, edits = {} }
  read(task, coreFields)
  return task.lane and task
end

local function find (id)
  local task = findCore(id)
  if task then read(task, otherFields) end
  return task
end

local function record (id)
  return redis.call('HGETALL', base .. 'task:' .. id)
end

-- `value` nil: without it.
local function set (task, field, value)
  task[field] = value
  if value == nil then task.edits[field] = false else task.edits[field] = value end
end

local function save (task)
  local written, dropped = {}, {}
  for field, value in pairs(task.edits) do
    if value == false then
      dropped[#dropped + 1] = field
    else
      written[#written + 1] = field
      written[#written + 1] = type(value) == 'number' and int(value) or value
    end
  end
  if #written > 0 then redis.call('HSET', task.key, unpack(written)) end
  if #dropped > 0 then redis.call('HDEL', task.key, unpack(dropped)) end
  task.edits = {}
  tellChanged(task.id)
end

local function count (task, place, by)
  redis.call('HINCRBY', base .. 'counts:' .. task.pool, place, by)
end

-- Tasks of a status are found without those of others; those that are complete are the most, and need it least.
local indexOf = {
  pending = 'status:pending', scheduled = 'status:claimed', running = 'status:claimed', failed = 'status:failed', cancelled = 'status:cancelled',
}

-- `why`: members of a JSON object, for the history; empty: none.
local function setStatus (task, status, attempt, why)
  local from, to = indexOf[task.status], indexOf[status]
  if from ~= to then
    if from then redis.call('ZREM', base .. from, task.id) end
    if to then redis.call('ZADD', base .. to, task.seq, task.id) end
  end
  local change = '{"at":' .. int(now) .. ',"status":"' .. status .. '","attempt":' .. int(attempt) .. (why ~= '' and ',' .. why or '') .. '}'
  set(task, 'history', task.history and task.history .. ',' .. change or change)
  set(task, 'status', status)
end

local function tellNextDue (id, at)
  if redis.call('ZRANK', base .. 'delayed', id) == 0 then redis.call('PUBLISH', base .. 'due:timekeeper', int(at)) end
end

-- Among those that wait.
local function enqueue (task, availableAt)
  set(task, 'availableAt', availableAt)
  redis.call('SADD', base .. 'pools', task.pool)
  if availableAt <= now then
    addDue(laneOf(task.lane), task.id, task.seq, availableAt)
    tellAvailable(task.pool, 1)
  else
    redis.call('ZADD', base .. 'delayed', availableAt, task.id)
    count(task, 'delayed', 1)
    tellNextDue(task.id, availableAt)
  end
end

local function dequeue (task)
  if redis.call('ZREM', base .. 'delayed', task.id) == 1 then count(task, 'delayed', -1)
  else removeDue(laneOf(task.lane), task.id) end
end

-- Makes delayed tasks due whose time has come, so many at most.
local function promote (limit)
  local found = redis.call('ZRANGEBYSCORE', base .. 'delayed', '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
  for index = 1, #found, 2 do
    local id = found[index]
    redis.call('ZREM', base .. 'delayed', id)
    local seq, lane, pool = unpack(redis.call('HMGET', base .. 'task:' .. id, 'seq', 'lane', 'pool'))
    if seq then
      redis.call('HINCRBY', base .. 'counts:' .. pool, 'delayed', -1)
      addDue(laneOf(lane), id, tonumber(seq), tonumber(found[index + 1]))
      tellAvailable(pool, 1)
    end
  end
end

local function dropAttempt (task)
  local oldest, returned
  for _, field in ipairs(redis.call('HKEYS', task.key)) do
    local fence = tonumber(field:match('^a:(%d+)$'))
    if fence then
      if not oldest or fence < oldest then oldest = fence end
      if (not returned or fence < returned) and (redis.call('HGET', task.key, 'e:' .. int(fence)) or ''):match('^returned ') then returned = fence end
    end
  end
  local fence = int(returned or oldest)
  for _, part in ipairs({ 'a:', 'f:', 'e:' }) do set(task, part .. fence, nil) end
  set(task, 'kept', task.kept - 1)
end

local function deliver (task, owner, leaseUntil)
  local lane = laneOf(task.lane)
  removeDue(lane, task.id)
  redis.call('ZADD', base .. 'leases', leaseUntil, task.id)
  redis.call('ZADD', base .. 'held:' .. owner, task.seq, task.id)
  count(task, 'scheduled', 1)
  addClaimed(lane, 1, serve(lane.fair))
  setStatus(task, 'scheduled', task.attempt, '')
  set(task, 'fence', task.fence + 1)
  set(task, 'owner', owner)
  if task.kept >= maxKeptAttempts then dropAttempt(task) end
  set(task, 'kept', task.kept + 1)
  set(task, 'a:' .. int(task.fence), '{"number":' .. int(task.attempt) .. ',"workerId":' .. cjson.encode(owner) ..
    ',"claimedAt":' .. int(now) .. ',"fence":' .. int(task.fence) .. '}')
end

local function letGo (task)
  redis.call('ZREM', base .. 'leases', task.id)
  redis.call('ZREM', base .. 'held:' .. task.owner, task.id)
  count(task, task.status, -1)
  local lane = laneOf(task.lane)
  addClaimed(lane, -1)
  set(task, 'owner', '')
  if #lane.buckets == 0 then return end
  -- It may have been this one that others waited for.
  for _, pool in ipairs(redis.call('SMEMBERS', base .. 'pools')) do
    if redis.call('EXISTS', base .. 'due:' .. pool) == 1 then tellAvailable(pool, 0) end
  end
end

-- How the delivery under way ended.
local function endAttempt (task, status, endedAt, ending)
  set(task, 'e:' .. int(task.fence), status .. ' ' .. int(endedAt) .. ' ' .. ending)
end

-- `ending`: JSON; `reason`: the one that it has.
local function conclude (task, status, ending, reason, endedAt, why)
  setStatus(task, status, task.attempt, why)
  set(task, 'end', ending)
  set(task, 'endedAt', endedAt)
  redis.call('ZADD', base .. 'ended', now, task.id)
  if status ~= 'failed' or (task.attempt == 1 and reason ~= 'setup_failed' and reason ~= 'undeliverable') then return end
  set(task, 'isDead', 1)
  count(task, 'dead', 1)
  redis.call('ZADD', base .. 'dead', task.seq, task.id)
end

-- Members of a JSON object. `message` may be empty.
local function words (reason, message)
  return '"reason":"' .. reason .. '"' .. (message ~= '' and ',"message":' .. cjson.encode(message) or '')
end

local function endingHere (reason, message)
  return '{"at":' .. int(now) .. ',' .. words(reason, message) .. '}'
end

local function untoldName (task)
  return task.id .. ' ' .. int(task.fence)
end

-- Ended where no host has it, which would tell its producer.
local function noteUntold (task)
  local spec = redis.call('HGET', task.key, 'spec') or ''
  if not spec:find('"externalId"', 1, true) then return end
  local fleet = cjson.decode(spec).fleet
  if type(fleet) == 'table' and fleet.externalId then redis.call('SADD', base .. 'untold', untoldName(task)) end
end

local function cancelWaiting (task)
  dequeue(task)
  noteUntold(task)
  set(task, 'cancelAt', now)
  conclude(task, 'cancelled', endingHere('cancelled', ''), 'cancelled', now, words('cancelled', ''))
end

local function giveBack (task, delayMs, isFault, message, maxReturns)
  local reason = isFault and 'lost' or 'drained'
  local why = words(reason, message)
  endAttempt(task, 'returned', now, endingHere(reason, message))
  letGo(task)
  if isFault then set(task, 'faults', task.faults + 1) end
  if task.cancelAt then
    conclude(task, 'cancelled', endingHere('cancelled', message), 'cancelled', now, why)
  elseif task.faults < maxReturns then
    setStatus(task, 'pending', task.attempt, why)
    enqueue(task, now + delayMs)
  else
    local sum = 'handed out ' .. int(task.faults) .. ' times without being run to an end'
    conclude(task, 'failed', endingHere('undeliverable', message ~= '' and sum .. '; at last: ' .. message or sum), 'undeliverable', now, why)
  end
end

-- The delivery that a claim names, if it is under way; `look`: find or findCore.
local function claimed (look, id, fence)
  local task = look(id)
  if task and task.owner and task.fence == tonumber(fence) then return task end
  return nil, task
end
