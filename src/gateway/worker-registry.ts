import { BerthError } from '../errors.ts'
import { runBatch } from '../services/redis/redis-batch.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import type { Room } from '../services/tasks/task-queue.ts'
import type { SecretSealer } from './sealed-secret.ts'
import { fieldsOfWorker, readWorker, recordFields, type WorkerFacts } from './worker-fields.ts'
import type { WorkerAccess, WorkerRecord, Workers } from './worker-record.ts'
import { changeScript, heartbeatScript, registerScript, removeScript, reserveScript, rollScript, wishScript } from './worker-scripts.ts'

export interface WorkerRegistryOptions {
  redis: RedisConnection
  sealer: SecretSealer
  /** One that has said nothing for longer is lost, ms. */
  lostAfterMs?: number
  /** One that has said nothing for longer is forgotten, ms. */
  keepMs?: number
}

/** What a worker says with each heartbeat; absent where it does not know of such things. */
export interface WorkerNews {
  free?: Room
  sandboxes?: number
  tasks?: number
}

export interface WorkerWish {
  wish: 'drain' | 'undrain' | ''
  /** Grows with each wish; 0: there was none yet. */
  number: number
}

export const heartbeatMs = 10_000

/** A host that was away for less finds its id kept for its token. */
const keepOwnerMs = 30 * 24 * 3_600_000

/** By which token a worker comes. */
export interface WorkerOwner {
  tokenId: string
  /** It may come in the place of this one, of any with `*`. */
  instead?: string
}

const anybody: WorkerOwner = { tokenId: '', instead: '*' }

/** One thousand at once: a reply of a few hundred kilobytes. */
const batchSize = 1000
const rememberedPools = 20_000
/** A look at a thousand workers costs some tens of milliseconds: twice a second is enough. */
const lateMs = 500

/** The workers of a fleet, on Redis: whatever one gateway is told, all know. */
export class WorkerRegistry implements Workers {
  readonly #redis: RedisConnection
  readonly #sealer: SecretSealer
  readonly #lostAfterMs: number
  readonly #keepMs: number
  /** Which pool each worker was in when it was last asked about, so that a heartbeat is one step. */
  readonly #pools = new Map<string, string>()
  #lately: { workers: Promise<WorkerRecord[]>, untilMs: number } | undefined

  constructor ({ redis, sealer, lostAfterMs = 3 * heartbeatMs, keepMs = 24 * 3_600_000 }: WorkerRegistryOptions) {
    this.#redis = redis
    this.#sealer = sealer
    this.#lostAfterMs = lostAfterMs
    this.#keepMs = keepMs
  }

  /**
   * Takes a worker in, or takes over what it says anew. Its id is its token's from then on, also when it has left.
   * @returns The id of the token that has it, where that is another; undefined: it was taken in.
   * @throws BerthError exhausted `too_many_workers`.
   */
  async register (id: string, facts: WorkerFacts, { tokenId, instead = '' }: WorkerOwner = anybody): Promise<string | undefined> {
    const poolBefore = await this.findPool(id) ?? facts.pool
    const fields = fieldsOfWorker({ ...facts, apiToken: facts.apiToken === '' ? '' : this.#sealer.seal(facts.apiToken, id) })
    const answer = await registerScript.run(this.#redis,
      [this.#key(id), this.#poolsKey, this.#poolKey(facts.pool), this.#poolKey(poolBefore), this.#ownerKey(id), this.#ofTokenKey(tokenId)],
      [id, facts.pool, this.#keepMs, tokenId, instead, keepOwnerMs, ...fields])
    if (answer === 0) throw new BerthError('exhausted', 'too_many_workers', 'too many workers came by this token within a day; give hosts tokens of their own, and ids that stay')
    if (typeof answer === 'string') return answer
    this.#remember(id, facts.pool)
    this.#lately = undefined
    return undefined
  }

  /** Undefined: this token, or any with `*`, has no such worker. */
  async heartbeat (id: string, news: WorkerNews, tokenId = '*'): Promise<WorkerWish | undefined> {
    let pool = this.#pools.get(id) ?? await this.findPool(id)
    const fields = ['sandboxes', news.sandboxes ?? 0, 'tasks', news.tasks ?? 0, ...news.free ? ['freeCpu', news.free.cpuMillis, 'freeMemory', news.free.memoryBytes] : []]
    while (pool !== undefined) {
      const keys = [this.#key(id), this.#poolKey(pool), this.#ownerKey(id)]
      const answer = await heartbeatScript.run(this.#redis, keys, [id, pool, this.#keepMs, tokenId, keepOwnerMs, ...fields]) as string[] | null
      const [itsPool, wish, number] = answer ?? []
      if (itsPool === pool) {
        this.#remember(id, pool)
        return { wish: wish as WorkerWish['wish'], number: Number(number) }
      }
      pool = itsPool
    }
    this.#pools.delete(id)
    return undefined
  }

  /** The pool that a worker is in; undefined: there is no such worker. */
  async findPool (id: string): Promise<string | undefined> {
    return await this.#redis.run(client => client.hget(this.#key(id), 'pool')) ?? undefined
  }

  /** The id of the token that a worker came by; undefined where that is not known. */
  async findOwner (id: string): Promise<string | undefined> {
    return await this.#redis.run(client => client.get(this.#ownerKey(id))) ?? undefined
  }

  /** @throws BerthError not_found `worker_not_found`. */
  async setStatus (id: string, status: WorkerRecord['status']): Promise<void> {
    if (await changeScript.run(this.#redis, [this.#key(id)], ['status', status]) === 0) throw notFound(id)
    this.#lately = undefined
  }

  /** Forgets a worker that leaves. Idempotent. */
  async deregister (id: string): Promise<void> {
    await this.#remove(id, -1)
  }

  async get (id: string): Promise<WorkerRecord> {
    const [nowMs, values] = await this.#read(id)
    const worker = readWorker(id, values, nowMs - this.#lostAfterMs)
    if (!worker) throw notFound(id)
    return worker
  }

  async list ({ pool, pools }: { pool?: string, pools?: readonly string[] } = {}): Promise<WorkerRecord[]> {
    const known = await this.pools()
    return await this.#listOf(known.filter(name => isAsked(name, pool, pools)))
  }

  /** As `list`, but it may be as old as half a second, except for what this process was told and has placed itself: for who looks very often. */
  async listLately ({ pool, pools }: { pool?: string, pools?: readonly string[] } = {}): Promise<WorkerRecord[]> {
    if (!this.#lately || this.#lately.untilMs <= performance.now()) {
      const workers = this.list()
      const lately = { workers, untilMs: performance.now() + lateMs }
      this.#lately = lately
      workers.catch(() => { if (this.#lately === lately) this.#lately = undefined })
    }
    return (await this.#lately.workers).filter(worker => isAsked(worker.pool, pool, pools))
  }

  async #listOf (asked: readonly string[]): Promise<WorkerRecord[]> {
    if (asked.length === 0) return []
    const [nowMs, found] = await rollScript.run(this.#redis, [this.#poolsKey, ...asked.map(name => this.#poolKey(name))], [this.#keepMs, ...asked]) as [number, string[]]
    // One that moves just then may be in the sets of two pools.
    const ids = [...new Set(found)]
    const workers: WorkerRecord[] = []
    for (let from = 0; from < ids.length; from += batchSize) {
      const some = ids.slice(from, from + batchSize)
      const answers = await this.#redis.run(client => runBatch(client, some.map(id => ['HMGET', this.#key(id), ...recordFields])))
      for (const [index, values] of answers.entries()) {
        const worker = readWorker(some[index]!, values as Array<string | null>, nowMs - this.#lostAfterMs)
        if (worker && asked.includes(worker.pool)) workers.push(worker)
      }
    }
    return workers.sort((one, other) => one.id < other.id ? -1 : 1)
  }

  /** All pools that have a worker, in the order of their names. */
  async pools (): Promise<string[]> {
    return (await this.#redis.run(client => client.smembers(this.#poolsKey))).sort()
  }

  async access (id: string): Promise<WorkerAccess> {
    const [nowMs, values, sealed] = await this.#read(id)
    const worker = readWorker(id, values, nowMs - this.#lostAfterMs)
    if (!worker) throw notFound(id)
    if (worker.apiUrl === '') throw unreachable(`worker ${id} has not said where its API is: start it with --advertise URL`)
    const token = sealed === '' ? '' : this.#sealer.open(sealed, id)
    if (token === undefined) {
      // Its next heartbeat has it register again, with a token that is sealed anew.
      await changeScript.run(this.#redis, [this.#key(id)], ['isOutdated', '1'])
      throw unreachable(`the token for the API of worker ${id} was sealed under another admin token; the worker is asked for another one, try again in some seconds, and give all gateways one token file`)
    }
    return { worker, url: worker.apiUrl.replace(/\/+$/, ''), token, ...worker.apiCa === '' ? {} : { ca: worker.apiCa } }
  }

  async reserve (id: string, { cpuMillis, memoryBytes }: Room): Promise<void> {
    await reserveScript.run(this.#redis, [this.#key(id)], [Math.round(cpuMillis), Math.round(memoryBytes)])
    const worker = (await this.#lately?.workers.catch(() => []))?.find(known => known.id === id)
    if (!worker) return
    const { free } = worker
    worker.free = { cpuMillis: Math.max(0, free.cpuMillis - cpuMillis), memoryBytes: Math.max(0, free.memoryBytes - memoryBytes) }
  }

  async wish (id: string, wish: 'drain' | 'undrain'): Promise<void> {
    if (await wishScript.run(this.#redis, [this.#key(id)], [wish]) === null) throw notFound(id)
  }

  async remove (id: string): Promise<void> {
    const outcome = await this.#remove(id, this.#lostAfterMs)
    if (outcome === -1) throw notFound(id)
    if (outcome === 0) throw new BerthError('conflict', 'invalid_state', `worker ${id} is still heard of: end it, or wait until it is lost, then forget it`)
  }

  async #remove (id: string, lostAfterMs: number): Promise<number> {
    const pool = await this.findPool(id) ?? this.#pools.get(id) ?? 'default'
    this.#pools.delete(id)
    this.#lately = undefined
    return await removeScript.run(this.#redis, [this.#key(id), this.#poolKey(pool), this.#ownerKey(id)], [id, lostAfterMs]) as number
  }

  /** The time of Redis, the fields of a record, and the sealed token. */
  async #read (id: string): Promise<[nowMs: number, values: Array<string | null>, sealed: string]> {
    const [time, values] = await this.#redis.run(client => Promise.all([client.time(), client.hmget(this.#key(id), ...recordFields, 'apiToken')]))
    return [Number(time[0]) * 1000, values, values.at(-1) ?? '']
  }

  #remember (id: string, pool: string): void {
    if (this.#pools.size >= rememberedPools) this.#pools.clear()
    this.#pools.set(id, pool)
  }

  #key (id: string): string { return `${this.#redis.prefix}:{berth}:worker:${id}` }
  #poolKey (pool: string): string { return `${this.#redis.prefix}:{berth}:workers:${pool}` }
  #ownerKey (id: string): string { return `${this.#redis.prefix}:{berth}:worker_owner:${id}` }
  #ofTokenKey (tokenId: string): string { return `${this.#redis.prefix}:{berth}:workers_of_token:${tokenId}` }
  get #poolsKey (): string { return `${this.#redis.prefix}:{berth}:worker_pools` }
}

function isAsked (name: string, pool: string | undefined, pools: readonly string[] | undefined): boolean {
  return (pool === undefined || name === pool) && (pools === undefined || pools.includes(name))
}

export function notFound (id: string): BerthError {
  return new BerthError('not_found', 'worker_not_found', `there is no worker ${JSON.stringify(id.slice(0, 128))}`)
}

function unreachable (message: string): BerthError {
  return new BerthError('unavailable', 'worker_unreachable', message)
}
