-- Begins every script. KEYS[1] begins the name of each key, all in one hash slot; ARGV[1] is the time, or empty: that of Redis.
--
--   task:<id>                     hash: a task, see fleet-task-fields.ts
--   keys                          hash: idempotency key → id
--   created, status:<s>, dead     sorted: ids by seq, of all tasks, of some statuses (moves.lua), of dead letters
--   lane:<lane>                   sorted: ids by seq, of the due tasks of a lane
--   value:<pool>:<prio>:<fair>    sorted: lanes by the seq of their oldest due task
--   row:<pool>:<prio>             sorted: values of the fair label, by their rank (see lanes.lua)
--   prio:<pool>                   sorted: priorities that have due tasks
--   rows:<fair>                   set: rows that have the value
--   due:<pool>                    sorted: ids of due tasks by the time since which they are due
--   delayed, leases, ended        sorted: ids by the time at which they become due, lapse, have ended
--   held:<owner>                  sorted: ids by seq
--   claimed, buckets              hash: how many tasks of a value of the fair label, of a limited label, are claimed
--   turns                         sorted: values of the fair label by when they had their turn
--   untold                        set: "id fence" of tasks of foreign producers that ended without a host to tell it (untold-ends.ts)
--   pools, counts:<pool>          set; hash: delayed, scheduled, running, dead
--   clock                         hash: seq, turn, arrival, seen, returned, lapsesTold
--   timekeeper, told              string, hash: see sweep.lua and news.lua
local base = KEYS[1]
local function clock ()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local now = tonumber(ARGV[1]) or clock()

-- Numbers that are written into text: Lua would write large ones with an exponent.
local function int (number)
  return string.format('%.0f', number)
end

-- After Redis, or everybody who claims, was away for longer than this, those who held tasks get time to renew their leases. Milliseconds.
local absenceMs = 5000
local seenEveryMs = 500

-- Notes that somebody who claims is there; answers since when that is so again after an absence, if there was one.
local function attend ()
  local seen, returned = unpack(redis.call('HMGET', base .. 'clock', 'seen', 'returned'))
  seen = tonumber(seen)
  if seen and now - seen > absenceMs then
    returned = now
    redis.call('HSET', base .. 'clock', 'returned', returned)
  end
  if not seen or now - seen > seenEveryMs or now < seen then redis.call('HSET', base .. 'clock', 'seen', now) end
  return tonumber(returned)
end
