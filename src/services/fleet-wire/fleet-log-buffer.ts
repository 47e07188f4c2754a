/** The log of a task as its buffer in Redis has it, and as it goes on. */
import { rejectWhenAborted } from '../../lib/abort-race.ts'
import { Channel } from '../../lib/channel.ts'
import { endClient } from '../redis/redis-client.ts'
import type { RedisClient, RedisConnection } from '../redis/redis-types.ts'
import { retryForEver } from '../redis/redis-retry.ts'
import { readFleetMessage, type FleetLogEntry, type FleetStatusEvent } from './fleet-log-entry.ts'
import { wireKeys, type WireKeys } from './wire-keys.ts'

/** A place in the log: entries up to this one of this delivery are known. */
export interface FleetLogPlace {
  fence: number
  seq: number
}

export type FleetLogItem =
  | { type: 'entry', entry: FleetLogEntry }
  | { type: 'status', event: FleetStatusEvent }
  /** All output of this delivery was there. */
  | { type: 'end', fence: number }

export interface FollowOptions {
  taskKey: string
  /** Ends it; it ends on its own never, as a task may be tried again. */
  signal: AbortSignal
  /** Gives only what lies behind these. */
  after?: readonly FleetLogPlace[]
}

/** So many texts of foreign entries, which have no number, are remembered to tell which came before. */
const mostForeign = 10_000
/** A reader who is so many items, or characters, behind is read to from the buffer again, which holds fewer. */
const mostWaiting = 10_000
const mostWaitingLength = 4 * 1024 ** 2

/** One connection for all who follow. */
export class FleetLogBuffer {
  readonly #redis: RedisConnection
  readonly #keys: WireKeys
  readonly #followers = new Map<string, Set<Follower>>()
  #subscriber: RedisClient | undefined
  #isClosed = false

  constructor ({ redis }: { redis: RedisConnection }) {
    this.#redis = redis
    this.#keys = wireKeys(redis.prefix)
  }

  /** What is kept, oldest first, and which deliveries have all their output there. @throws BerthError unavailable `redis_unavailable`. */
  async read (taskKey: string): Promise<{ entries: FleetLogEntry[], endedFences: number[] }> {
    const { raws, endedFences } = await this.#readRaw(taskKey)
    return { entries: raws.map(readFleetMessage).filter(found => found !== undefined && 'data' in found) as FleetLogEntry[], endedFences }
  }

  /** Keeps nothing of a task any more; what its hosts still ship begins anew. @throws BerthError unavailable `redis_unavailable`. */
  async drop (taskKey: string): Promise<void> {
    // On one node of a cluster.
    await this.#redis.run(client => client.del(this.#keys.logBuffer(taskKey), this.#keys.logPlace(taskKey)))
  }

  /** What is kept, and then what comes, each entry once and in the order of its delivery, whatever becomes of the connection. */
  async * follow ({ taskKey, signal, after = [] }: FollowOptions): AsyncGenerator<FleetLogItem, void, void> {
    const channel = this.#keys.logs(taskKey)
    const follower = new Follower(after)
    const stop = (): void => { follower.items.close() }
    signal.addEventListener('abort', stop, { once: true })
    try {
      if (signal.aborted || this.#isClosed) return
      await rejectWhenAborted(this.#join(channel, follower), signal).catch(() => undefined)
      while (!signal.aborted && !this.#isClosed) {
        // What comes while the buffer is read is in it already, or waits to follow it.
        follower.beginAnew()
        const read = await retryForEver(() => this.#readRaw(taskKey), { signal, onError: () => {} })
        if (!read || this.#isClosed) return
        yield * follower.takeBuffer(read)
        yield * follower.live()
      }
    } finally {
      signal.removeEventListener('abort', stop)
      this.#leave(channel, follower)
    }
  }

  /** Ends all who follow. */
  close (): void {
    this.#isClosed = true
    for (const followers of this.#followers.values()) for (const { items } of followers) items.close()
    if (this.#subscriber) void endClient(this.#subscriber)
  }

  async #readRaw (taskKey: string): Promise<{ raws: string[], endedFences: number[] }> {
    return await this.#redis.run(async client => {
      // The end is said behind the last entry, so it is asked for first.
      const place = await client.hkeys(this.#keys.logPlace(taskKey))
      const raws = await client.lrange(this.#keys.logBuffer(taskKey), 0, -1)
      return { raws, endedFences: place.filter(name => name.startsWith('end:')).map(name => Number(name.slice(4))) }
    })
  }

  /** Resolves once it hears what is published. */
  async #join (channel: string, follower: Follower): Promise<void> {
    const followers = this.#followers.get(channel) ?? new Set()
    this.#followers.set(channel, followers)
    followers.add(follower)
    await this.#listen().subscribe(channel).catch(() => undefined)
  }

  #leave (channel: string, follower: Follower): void {
    const followers = this.#followers.get(channel)
    followers?.delete(follower)
    if (followers?.size !== 0) return
    this.#followers.delete(channel)
    this.#subscriber?.unsubscribe(channel).catch(() => undefined)
  }

  #listen (): RedisClient {
    if (this.#subscriber) return this.#subscriber
    const client = this.#redis.another('subscriber')
    client.on('message', (channel: string, text: string) => {
      for (const follower of this.#followers.get(channel) ?? []) follower.hear(text)
    })
    // What was published in the meantime was missed.
    client.on('ready', () => { void this.#listenAgain(client) })
    this.#subscriber = client
    return client
  }

  async #listenAgain (client: RedisClient): Promise<void> {
    const channels = [...this.#followers.keys()]
    if (channels.length > 0) await client.subscribe(...channels).catch(() => undefined)
    for (const followers of this.#followers.values()) for (const follower of followers) follower.fallBehind()
  }
}

/** One who follows: what it has had, and what waits for it. */
class Follower {
  items = new Channel<string>(mostWaiting)
  /** Must read the buffer again: what it hears until then is of no use. */
  #isBehind = true
  readonly #last = new Map<number, number>()
  readonly #ended = new Set<number>()
  readonly #foreign = new Set<string>()
  /** Showed that something was missed, which is to be read before it. */
  #held: string | undefined
  #waiting = 0
  #waitingLength = 0

  constructor (after: readonly FleetLogPlace[]) {
    for (const { fence, seq } of after) this.#last.set(fence, seq)
  }

  hear (text: string): void {
    if (this.#isBehind) return
    this.#waitingLength += text.length
    if (++this.#waiting > mostWaiting || this.#waitingLength > mostWaitingLength) this.fallBehind()
    else void this.items.push(text)
  }

  fallBehind (): void {
    this.#isBehind = true
    this.items.close()
  }

  beginAnew (): void {
    this.#isBehind = false
    this.#waiting = 0
    this.#waitingLength = 0
    this.items = new Channel<string>(mostWaiting)
  }

  * takeBuffer ({ raws, endedFences }: { raws: readonly string[], endedFences: readonly number[] }): Generator<FleetLogItem> {
    const held = this.#held
    this.#held = undefined
    for (const raw of raws) yield * this.#take(raw)
    if (held !== undefined) yield * this.#take(held)
    for (const fence of endedFences) yield * this.#end(fence)
  }

  /** Until it has fallen behind, or is over. */
  async * live (): AsyncGenerator<FleetLogItem> {
    for await (const text of this.items) {
      this.#waiting--
      this.#waitingLength -= text.length
      if (this.#showsLoss(text)) {
        this.#held = text
        this.fallBehind()
        return
      }
      yield * this.#take(text)
    }
  }

  /** Numbers have no holes: nodes of a cluster that were cut off from each other have not told everything. */
  #showsLoss (text: string): boolean {
    const found = readFleetMessage(text)
    return found !== undefined && 'data' in found && found.fence !== undefined && found.seq !== undefined && found.seq > (this.#last.get(found.fence) ?? -1) + 1
  }

  * #take (raw: string): Generator<FleetLogItem> {
    const found = readFleetMessage(raw)
    if (!found) return
    if ('log_end' in found) yield * this.#end(found.fence)
    else if (!('data' in found)) yield { type: 'status', event: found }
    else if (this.#isNews(raw, found)) yield { type: 'entry', entry: found }
  }

  * #end (fence: number): Generator<FleetLogItem> {
    if (this.#ended.has(fence)) return
    this.#ended.add(fence)
    yield { type: 'end', fence }
  }

  #isNews (raw: string, { fence, seq }: FleetLogEntry): boolean {
    if (fence === undefined || seq === undefined) {
      if (this.#foreign.has(raw)) return false
      if (this.#foreign.size >= mostForeign) this.#foreign.delete(this.#foreign.values().next().value!)
      this.#foreign.add(raw)
      return true
    }
    if (seq <= (this.#last.get(fence) ?? -1)) return false
    this.#last.set(fence, seq)
    return true
  }
}
