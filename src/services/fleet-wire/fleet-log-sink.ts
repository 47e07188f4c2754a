/** Delivers the output of a task into its buffer in Redis, and to those who listen. */
import type { OutputSink, SinkState } from '../outputs/output-sink.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import { toFleetEntry, type FleetLogEnd } from './fleet-log-entry.ts'
import { keptSeconds, wireKeys } from './wire-keys.ts'

export interface FleetSinkOptions {
  redis: RedisConnection
  /** The id by which its producer knows the task, else its id. */
  taskKey: string
  attempt: number
  fence: number
  /** Not needed: the buffer itself knows how far it has come. */
  state?: SinkState
  /** The buffer keeps about so many bytes, the last ones; 1 MiB by default. */
  maxBufferBytes?: number
}

/** A batch is one script, during which Redis does nothing else. */
const limits = { batchBytes: 128 * 1024, batchEntries: 500, batchesInFlight: 1, entryBytes: 32 * 1024 }

/** How a task has ended; of a delivery, which may be followed by another. */
const endStatuses = new Set(['complete', 'failed', 'cancelled'])

/**
 * Entries are kept and told once each, however often they are sent: beside the buffer lies the last number of each delivery.
 *   KEYS buffer, place  ARGV channel, task, delivery, seconds, most bytes, then pairs of number and entry
 * place: <delivery> → last number; `bytes` in the buffer; `gone`: entries that did not fit any more; `gap`: the first one says so
 */
const append = `
local buffer, place, channel, task, fence = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local last = tonumber(redis.call('HGET', place, fence) or '-1')
local bytes = tonumber(redis.call('HGET', place, 'bytes') or '0')
if redis.call('EXISTS', buffer) == 0 then
  bytes = 0
  redis.call('HDEL', place, 'gap')
end
for i = 6, #ARGV, 2 do
  local seq, entry = tonumber(ARGV[i]), ARGV[i + 1]
  if seq > last then
    redis.call('RPUSH', buffer, entry)
    redis.call('PUBLISH', channel, entry)
    bytes = bytes + #entry
    last = seq
  end
end
if bytes > tonumber(ARGV[5]) then
  if redis.call('HGET', place, 'gap') then bytes = bytes - #redis.call('LPOP', buffer) end
  local gone = tonumber(redis.call('HGET', place, 'gone') or '0')
  local entry
  while bytes > tonumber(ARGV[5]) and redis.call('LLEN', buffer) > 1 do
    entry = redis.call('LPOP', buffer)
    bytes = bytes - #entry
    gone = gone + 1
  end
  local ok, oldest = pcall(cjson.decode, redis.call('LINDEX', buffer, 0))
  local gap = cjson.encode({ task_id = task, timestamp = ok and oldest.timestamp or 0, stream = 'stdout', data = '', gap = true, message = gone .. ' earlier entries are not kept here' })
  redis.call('LPUSH', buffer, gap)
  bytes = bytes + #gap
  redis.call('HSET', place, 'gap', '1', 'gone', gone)
end
redis.call('HSET', place, fence, last, 'bytes', bytes)
redis.call('EXPIRE', buffer, ARGV[4])
redis.call('EXPIRE', place, ARGV[4])
return last`

/** KEYS place  ARGV channel, delivery, seconds, message */
const finish = `
redis.call('HSET', KEYS[1], 'end:' .. ARGV[2], '1')
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[4])
return 1`

/** Opens without asking Redis anything. Its writes fail with `redis_unavailable` while that is away, and are to be made again then. */
export function openFleetSink ({ redis, taskKey, attempt, fence, maxBufferBytes = 1024 * 1024 }: FleetSinkOptions): OutputSink {
  const keys = wireKeys(redis.prefix)
  const [buffer, place, channel] = [keys.logBuffer(taskKey), keys.logPlace(taskKey), keys.logs(taskKey)]
  return {
    limits,
    write: async batch => {
      const pairs = batch.flatMap(entry => [entry.seq, JSON.stringify(toFleetEntry({ taskKey, attempt, fence }, entry))])
      const last = await redis.run(client => client.eval(append, 2, buffer, place, channel, taskKey, fence, keptSeconds, maxBufferBytes, ...pairs))
      return { seq: Number(last) }
    },
    // What becomes of the task itself is told with its state: the end of a delivery need not be that of its task.
    writeStatus: async entries => {
      const end = entries.find(({ status }) => endStatuses.has(status))
      if (!end) return
      const message: FleetLogEnd = { task_id: taskKey, timestamp: Date.parse(end.at), attempt, fence, log_end: true }
      await redis.run(client => client.eval(finish, 1, place, channel, fence, keptSeconds, JSON.stringify(message)))
    },
    close: async () => {},
  }
}
