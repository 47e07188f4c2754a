import type { RedisClient, RedisConnection } from '../redis/redis-types.ts'
import type { TaskQueue } from '../tasks/task-queue.ts'

export type QueueListener = Parameters<TaskQueue['watch']>[0]

export interface FleetNewsOptions {
  redis: RedisConnection
  base: string
  /** Of these alone; of every pool without it. */
  pools: readonly string[] | undefined
  onError: (error: unknown) => void
  /** Somebody began to watch the queue, or nobody does any more. */
  onWatched: (isWatched: boolean) => void
  /** Something became the next to be due; heard while `hearDue` is on. */
  onDue: () => void
}

/** News can be missed: so often it is said that there may be some. Milliseconds, of which half is by chance. */
const netMs = 6000
/** The claims of a crowd of hosts come this far apart on average, where there is one task for many of them, or one for each. Milliseconds. */
const idleClaimMs = 0.5
const busyClaimMs = 0.05
/** So many hosts are sent for each task at once: some of them cannot take it. */
const hostsPerTask = 4

/**
 * What the scripts tell, by pub/sub over a connection of its own.
 *
 * A thousand hosts that hear of one task do not all ask for it at once: the news say how many tasks are due and how many hosts hear of
 * it, and each host draws by itself when it goes to look. Of few hosts, or with tasks enough, all go at once; of a crowd about four for
 * each task, and the others spread over half a millisecond for each of them, one look each however much is told meanwhile.
 */
export class FleetNews {
  readonly #options: FleetNewsOptions
  readonly #listeners = new Set<QueueListener>()
  readonly #watchers = new Map<string, Set<() => void>>()
  readonly #channels = new Set<string>()
  readonly #patterns = new Set<string>()
  #client: RedisClient | undefined
  #netTimer: NodeJS.Timeout | undefined
  #look: { at: number, timer: NodeJS.Timeout } | undefined
  #isClosed = false

  constructor (options: FleetNewsOptions) {
    this.#options = options
  }

  watchQueue (listener: QueueListener): () => void {
    const entry: QueueListener = news => listener(news)
    this.#listeners.add(entry)
    if (this.#listeners.size === 1) {
      this.#options.onWatched(true)
      const { base, pools } = this.#options
      if (pools === undefined) this.#follow(this.#patterns, [`${escapeGlob(base)}news:*`], () => this.#tellAvailable())
      else this.#follow(this.#channels, pools.map(pool => `${base}news:${pool}`), () => this.#tellAvailable())
    }
    return () => {
      if (!this.#listeners.delete(entry) || this.#listeners.size > 0) return
      this.#options.onWatched(false)
      this.#leave(this.#patterns, [...this.#patterns])
      this.#leave(this.#channels, [...this.#channels].filter(channel => channel.startsWith(`${this.#options.base}news:`)))
    }
  }

  watchTask (id: string, listener: () => void): () => void {
    const entry = (): void => { listener() }
    const channel = `${this.#options.base}changed:${id}`
    const watchers = this.#watchers.get(channel) ?? new Set()
    this.#watchers.set(channel, watchers.add(entry))
    if (watchers.size === 1) this.#follow(this.#channels, [channel], () => this.#tellChanged(channel))
    return () => {
      if (!watchers.delete(entry) || watchers.size > 0 || this.#watchers.get(channel) !== watchers) return
      this.#watchers.delete(channel)
      this.#leave(this.#channels, [channel])
    }
  }

  hearDue (isOn: boolean): void {
    const channel = `${this.#options.base}due:timekeeper`
    if (isOn === this.#channels.has(channel)) return
    if (isOn) this.#follow(this.#channels, [channel], () => this.#options.onDue())
    else this.#leave(this.#channels, [channel])
  }

  close (): void {
    this.#isClosed = true
    clearTimeout(this.#netTimer)
    clearTimeout(this.#look?.timer)
    this.#listeners.clear()
    this.#watchers.clear()
    this.#client?.disconnect()
  }

  /** `onMissed`: what was told before the subscription may have been missed. */
  #follow (set: Set<string>, names: readonly string[], onMissed: () => void): void {
    if (this.#isClosed || names.length === 0) return
    for (const name of names) set.add(name)
    const client = this.#open()
    // Sent while it connects it would come before the library's own questions, which fail then. All is asked for when it is ready.
    if (client.status !== 'ready') return
    const subscribed = set === this.#patterns ? client.psubscribe(...names) : client.subscribe(...names)
    subscribed.then(onMissed).catch((error: unknown) => { if (client.status === 'ready' && !this.#isClosed) this.#options.onError(error) })
  }

  #leave (set: Set<string>, names: readonly string[]): void {
    for (const name of names) set.delete(name)
    if (this.#isClosed || names.length === 0 || this.#client?.status !== 'ready') return
    const left = set === this.#patterns ? this.#client.punsubscribe(...names) : this.#client.unsubscribe(...names)
    left.catch(() => {})
  }

  #open (): RedisClient {
    if (this.#client !== undefined) return this.#client
    const client = this.#options.redis.another('subscriber')
    this.#client = client
    client.on('message', (channel: string, text: string) => { this.#hear(channel, text) })
    client.on('pmessage', (_pattern: string, channel: string, text: string) => { this.#hear(channel, text) })
    client.on('ready', () => { this.#followAll() })
    this.#armNet()
    return client
  }

  #followAll (): void {
    const onMissed = () => this.#tellAll()
    // What is asked for last is answered last.
    this.#follow(this.#patterns, [...this.#patterns], this.#channels.size === 0 ? onMissed : () => {})
    this.#follow(this.#channels, [...this.#channels], onMissed)
  }

  #hear (channel: string, text: string): void {
    const [kind, ...words] = text.split(' ')
    const { base } = this.#options
    if (channel.startsWith(`${base}changed:`)) this.#tellChanged(channel)
    else if (channel === `${base}due:timekeeper`) this.#options.onDue()
    else if (kind === 'cancel') this.#tellQueue({ kind, taskId: words.join(' ') })
    else if (kind === 'available') this.#lookSoon(Number(words[0]), Number(words[1]))
  }

  #lookSoon (due: number, hosts: number): void {
    const isBusy = Math.random() * hosts < hostsPerTask * Math.max(due, 1)
    const waitMs = Math.floor(Math.random() * hosts * (isBusy ? busyClaimMs : idleClaimMs))
    if (!(waitMs > 0)) return this.#tellAvailable()
    const at = performance.now() + waitMs
    if (this.#look !== undefined && this.#look.at <= at) return
    clearTimeout(this.#look?.timer)
    this.#look = { at, timer: setTimeout(() => { this.#tellAvailable() }, waitMs).unref() }
  }

  #tellAvailable (): void {
    clearTimeout(this.#look?.timer)
    this.#look = undefined
    this.#tellQueue({ kind: 'available' })
  }

  #tellQueue (news: Parameters<QueueListener>[0]): void {
    for (const listener of [...this.#listeners]) this.#safely(() => listener(news))
  }

  #tellChanged (channel: string): void {
    for (const watcher of [...this.#watchers.get(channel) ?? []]) this.#safely(watcher)
  }

  #tellAll (): void {
    this.#tellAvailable()
    for (const channel of [...this.#watchers.keys()]) this.#tellChanged(channel)
  }

  #safely (call: () => void): void {
    try {
      call()
    } catch (error) {
      this.#options.onError(error)
    }
  }

  #armNet (): void {
    this.#netTimer = setTimeout(() => {
      this.#tellAll()
      this.#armNet()
    }, netMs * (0.5 + 0.5 * Math.random())).unref()
  }
}

/** https://redis.io/docs/latest/commands/psubscribe/ */
function escapeGlob (text: string): string {
  return text.replace(/[*?[\]\\]/g, String.raw`\$&`)
}
