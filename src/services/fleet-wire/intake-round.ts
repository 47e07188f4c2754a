import { isUtf8 } from 'node:buffer'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import type { RedisConnection } from '../redis/redis-types.ts'
import type { TaskQueue } from '../tasks/task-queue.ts'
import type { NewTask, TaskRecord } from '../tasks/task-record.ts'
import { isAway } from './wire-away.ts'
import { keptSeconds, wireKeys, type WireKeys } from './wire-keys.ts'
import type { WireReports } from './wire-reports.ts'
import { toNewTask, WireRefusal, type WireDefaults } from './wire-task.ts'

export interface IntakeRoundOptions {
  redis: RedisConnection
  queue: Pick<TaskQueue, 'push' | 'retry'>
  pool: string
  reports: Pick<WireReports, 'refused'>
  logger: Logger
  defaults?: WireDefaults
  holdsTurn: () => Promise<boolean>
}

interface Entry {
  raw: Buffer
  task: NewTask
}

/** As it lies in the list, byte by byte; of one that is too large its length and how it begins. */
type Tail = Array<Buffer | [length: number, start: Buffer]>

const mostEntries = 100
const mostBytes = 4 * 1024 * 1024
/** So often an entry that the queue fails on for no reason of its own is tried before it counts as one that can never be pushed. */
const mostTries = 5
const rejectedKept = 1000
/** Of an entry that is no task so much is kept. */
const rejectedLength = 64 * 1024

/** The oldest entries of a list, as many as fit, or the oldest one's length and start where it alone does not: KEYS list  ARGV entries, bytes, start */
const readTail = `
local found, bytes = {}, 0
for i = 1, tonumber(ARGV[1]) do
  local entry = redis.call('LINDEX', KEYS[1], -i)
  if i == 1 and entry and #entry > tonumber(ARGV[2]) then return {{ #entry, string.sub(entry, 1, tonumber(ARGV[3])) }} end
  if not entry or bytes + #entry > tonumber(ARGV[2]) then break end
  bytes = bytes + #entry
  found[i] = entry
end
return found`

/**
 * Takes entries off a list: KEYS list  ARGV entries. One that is not at the tail is looked for among the oldest alone, so that an
 * entry which somebody else took off costs no walk through a long list.
 */
const takeOff = `
for _, entry in ipairs(ARGV) do
  if redis.call('LINDEX', KEYS[1], -1) == entry then redis.call('RPOP', KEYS[1])
  else
    for i = 1, ${mostEntries * 2} do
      local other = redis.call('LINDEX', KEYS[1], -i)
      if not other then break end
      if other == entry then redis.call('LREM', KEYS[1], -1, entry) break end
    end
  end
end
return 1`

/** KEYS list  ARGV length, start: takes the oldest entry off, if it is this one. */
const takeOffLarge = `
local entry = redis.call('LINDEX', KEYS[1], -1)
if entry and #entry == tonumber(ARGV[1]) and string.sub(entry, 1, #ARGV[2]) == ARGV[2] then redis.call('RPOP', KEYS[1]) end
return 1`

/** Takes in what lies at the tail of the list of one pool. */
export class IntakeRound {
  readonly #options: IntakeRoundOptions
  readonly #keys: WireKeys
  readonly #list: string
  /** How often an entry could not be pushed. */
  readonly #tries = new Map<string, number>()

  constructor (options: IntakeRoundOptions) {
    this.#options = options
    this.#keys = wireKeys(options.redis.prefix)
    this.#list = this.#keys.queue(options.pool)
  }

  /** Goes on while there is something. Answers false where the rest could not be taken in for now. @throws BerthError unavailable. */
  async run (): Promise<boolean> {
    for (;;) {
      const raws = await this.#readTail()
      if (raws.length === 0) return true
      const left = await this.#take(raws)
      if (left > 0) return false
      if (!await this.#options.holdsTurn()) return true
    }
  }

  async #readTail (): Promise<Tail> {
    return await this.#options.redis.run(client => client.callBuffer('EVAL', readTail, 1, this.#list, mostEntries, mostBytes, rejectedLength)) as Tail
  }

  /** Answers how many entries had to stay. */
  async #take (raws: Readonly<Tail>): Promise<number> {
    const { pool, defaults } = this.#options
    const entries: Entry[] = []
    for (const raw of raws) {
      if (!Buffer.isBuffer(raw)) {
        await this.#refuseLarge(...raw)
        continue
      }
      // What is made of other bytes would not be found in the list again.
      const task = isUtf8(raw) ? toNewTask(raw.toString(), { pool, ...defaults && { defaults } }) : new WireRefusal('the entry is not valid UTF-8')
      if (task instanceof WireRefusal) await this.#refuse(raw, task)
      else entries.push({ raw, task })
    }
    const taken = await this.#pushTogether(entries) ?? await this.#pushEach(entries)
    if (taken.length > 0) await this.#takeOff(taken.map(({ raw }) => raw))
    for (const { task } of taken) this.#tries.delete(task.id)
    return entries.length - taken.length
  }

  /** undefined: not all of them could be pushed. */
  async #pushTogether (entries: readonly Entry[]): Promise<Entry[] | undefined> {
    const ids = new Set(entries.map(({ task }) => task.id))
    if (entries.length === 0 || ids.size < entries.length) return undefined
    try {
      const records = await this.#options.queue.push(entries.map(({ task }) => task))
      for (const [index, record] of records.entries()) await this.#goOn(entries[index]!.task, record)
    } catch (error) {
      if (isAway(error)) throw error
      return undefined
    }
    return [...entries]
  }

  async #pushEach (entries: readonly Entry[]): Promise<Entry[]> {
    const taken: Entry[] = []
    for (const entry of entries) {
      try {
        await this.#push(entry.task)
        taken.push(entry)
      } catch (error) {
        if (isAway(error)) throw error
        await this.#fail(entry, error)
      }
    }
    return taken
  }

  async #push (task: NewTask): Promise<void> {
    let record: TaskRecord | undefined
    try {
      [record] = await this.#options.queue.push([task])
    } catch (error) {
      if (!(error instanceof BerthError) || error.code !== 'task_exists') throw error
    }
    await this.#goOn(task, record)
  }

  /**
   * A producer that tries a task again pushes it with a greater attempt. The queue has it already: it is queued there once more as
   * it is, where it has failed or was cancelled. What is pending or runs counts as that attempt.
   */
  async #goOn ({ id, spec: { fleet } }: NewTask, record: TaskRecord | undefined): Promise<void> {
    const { redis, queue, pool } = this.#options
    // By chance or not: who may push into one pool has no say in another.
    if (record && record.spec.pool !== pool) return
    if (fleet?.externalId === undefined || fleet.attempt <= 1 || (record?.spec.fleet?.attempt ?? 0) >= fleet.attempt) return
    const key = this.#keys.attempt(fleet.externalId)
    if (Number(await redis.run(client => client.get(key))) >= fleet.attempt) return
    try {
      await queue.retry(id)
    } catch (error) {
      if (!(error instanceof BerthError) || error.code !== 'invalid_state') throw error
    }
    await redis.run(client => client.set(key, fleet.attempt, 'EX', keptSeconds))
  }

  async #fail ({ raw, task }: Entry, error: unknown): Promise<void> {
    const tries = (this.#tries.get(task.id) ?? 0) + 1
    const isHopeless = error instanceof BerthError && error.kind !== 'internal'
    if (!isHopeless && tries < mostTries) {
      this.#tries.set(task.id, tries)
      this.#options.logger.warn({ err: error, taskId: task.id, pool: this.#options.pool }, 'a task of a foreign producer could not be queued; it is tried again')
      return
    }
    this.#tries.delete(task.id)
    await this.#refuse(raw, new WireRefusal(error instanceof BerthError ? error.message : 'the task could not be queued', task.spec.fleet?.externalId))
  }

  /** Its producer is told first: whoever dies in between tells it again. */
  async #refuse (raw: Buffer, refusal: WireRefusal): Promise<void> {
    await this.#putAside(raw, refusal)
    await this.#takeOff([raw])
  }

  async #refuseLarge (length: number, start: Buffer): Promise<void> {
    await this.#putAside(start, new WireRefusal(`the entry has ${length} bytes, which is more than ${mostBytes}`))
    await this.#options.redis.run(client => client.eval(takeOffLarge, 1, this.#list, length, start))
  }

  async #putAside (raw: Buffer, refusal: WireRefusal): Promise<void> {
    const { redis, reports, logger, pool } = this.#options
    logger.warn({ pool, externalId: refusal.externalId, why: refusal.message }, 'a task of a foreign producer was refused')
    await reports.refused(refusal)
    const aside = JSON.stringify({ at: new Date().toISOString(), message: refusal.message, entry: raw.subarray(0, rejectedLength).toString() })
    await redis.run(async client => {
      await client.lpush(this.#keys.rejected(pool), aside)
      await client.ltrim(this.#keys.rejected(pool), 0, rejectedKept - 1)
    })
  }

  async #takeOff (raws: readonly Buffer[]): Promise<void> {
    await this.#options.redis.run(client => client.eval(takeOff, 1, this.#list, ...raws))
  }
}
