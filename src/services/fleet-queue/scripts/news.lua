-- What is told, by pub/sub: on news:<pool> "available <due> <listeners>" and "cancel <id>", on changed:<id> that a task changed,
-- on due:timekeeper that something became the next to be due.

-- Of a pool with more listeners than this it is told less often than it might be.
local crowd = 64
-- Each of them makes a claim, and takes part of this time of Redis for it. Milliseconds.
local claimMs = 0.05
local available = {}

local function tellAvailable (pool, count)
  available[pool] = (available[pool] or 0) + count
end

local function tellChanged (id)
  redis.call('PUBLISH', base .. 'changed:' .. id, '')
end

local function tellCancel (pool, id)
  redis.call('PUBLISH', base .. 'news:' .. pool, 'cancel ' .. id)
end

-- A large crowd spreads its claims over ten times as long (fleet-news.ts): within a tenth of that nearly all of them are still to come,
-- and will find what is not told here.
local function isToldAlready (pool, listeners)
  if listeners <= crowd then return false end
  local last = tonumber(redis.call('HGET', base .. 'told', pool))
  if last and now >= last and now - last < listeners * claimMs then return true end
  redis.call('HSET', base .. 'told', pool, now)
  return false
end

-- Ends every script after which there may be more to claim. How many listen is known from the last time.
local function sendNews ()
  for pool, count in pairs(available) do
    local field = 'listeners:' .. pool
    local listeners = tonumber(redis.call('HGET', base .. 'told', field)) or 0
    if not isToldAlready(pool, listeners) then
      local due = math.max(count, redis.call('ZCARD', base .. 'due:' .. pool))
      local heard = redis.call('PUBLISH', base .. 'news:' .. pool, 'available ' .. int(due) .. ' ' .. int(listeners))
      if heard ~= listeners then redis.call('HSET', base .. 'told', field, heard) end
    end
  end
  available = {}
end
