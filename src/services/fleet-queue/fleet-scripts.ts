import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { RedisConnection } from '../redis/redis-types.ts'

const names = ['push', 'claim', 'held', 'start', 'renew', 'settle', 'release', 'cancel', 'retry', 'stats', 'sweep', 'list', 'remove', 'prune'] as const
export type ScriptName = typeof names[number]
export type ScriptArgument = string | number

interface Script {
  source: string
  sha: string
}

/** What a script is made of, in this order, before its own text. */
const parts = ['ground', 'news', 'lanes', 'moves']
const partsOf: Partial<Record<ScriptName, readonly string[]>> = {
  renew: ['ground'],
  remove: [...parts, 'removal'],
  prune: [...parts, 'removal'],
}

/**
 * Runs the scripts: each is one step, that happens as a whole or not at all, and for all at once. They are kept by the server, which
 * forgets them when it is started again; then they are sent once more.
 */
export class FleetScripts {
  readonly #redis: RedisConnection
  readonly #base: string
  readonly #now: (() => number) | undefined
  readonly #scripts: ReadonlyMap<ScriptName, Script>

  /** `base` begins the name of each key, and has a hash tag. `now`: in the place of the time of Redis. */
  constructor (redis: RedisConnection, base: string, now: (() => number) | undefined) {
    this.#redis = redis
    this.#base = base
    this.#now = now
    this.#scripts = loaded ??= new Map(names.map(name => [name, load(name)]))
  }

  /** @throws BerthError unavailable `redis_unavailable`; it may have been carried out then. */
  async run<T> (name: ScriptName, args: readonly ScriptArgument[]): Promise<T> {
    const { sha, source } = this.#scripts.get(name)!
    const time = this.#now === undefined ? '' : Math.floor(this.#now())
    return await this.#redis.run(async client => {
      try {
        return await client.evalsha(sha, 1, this.#base, time, ...args) as T
      } catch (error) {
        if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
        return await client.eval(source, 1, this.#base, time, ...args) as T
      }
    })
  }
}

/** Once in a process, however many queues it has. */
let loaded: ReadonlyMap<ScriptName, Script> | undefined

function load (name: ScriptName): Script {
  const source = [...partsOf[name] ?? parts, name].map(read).join('\n')
  return { source, sha: createHash('sha1').update(source).digest('hex') }
}

function read (name: string): string {
  return readFileSync(new URL(`./scripts/${name}.lua`, import.meta.url), 'utf8')
}
