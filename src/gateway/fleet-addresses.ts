import { BerthError } from '../errors.ts'
import { formatAddress, formatNetwork, knownNetwork, sizeOf, type IpNetwork } from '../lib/ip-network.ts'
import type { RedisConnection } from '../services/redis/redis-types.ts'
import { FleetScript } from './fleet-script.ts'

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

/**
 * KEYS: leases, free, next. ARGV: sandbox, worker, first and last offset. Answers an offset, or -1 when there is none.
 * What nobody had yet goes first, then what was given back longest ago: whoever had an address may still be spoken to under it.
 */
const allocateScript = new FleetScript(`
local held = redis.call('HGET', KEYS[1], ARGV[1])
local offset = held and string.match(held, '^%d+')
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
redis.call('HSET', KEYS[1], ARGV[1], offset .. ' ' .. ARGV[2])
return tonumber(offset)
`)

/** KEYS: leases, free. ARGV: sandbox. Answers whether it had an address. */
const releaseScript = new FleetScript(`
local held = redis.call('HGET', KEYS[1], ARGV[1])
if not held then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[2], string.match(held, '^%d+'))
return 1
`)

/** Lends addresses of one network to sandboxes of the whole fleet. Each network has its own leases. */
export class FleetAddresses {
  readonly #redis: RedisConnection
  readonly #network: IpNetwork | undefined
  readonly #keys: { leases: string, free: string, next: string }

  constructor ({ redis, pool }: FleetAddressesOptions) {
    this.#redis = redis
    this.#network = pool === '' ? undefined : knownNetwork(pool)
    const base = `${redis.prefix}:{berth}:addresses:${pool}`
    this.#keys = { leases: `${base}:leases`, free: `${base}:free`, next: `${base}:next` }
  }

  /** The same sandbox gets the same address again. @throws BerthError exhausted `addresses_exhausted`; conflict `addresses_not_given`. */
  async allocate (sandboxId: string, workerId: string): Promise<FleetAddress> {
    const network = this.#network
    if (!network) throw new BerthError('conflict', 'addresses_not_given', 'this gateway gives no addresses: set BERTH_GATEWAY_IPV4_POOL on all gateways')
    // The last one is for broadcasts.
    const lastOffset = Number(sizeOf(network)) - 2
    const { leases, free, next } = this.#keys
    const offset = await allocateScript.run(this.#redis, [leases, free, next], [sandboxId, workerId, firstOffset, lastOffset]) as number
    if (offset < 0) throw new BerthError('exhausted', 'addresses_exhausted', `all ${lastOffset - 1} addresses of ${formatNetwork(network)} are lent; stop or delete sandboxes, or give the fleet a larger network`)
    const at = (index: number): string => formatAddress({ family: 4, value: network.first + BigInt(index) })
    return { ip: at(offset), gateway: at(1), prefixLen: network.prefixLength }
  }

  /** Idempotent. */
  async release (sandboxId: string): Promise<void> {
    await releaseScript.run(this.#redis, [this.#keys.leases, this.#keys.free], [sandboxId])
  }

  /** Takes back all that a worker which will not come back has; answers how many. */
  async releaseOf (workerId: string): Promise<number> {
    let count = 0
    let cursor = '0'
    do {
      const [next, found] = await this.#redis.run(client => client.hscan(this.#keys.leases, cursor, 'COUNT', 1000))
      cursor = next
      for (let index = 0; index < found.length; index += 2) {
        if (found[index + 1]?.replace(/^\d+ /, '') !== workerId) continue
        await this.release(found[index]!)
        count++
      }
    } while (cursor !== '0')
    return count
  }
}
