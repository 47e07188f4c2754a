/**
 * Takes the tasks of foreign producers into the queue of the fleet.
 *
 *   LPUSH ─▶ <prefix>:task_queue:<pool> ─look at the tail─▶ push ─▶ LREM
 *
 * There is no moment in which a task is nowhere: it leaves the list only once the queue has it for good, and to push it again is
 * harmless. What is no task is told its producer, kept in <prefix>:task_rejected:<pool>, and leaves the list too.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { endClient } from '../redis/redis-client.ts'
import { isRedisFailure } from '../redis/redis-error.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import { retryForEver } from '../redis/redis-retry.ts'
import type { TaskQueue } from '../tasks/task-queue.ts'
import { IntakeRound } from './intake-round.ts'
import { IntakeTurn } from './intake-turn.ts'
import type { UntoldEnds } from './untold-ends.ts'
import { wireKeys } from './wire-keys.ts'
import type { WireReports } from './wire-reports.ts'
import type { WireDefaults } from './wire-task.ts'

export interface WireIntakeOptions {
  redis: RedisConnection
  queue: Pick<TaskQueue, 'push' | 'retry'>
  pools: readonly string[]
  reports: Pick<WireReports, 'refused'>
  /** Ends of tasks that nobody else tells; told by whoever's turn it is. */
  untold?: Pick<UntoldEnds, 'tell'>
  logger: Logger
  /** Of fields that a task leaves out. */
  defaults?: WireDefaults
  /** How long a look at a list waits for a task, ms. */
  blockMs?: number
}

/** Of a server without BLMOVE (before 6.2). */
const pollMs = 250

/**
 * Any number of them may share a list. One at a time works on it, as a task that comes wakes all who wait for it; another takes
 * its place within seconds when it is gone.
 */
export class WireIntake {
  readonly #options: WireIntakeOptions
  readonly #closing = new AbortController()
  readonly #loops: Promise<void>[] = []

  constructor (options: WireIntakeOptions) {
    this.#options = options
  }

  start (): void {
    for (const pool of this.#options.pools) this.#loops.push(this.#loop(pool))
  }

  /** Resolves when no loop runs any more. */
  async close (): Promise<void> {
    this.#closing.abort()
    await Promise.all(this.#loops)
  }

  async #loop (pool: string): Promise<void> {
    const { redis, logger, untold } = this.#options
    const { signal } = this.#closing
    const turn = new IntakeTurn({ redis, key: wireKeys(redis.prefix).intake(pool), holder: randomUUID() })
    const holdsTurn = async (): Promise<boolean> => {
      await untold?.tell()
      return await turn.take()
    }
    const round = new IntakeRound({ ...this.#options, pool, holdsTurn })
    const look = this.#lookAt(wireKeys(redis.prefix).queue(pool))
    const onError = (error: unknown): void => {
      // That Redis is away is said by its connection.
      const level = isRedisFailure(error) || (error instanceof BerthError && error.code === 'redis_unavailable') ? 'debug' : 'warn'
      logger[level]({ err: error, pool }, 'tasks of foreign producers cannot be taken in; it is tried again')
    }
    while (!signal.aborted) {
      await retryForEver(async () => {
        if (!await turn.take()) return await pause(turn.pauseMs(), signal)
        await untold?.tell()
        if (!await look.wait()) return
        // What could not be pushed stays where it is, and is not to keep this loop spinning.
        if (!await round.run()) await pause(pollMs, signal)
      }, { signal, onError })
    }
    look.close()
    await turn.giveBack()
  }

  /** Waits for the list to have something: moving its tail onto itself changes nothing, and waits for there to be one. */
  #lookAt (list: string): { wait: () => Promise<boolean>, close: () => void } {
    const { redis, blockMs = 2000 } = this.#options
    const { signal } = this.#closing
    const client = redis.another('blocking')
    const end = (): void => { void endClient(client) }
    signal.addEventListener('abort', end, { once: true })
    let canBlock = true
    const isFilled = async (): Promise<boolean> => await redis.run(ordinary => ordinary.llen(list)) > 0
    return {
      wait: async () => {
        if (await isFilled()) return true
        if (!canBlock) return await pause(pollMs, signal).then(isFilled)
        try {
          // As bytes: it may be far more than becomes text.
          return await client.blmoveBuffer(list, list, 'RIGHT', 'RIGHT', blockMs / 1000) !== null
        } catch (error) {
          if (!(error instanceof Error) || !/unknown command/i.test(error.message)) throw error
          canBlock = false
          return false
        }
      },
      close: () => {
        signal.removeEventListener('abort', end)
        end()
      },
    }
  }
}

async function pause (ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined)
}
