import { BerthError } from '../../errors.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import type { TaskRecord } from '../tasks/task-record.ts'
import type { FleetNews } from './fleet-news.ts'
import type { FleetTaskFilter, FleetTaskTable } from './fleet-queue-types.ts'
import type { FleetScripts } from './fleet-scripts.ts'
import { toTaskRecord, type FlatHash } from './fleet-task-fields.ts'

export interface FleetTaskTableParts {
  redis: RedisConnection
  scripts: FleetScripts
  news: FleetNews
  base: string
  retentionMs: number
}

/** Numbers of tasks carry the time at which they were pushed, as push.lua has it. */
const seqPerMs = 1024
/** A list looks at a bounded number of tasks, in so many steps at most; then its page is shorter than it may be, and has a cursor. */
const maxSteps = 40

/** Tasks of a fleet as Redis has them. */
export class RedisTaskTable implements FleetTaskTable {
  readonly #parts: FleetTaskTableParts

  constructor (parts: FleetTaskTableParts) {
    this.#parts = parts
  }

  async get (id: string): Promise<TaskRecord | undefined> {
    const { redis, base } = this.#parts
    return toTaskRecord(Object.entries(await redis.run(client => client.hgetall(`${base}task:${id}`))).flat())
  }

  async list ({ limit, cursor, ...filter }: FleetTaskFilter & { limit: number, cursor?: string }): Promise<{ records: TaskRecord[], nextCursor?: string }> {
    const records: TaskRecord[] = []
    const min = filter.since === undefined ? '-inf' : seqAt(filter.since)
    let max = cursor === undefined ? (filter.until === undefined ? '+inf' : `(${seqAt(filter.until)}`) : `(${parseCursor(cursor)}`
    const index = indexOf(filter)
    const wanted = JSON.stringify(toScriptFilter(filter))
    for (let step = 0; step < maxSteps; step++) {
      const [last, ...found] = await this.#parts.scripts.run<[string, ...FlatHash[]]>('list', [index, max, min, wanted, limit - records.length])
      records.push(...found.map(flat => toTaskRecord(flat)!))
      if (last === '') return { records }
      if (records.length >= limit) return { records, nextCursor: last }
      max = `(${last}`
    }
    return { records, nextCursor: max.slice(1) }
  }

  async remove (id: string): Promise<boolean> {
    const status = await this.#parts.scripts.run<string>('remove', [id])
    if (status === '' || status === 'removed') return status === 'removed'
    throw new BerthError('conflict', 'invalid_state', `task ${id} is ${status}; cancel it, wait for its end, then delete it`)
  }

  watch (id: string, listener: () => void): () => void {
    return this.#parts.news.watchTask(id, listener)
  }

  async prune (): Promise<number> {
    return await this.#parts.scripts.run('prune', [this.#parts.retentionMs])
  }
}

/** The one with the fewest tasks beside those that are asked for; see moves.lua. */
function indexOf ({ status, isDeadLetter }: FleetTaskFilter): string {
  if (isDeadLetter === true) return 'dead'
  const indexes = new Set(status?.map(one => one === 'scheduled' || one === 'running' ? 'claimed' : one))
  const [only] = indexes
  return indexes.size !== 1 || only === 'complete' ? 'created' : `status:${only}`
}

/** As list.lua has it: what is not there is not asked for. */
function toScriptFilter ({ status, labels = {}, pool, pools, isDeadLetter }: FleetTaskFilter): object {
  const setOf = (words: readonly string[]): Record<string, true> => Object.fromEntries(words.map(word => [word, true]))
  return {
    ...status !== undefined && { status: setOf(status) },
    labels: Object.entries(labels),
    pools: [...pool === undefined ? [] : [[pool]], ...pools === undefined ? [] : [pools]].map(setOf),
    ...isDeadLetter !== undefined && { isDeadLetter },
  }
}

function seqAt (time: string): number {
  return Math.ceil(Date.parse(time)) * seqPerMs
}

function parseCursor (cursor: string): string {
  if (!/^\d{1,16}$/.test(cursor)) throw new BerthError('invalid_argument', 'invalid_cursor', 'cursor is not one that a list answered; leave it out to begin anew')
  return cursor
}
