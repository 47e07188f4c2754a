-- ARGV: time, id. Answers the task, or nothing.
local task = find(ARGV[2])
if not task then return {} end
if task.status == 'pending' then
  cancelWaiting(task)
  save(task)
elseif task.owner then
  if not task.cancelAt then
    set(task, 'cancelAt', now)
    save(task)
  end
  tellCancel(task.pool, task.id)
end
return record(task.id)
