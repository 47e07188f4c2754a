-- ARGV: time, id, fence, status, ending (JSON, always the same text for the same), its time or nothing, its reason,
-- what the history says of it (members of a JSON object), 1 if retryable, share by which the pause is longer. Answers the task, or nothing.
local id, fence, status, ending, reason, why = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[7], ARGV[8]
local endedAt = tonumber(ARGV[6]) or now
local task, other = claimed(find, id, fence)

-- Whether the delivery ended in this very way. What failed in a task that was to be cancelled is kept as cancelled.
local function wasSettled ()
  local before = other and redis.call('HGET', other.key, 'e:' .. fence)
  if not before then return false end
  local how, _, what = before:match('^(%S+) (%S+) (.*)$')
  return what == ending and (how == status or (how == 'cancelled' and status == 'failed'))
end

local function pause ()
  local failed = task.attempt - (task.lastAttempt - task.maxAttempts)
  return math.floor(math.min(task.maxBackoffMs, task.backoffMs * 2 ^ (failed - 1)) * (1 + tonumber(ARGV[10])) + 0.5)
end

if not task then return wasSettled() and record(id) or {} end
local mayFollow = status == 'failed' and not task.cancelAt and ARGV[9] == '1' and task.attempt < task.lastAttempt
if status == 'failed' and task.cancelAt then status = 'cancelled' end
endAttempt(task, status, endedAt, ending)
letGo(task)
set(task, 'faults', 0)
set(task, 'used', task.attempt)
if mayFollow then
  setStatus(task, 'pending', task.attempt, why)
  enqueue(task, now + pause())
  set(task, 'attempt', task.attempt + 1)
else
  conclude(task, status, ending, reason, endedAt, why)
end
save(task)
sendNews()
return record(id)
