import { setTimeout as delay } from 'node:timers/promises'
import { Cluster } from 'ioredis'
import type { Logger } from 'pino'
import { BerthError } from '../../errors.ts'
import { endClient, makeClient, type ClientPurpose } from './redis-client.ts'
import { explainRedis, isAccessRefusal, redisUnavailable, toRedisError } from './redis-error.ts'
import { RedisFiles } from './redis-files.ts'
import { describeRedis, parseRedisUrl, type RedisAddress, type RedisNode } from './redis-settings.ts'
import type { RedisClient, RedisConnection, RedisSettings } from './redis-types.ts'

export interface RedisOpening {
  logger?: Logger
  /** How long a call may take, and how long a server may be silent, ms; 5 s by default. */
  callTimeoutMs?: number
}

/** Of the same trouble at most one line in the log in this time. */
const logEveryMs = 60_000

/**
 * Connects, and stays connected until it is closed. Answers once it is connected, or it has shown that it cannot be for the moment:
 * a host starts without its Redis.
 *
 * @throws Error where the settings make no sense or a file cannot be read.
 */
export async function openRedis (settings: RedisSettings, { logger, callTimeoutMs = 5000 }: RedisOpening = {}): Promise<RedisConnection> {
  const address = parseRedisUrl(settings.url)
  const files = new RedisFiles(settings, error => { logger?.warn({ err: error }, 'a file with what Redis wants could not be read; what it held before is used') })
  const connection = new OpenRedis(address, { settings, files, callTimeoutMs, ...logger && { logger } })
  await connection.settled()
  return connection
}

interface OpenRedisParts {
  settings: RedisSettings
  files: RedisFiles
  callTimeoutMs: number
  logger?: Logger
}

class OpenRedis implements RedisConnection {
  readonly prefix: string
  readonly client: RedisClient
  readonly #address: RedisAddress
  readonly #name: string
  readonly #parts: OpenRedisParts
  readonly #others = new Set<RedisClient>()
  readonly #closing = new AbortController()
  readonly #readyListeners = new Set<() => void>()
  readonly #waiting = new Set<() => void>()
  #trouble: unknown
  #loggedAt = -Infinity
  #isTroubled = false

  constructor (address: RedisAddress, parts: OpenRedisParts) {
    this.#address = address
    this.#parts = parts
    this.prefix = parts.settings.prefix
    this.#name = describeRedis(address)
    this.client = this.#make('ordinary')
    this.client.on('ready', () => { this.#becomeReady() })
  }

  get isReady (): boolean {
    return this.client.status === 'ready'
  }

  /** Connected, or a first attempt has failed. */
  async settled (): Promise<void> {
    const over = new AbortController()
    const { promise, resolve } = Promise.withResolvers<void>()
    for (const event of ['ready', 'error']) this.client.once(event, () => { resolve() })
    await Promise.race([promise, delay(this.#parts.callTimeoutMs, undefined, { signal: over.signal }).catch(() => undefined)])
    over.abort()
  }

  async run<T> (work: (client: RedisClient) => Promise<T>): Promise<T> {
    try {
      if (!this.isReady) await this.#ready()
      return await work(this.client)
    } catch (error) {
      throw this.#closing.signal.aborted ? closed() : toRedisError(error, this.#name)
    }
  }

  another (purpose: 'blocking' | 'subscriber'): RedisClient {
    if (this.#closing.signal.aborted) throw closed()
    const client = this.#make(purpose)
    this.#others.add(client)
    return client
  }

  onReady (listener: () => void): () => void {
    const entry = (): void => { listener() }
    this.#readyListeners.add(entry)
    return () => { this.#readyListeners.delete(entry) }
  }

  async close (): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort()
    for (const resume of [...this.#waiting]) resume()
    this.#readyListeners.clear()
    await Promise.all([this.client, ...this.#others].map(endClient))
  }

  #make (purpose: ClientPurpose): RedisClient {
    const { files, callTimeoutMs } = this.#parts
    const client = makeClient({ address: this.#address, files, purpose, callTimeoutMs, nodes: () => this.#nodes() })
    client.on('error', (error: unknown) => { this.#fail(error) })
    client.on('node error', (error: unknown) => { this.#fail(error) })
    client.on('sentinelError', (error: unknown) => { this.#fail(error) })
    client.on('end', () => { this.#others.delete(client) })
    return client
  }

  /** The nodes of a cluster, as far as they are known. */
  #nodes (): RedisNode[] {
    const { client } = this
    return client instanceof Cluster ? client.nodes().map(({ options: { host = '', port = 0 } }) => ({ host, port })) : []
  }

  #becomeReady (): void {
    this.#trouble = undefined
    if (this.#isTroubled) this.#parts.logger?.info({ redis: this.#name }, 'redis serves again')
    this.#isTroubled = false
    for (const resume of [...this.#waiting]) resume()
    for (const listener of [...this.#readyListeners]) listener()
  }

  #fail (error: unknown): void {
    if (this.#closing.signal.aborted) return
    this.#trouble = error
    const now = performance.now()
    if (now - this.#loggedAt < logEveryMs) return
    this.#loggedAt = now
    this.#isTroubled = true
    const fields = { redis: this.#name, why: explainRedis(error) }
    if (isAccessRefusal(error)) this.#parts.logger?.error(fields, 'redis does not take the user or the password')
    else this.#parts.logger?.warn(fields, 'redis does not serve; it is tried again and again')
  }

  /** @throws BerthError unavailable `redis_unavailable` when there is no connection within the time for a call. */
  async #ready (): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, this.#parts.callTimeoutMs)
    this.#waiting.add(resolve)
    await promise
    clearTimeout(timer)
    this.#waiting.delete(resolve)
    if (!this.isReady) throw redisUnavailable(this.#name, this.#trouble ?? new Error(this.#address.kind === 'cluster' ? 'its nodes were not found to be a whole cluster in time; see CLUSTER INFO' : 'it did not answer in time'))
  }
}

function closed (): BerthError {
  return new BerthError('unavailable', 'redis_unavailable', 'the connection to Redis is closed: this process ends')
}
