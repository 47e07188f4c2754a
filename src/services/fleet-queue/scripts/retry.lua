-- ARGV: time, id. Answers {status it had, 1 if it is queued again, task}, or nothing.
local task = find(ARGV[2])
if not task then return {} end
local status = task.status
if status ~= 'failed' and status ~= 'cancelled' then return { status, 0, {} } end
redis.call('ZREM', base .. 'ended', task.id)
if task.isDead then
  count(task, 'dead', -1)
  redis.call('ZREM', base .. 'dead', task.id)
end
set(task, 'attempt', task.used + 1)
set(task, 'lastAttempt', task.used + task.maxAttempts)
set(task, 'faults', 0)
for _, field in ipairs({ 'cancelAt', 'endedAt', 'end', 'isDead' }) do set(task, field, nil) end
setStatus(task, 'pending', task.attempt, '')
enqueue(task, now)
save(task)
sendNews()
return { status, 1, record(task.id) }
