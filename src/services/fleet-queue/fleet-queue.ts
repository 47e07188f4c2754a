import { randomId } from '../../lib/id.ts'
import { FleetNews } from './fleet-news.ts'
import type { FleetQueue, FleetQueueOptions } from './fleet-queue-types.ts'
import { FleetScripts } from './fleet-scripts.ts'
import { FleetSweeper } from './fleet-sweeper.ts'
import { FleetTaskQueue } from './fleet-task-queue.ts'
import { RedisTaskTable } from './fleet-task-table.ts'

/** As long as the local queue keeps them. */
const defaultRetentionMs = 7 * 24 * 3_600_000

/** Opens the queue of the fleet whose Redis this is. Nothing is asked of Redis before it is used. */
export function openFleetQueue (options: FleetQueueOptions): FleetQueue {
  const { redis, pools, now, retentionMs = defaultRetentionMs, onError = () => {} } = options
  // The braces make it one hash slot: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags
  const base = `${redis.prefix}:{berth}:`
  const scripts = new FleetScripts(redis, base, now)
  const news = new FleetNews({ redis, base, pools, onError, onWatched: isWatched => { sweeper.run(isWatched) }, onDue: () => { sweeper.hear() } })
  const sweeper = new FleetSweeper({ scripts, name: randomId('swp'), onError, onTimekeeper: isTimekeeper => { news.hearDue(isTimekeeper) } })
  const close = async (): Promise<void> => {
    sweeper.close()
    news.close()
  }
  return {
    queue: new FleetTaskQueue({ scripts, news, options, close }),
    table: new RedisTaskTable({ redis, scripts, news, base, retentionMs }),
    sweep: async () => { await sweeper.sweep() },
    close,
  }
}
