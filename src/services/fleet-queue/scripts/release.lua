-- ARGV: time, id, fence, delay, 1 if it is a fault, message or nothing, maxReturns. Answers the task, or nothing.
local task = claimed(find, ARGV[2], ARGV[3])
if not task then return {} end
giveBack(task, tonumber(ARGV[4]), ARGV[5] == '1', ARGV[6], tonumber(ARGV[7]))
save(task)
sendNews()
return record(task.id)
