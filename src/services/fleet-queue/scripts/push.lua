-- ARGV: time, then of each task: id, idempotency key or nothing, spec, labels (both JSON), lane, pool, delay, attempts, pause, longest pause.
-- Answers the tasks, or {'task_exists', id}.
local width = 10
local seen = {}
for at = 2, #ARGV, width do
  local id, key = ARGV[at], ARGV[at + 1]
  if key == '' or redis.call('HEXISTS', base .. 'keys', key) == 0 then
    if seen[id] or redis.call('EXISTS', base .. 'task:' .. id) == 1 then return { 'task_exists', id } end
    -- Its second task in this batch is its first.
    if key == '' or not seen['key ' .. key] then seen[id] = true end
    if key ~= '' then seen['key ' .. key] = true end
  end
end

-- Numbers in the order in which tasks are pushed, that carry the time: 1024 for each millisecond.
local perMs = 1024
local last = tonumber(redis.call('HGET', base .. 'clock', 'seq')) or 0

local function add (at)
  local id, key, spec, labels, lane, pool, delay, attempts, pause, longest = unpack(ARGV, at, at + width - 1)
  if key ~= '' then
    local known = redis.call('HGET', base .. 'keys', key)
    if known then return known end
    redis.call('HSET', base .. 'keys', key, id)
  end
  last = math.max(last + 1, now * perMs)
  local task = { id = id, key = base .. 'task:' .. id, edits = {}, seq = last, pool = pool, lane = lane, attempt = 1 }
  redis.call('HSET', task.key, 'id', id, 'seq', int(last), 'createdAt', int(math.floor(last / perMs)), 'idempotencyKey', key, 'spec', spec, 'labels', labels,
    'lane', lane, 'pool', pool, 'attempt', 1, 'lastAttempt', attempts, 'maxAttempts', attempts, 'backoffMs', pause, 'maxBackoffMs', longest)
  redis.call('ZADD', base .. 'created', last, id)
  setStatus(task, 'pending', 1, '')
  enqueue(task, now + math.max(0, tonumber(delay)))
  save(task)
  return id
end

local records = {}
for at = 2, #ARGV, width do records[#records + 1] = record(add(at)) end
redis.call('HSET', base .. 'clock', 'seq', int(last))
sendNews()
return records
