import type { Logger } from 'pino'
import type { FleetTaskTable } from '../fleet-queue/fleet-queue-types.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import type { TaskRecord } from '../tasks/task-record.ts'
import { isAway } from './wire-away.ts'
import type { WireReports } from './wire-reports.ts'

export interface UntoldEndsOptions {
  redis: RedisConnection
  table: Pick<FleetTaskTable, 'get'>
  reports: Pick<WireReports, 'ended'>
  logger: Logger
}

const mostAtOnce = 100

/**
 * Tasks of foreign producers that ended in the queue, where no host tells it: their leases lapsed too often, or they were cancelled while
 * they waited. The step that ends one notes it as untold (moves.lua), and it stays so until its end is on the wire: whoever dies in
 * between has it told once more.
 */
export class UntoldEnds {
  readonly #options: UntoldEndsOptions
  readonly #key: string

  constructor (options: UntoldEndsOptions) {
    this.#options = options
    this.#key = `${options.redis.prefix}:{berth}:untold`
  }

  /** Tells those there are, a bounded number. Any process may call it at any time. @throws BerthError unavailable `redis_unavailable`. */
  async tell (): Promise<void> {
    const { redis, table, logger } = this.#options
    // Taken at random: one that cannot be told stands in nobody's way.
    for (const name of await redis.run(client => client.srandmember(this.#key, mostAtOnce))) {
      const [id = '', fence] = name.split(' ')
      try {
        const record = await table.get(id)
        // One that was queued once more is told of when it ends.
        if (record?.endedAt !== undefined && fenceOf(record) === Number(fence)) await this.tellOf(record)
        else await this.#forget(name)
      } catch (error) {
        if (isAway(error)) throw error
        logger.warn({ err: error, taskId: id }, 'a foreign producer could not be told how its task ended; it is tried again')
      }
    }
  }

  /** Tells how one has ended. */
  async tellOf (record: TaskRecord): Promise<void> {
    await this.#options.reports.ended(record)
    await this.#forget(`${record.id} ${fenceOf(record)}`)
  }

  async #forget (name: string): Promise<void> {
    await this.#options.redis.run(client => client.srem(this.#key, name))
  }
}

function fenceOf ({ attempts }: TaskRecord): number {
  return attempts.at(-1)?.fence ?? 0
}
