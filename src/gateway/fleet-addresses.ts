import { BerthError } from '../errors.ts'
import { formatAddress, formatNetwork, knownNetwork, sizeOf, type IpNetwork } from '../lib/ip-network.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import { FleetScript } from './fleet-script.ts'
import type { WorkerOwner } from './worker-registry.ts'

export interface FleetAddressesOptions {
  redis: RedisConnection
  /** As parseLeasedPool gives it; empty: no addresses are given. */
  pool: string
}

export interface FleetAddress {
  ip: string
  gateway: string
  prefixLen: number
}

/** The network itself is 0 and its gateway 1, so the first for a sandbox is this one. */
const firstOffset = 2

/** More sandboxes than a host has at a time, with those that wait to be used. */
const maxOfWorker = 4096

/**
 * KEYS: leases, free, next, counts. ARGV: sandbox, worker, first and last offset, token, token in whose place it may come or `*`, for whom it
 * counts. A lease is `<offset> <worker> <token> <for whom>`. Answers an offset, -1 when there is none, -2 where too many are lent to this
 * one, or the other token that has it. What nobody had yet goes first, then what was given back longest ago: whoever had an address may still be spoken to under it.
 */
const allocateScript = new FleetScript(`
local held = redis.call('HGET', KEYS[1], ARGV[1])
local offset, token, counted = string.match(held or '', '^(%d+) %S* ?(%S*) ?(%S*)')
if offset and token ~= '' and token ~= ARGV[5] and token ~= ARGV[6] and ARGV[6] ~= '*' then return token end
if counted ~= ARGV[7] then
  if tonumber(redis.call('HGET', KEYS[4], ARGV[7]) or '0') >= ${maxOfWorker} then return -2 end
  if counted and counted ~= '' and redis.call('HINCRBY', KEYS[4], counted, -1) <= 0 then redis.call('HDEL', KEYS[4], counted) end
end
if not offset then
  local next = tonumber(redis.call('GET', KEYS[3]) or ARGV[3])
  if next <= tonumber(ARGV[4]) then
    offset = next
    redis.call('SET', KEYS[3], next + 1)
  else
    offset = redis.call('LPOP', KEYS[2])
  end
end
if not offset then return -1 end
if counted ~= ARGV[7] then redis.call('HINCRBY', KEYS[4], ARGV[7], 1) end
redis.call('HSET', KEYS[1], ARGV[1], table.concat({ offset, ARGV[2], ARGV[5], ARGV[7] }, ' '))
return tonumber(offset)
`)

/** KEYS: leases, free, counts. ARGV: sandbox, token, token in whose place it may come or `*`. Answers 0, 1 when it had an address, or the other token that has it. */
const releaseScript = new FleetScript(`
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
local offset, token, counted = string.match(held, '^(%d+) %S* ?(%S*) ?(%S*)')
if token ~= '' and token ~= ARGV[2] and token ~= ARGV[3] and ARGV[3] ~= '*' then return token end
if counted ~= '' and redis.call('HINCRBY', KEYS[3], counted, -1) <= 0 then redis.call('HDEL', KEYS[3], counted) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[2], offset)
return 1
`)

/** Lends addresses of one network to sandboxes of the whole fleet. Each network has its own leases. */
export class FleetAddresses {
  readonly #redis: RedisConnection
  readonly #network: IpNetwork | undefined
  readonly #keys: { leases: string, free: string, next: string, counts: string }

  constructor ({ redis, pool }: FleetAddressesOptions) {
    this.#redis = redis
    this.#network = pool === '' ? undefined : knownNetwork(pool)
    const base = `${redis.prefix}:{berth}:addresses:${pool}`
    this.#keys = { leases: `${base}:leases`, free: `${base}:free`, next: `${base}:next`, counts: `${base}:counts` }
  }

  /**
   * The same sandbox gets the same address again. Answers the id of the token that has it, where that is another.
   * @throws BerthError exhausted `addresses_exhausted`; conflict `addresses_not_given`.
   */
  async allocate (sandboxId: string, workerId: string, { tokenId, instead = '', countedFor }: WorkerOwner & { countedFor: string }): Promise<FleetAddress | string> {
    const network = this.#network
    if (!network) throw new BerthError('conflict', 'addresses_not_given', 'this gateway gives no addresses: set BERTH_GATEWAY_IPV4_POOL on all gateways')
    // The last one is for broadcasts.
    const lastOffset = Number(sizeOf(network)) - 2
    const { leases, free, next, counts } = this.#keys
    const values = [sandboxId, workerId, firstOffset, lastOffset, tokenId, instead, countedFor]
    const offset = await allocateScript.run(this.#redis, [leases, free, next, counts], values) as number | string
    if (typeof offset === 'string') return offset
    if (offset === -2) throw new BerthError('exhausted', 'addresses_exhausted', `${maxOfWorker} addresses are lent to this worker, which is the most; give back those that are no longer used`)
    if (offset < 0) throw new BerthError('exhausted', 'addresses_exhausted', `all ${lastOffset - 1} addresses of ${formatNetwork(network)} are lent; stop or delete sandboxes, or give the fleet a larger network`)
    const at = (index: number): string => formatAddress({ family: 4, value: network.first + BigInt(index) })
    return { ip: at(offset), gateway: at(1), prefixLen: network.prefixLength }
  }

  /** Idempotent. Answers the id of the token that has the address, where that is another. */
  async release (sandboxId: string, { tokenId, instead = '' }: WorkerOwner): Promise<string | undefined> {
    const { leases, free, counts } = this.#keys
    const answer = await releaseScript.run(this.#redis, [leases, free, counts], [sandboxId, tokenId, instead])
    return typeof answer === 'string' ? answer : undefined
  }

  /** Takes back all that a worker which will not come back has; answers how many. */
  async releaseOf (workerId: string): Promise<number> {
    let count = 0
    let cursor = '0'
    do {
      const [next, found] = await this.#redis.run(client => client.hscan(this.#keys.leases, cursor, 'COUNT', 1000))
      cursor = next
      for (let index = 0; index < found.length; index += 2) {
        if (found[index + 1]?.split(' ')[1] !== workerId) continue
        await this.release(found[index]!, { tokenId: '', instead: '*' })
        count++
      }
    } while (cursor !== '0')
    return count
  }
}
