-- How a task that has ended is forgotten; for remove.lua and prune.lua.
local function forget (id)
  local task = find(id)
  redis.call('ZREM', base .. 'ended', id)
  if not task then return end
  local idempotencyKey = redis.call('HGET', task.key, 'idempotencyKey')
  if idempotencyKey and idempotencyKey ~= '' then redis.call('HDEL', base .. 'keys', idempotencyKey) end
  redis.call('SREM', base .. 'untold', untoldName(task))
  redis.call('ZREM', base .. 'created', id)
  if indexOf[task.status] then redis.call('ZREM', base .. indexOf[task.status], id) end
  if task.isDead then
    redis.call('ZREM', base .. 'dead', id)
    count(task, 'dead', -1)
  end
  redis.call('DEL', task.key)
  tellChanged(id)
end
