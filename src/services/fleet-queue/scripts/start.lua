-- ARGV: time, id, fence, facts (JSON). Answers whether the delivery was under way.
local task = claimed(findCore, ARGV[2], ARGV[3])
if not task then return 0 end
if task.status == 'scheduled' then
  count(task, 'scheduled', -1)
  count(task, 'running', 1)
  setStatus(task, 'running', task.attempt, '')
end
set(task, 'f:' .. int(task.fence), ARGV[4])
save(task)
return 1
