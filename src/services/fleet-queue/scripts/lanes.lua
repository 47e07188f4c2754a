-- Whose turn it is. A lane holds tasks that are alike in all that decides about their turn: its name says what that is (fleet-lane.ts).
-- In a row, the due lanes of one pool and priority, values of the fair label are ranked by how many of their tasks are claimed, then by
-- when they had their turn; one that never had it comes before those that had, in the order in which such values came.

-- 2^41: turns for ten years at 5,000 a second. More claimed tasks than maxRanked count as so many, so that ranks are exact (2^53).
local turnsPerClaim = 2199023255552
local firstTurn = 1099511627776
local maxRanked = 4095
-- Of so many values it is remembered when they had their turn.
local maxTurns = 10000

local lanes = {}
local function laneOf (name)
  local lane = lanes[name]
  if lane then return lane end
  local parts = cjson.decode(name)
  lane = { name = name, pool = parts[1], cpuMillis = parts[3], memoryBytes = parts[4], buckets = parts[6], hostLabels = parts[7] }
  lane.priority = int(parts[2])
  lane.fair = parts[5] == cjson.null and '-' or '=' .. parts[5]
  lane.row = lane.pool .. ':' .. lane.priority
  lane.dueKey = base .. 'lane:' .. name
  lane.valueKey = base .. 'value:' .. lane.row .. ':' .. lane.fair
  lanes[name] = lane
  return lane
end

local function bucketOf (label)
  return label[1] .. '\n' .. label[2]
end

local function noteTurn (fair, turn)
  if redis.call('ZADD', base .. 'turns', turn, fair) == 1 then redis.call('ZREMRANGEBYRANK', base .. 'turns', 0, -maxTurns - 1) end
end

-- `claimed`, `turn`: where they are known.
local function rankOf (fair, claimed, turn)
  claimed = claimed or tonumber(redis.call('HGET', base .. 'claimed', fair)) or 0
  turn = turn or tonumber(redis.call('ZSCORE', base .. 'turns', fair))
  if not turn then
    turn = redis.call('HINCRBY', base .. 'clock', 'arrival', 1)
    noteTurn(fair, turn)
  end
  return math.min(claimed, maxRanked) * turnsPerClaim + turn
end

-- Notes that a value has its turn; answers which.
local function serve (fair)
  local turn = firstTurn + redis.call('HINCRBY', base .. 'clock', 'turn', 1)
  noteTurn(fair, turn)
  return turn
end

local function addDue (lane, id, seq, dueAt)
  redis.call('ZADD', lane.dueKey, seq, id)
  redis.call('ZADD', base .. 'due:' .. lane.pool, dueAt, id)
  if redis.call('ZRANK', lane.dueKey, id) > 0 then return end
  local isNew = redis.call('ZADD', lane.valueKey, seq, lane.name) == 1
  if not isNew or redis.call('ZCARD', lane.valueKey) > 1 then return end
  redis.call('SADD', base .. 'rows:' .. lane.fair, lane.row)
  redis.call('ZADD', base .. 'row:' .. lane.row, rankOf(lane.fair), lane.fair)
  redis.call('ZADD', base .. 'prio:' .. lane.pool, lane.priority, lane.priority)
end

local function removeDue (lane, id)
  redis.call('ZREM', lane.dueKey, id)
  redis.call('ZREM', base .. 'due:' .. lane.pool, id)
  local head = redis.call('ZRANGE', lane.dueKey, 0, 0, 'WITHSCORES')
  if head[1] then
    redis.call('ZADD', lane.valueKey, head[2], lane.name)
    return
  end
  redis.call('ZREM', lane.valueKey, lane.name)
  if redis.call('EXISTS', lane.valueKey) == 1 then return end
  redis.call('SREM', base .. 'rows:' .. lane.fair, lane.row)
  redis.call('ZREM', base .. 'row:' .. lane.row, lane.fair)
  if redis.call('EXISTS', base .. 'row:' .. lane.row) == 0 then redis.call('ZREM', base .. 'prio:' .. lane.pool, lane.priority) end
end

local function addTo (hash, field, count)
  local sum = redis.call('HINCRBY', base .. hash, field, count)
  if sum == 0 then redis.call('HDEL', base .. hash, field) end
  return sum
end

-- `turn`: the one that the value has had with this.
local function addClaimed (lane, count, turn)
  local claimed = addTo('claimed', lane.fair, count)
  for _, label in ipairs(lane.buckets) do addTo('buckets', bucketOf(label), count) end
  local rows = redis.call('SMEMBERS', base .. 'rows:' .. lane.fair)
  local rank = #rows > 0 and rankOf(lane.fair, claimed, turn)
  for _, row in ipairs(rows) do redis.call('ZADD', base .. 'row:' .. row, rank, lane.fair) end
end
