-- ARGV: time, lease, then of each claim: id, fence. Answers of each: 0 lost, 1 held, 2 held and to be cancelled.
local leaseUntil = now + tonumber(ARGV[2])
local answers = {}
for at = 3, #ARGV, 2 do
  local fence, owner, cancelAt = unpack(redis.call('HMGET', base .. 'task:' .. ARGV[at], 'fence', 'owner', 'cancelAt'))
  local isHeld = owner and owner ~= '' and tonumber(fence) == tonumber(ARGV[at + 1])
  if isHeld then redis.call('ZADD', base .. 'leases', leaseUntil, ARGV[at]) end
  answers[#answers + 1] = not isHeld and 0 or cancelAt and 2 or 1
end
return answers
