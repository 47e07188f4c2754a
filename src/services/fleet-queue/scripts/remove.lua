-- ARGV: time, id. Answers the status that it has still, 'removed', or nothing where there is none.
local task = find(ARGV[2])
if not task then return '' end
if not task.endedAt then return task.status end
forget(task.id)
return 'removed'
