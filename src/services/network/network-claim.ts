/**
 * The block of addresses that a daemon has for itself. Several daemons share a host and know nothing of each other; the kernel keeps
 * them apart: the gateway's address on lo, labelled with the daemon's tag, is given to the first who adds it.
 */
import { BerthError } from '../../errors.ts'
import { IpError, readIpJson, runIpBatch } from '../../host/ip-batch.ts'
import { listAddresses, listRoutes } from '../../host/ip-query.ts'
import { readSysctl } from '../../host/sysctl.ts'
import { doOverlap, knownNetwork, type IpNetwork } from '../../lib/ip-network.ts'
import { countBlocks, planNetwork, tagOf, type NetworkPlan } from './network-plan.ts'

export interface NetworkClaim {
  plan: NetworkPlan
  /** Whether this host has IPv6, so that the plan's gateway6 is there. */
  hasIpv6: boolean
}

export interface NetworkClaimOptions {
  hostId: string
  /** As settings: a.b.c.d/n */
  pool4: string
  pool6: string
}

/**
 * The block of this daemon: the one it holds from an earlier start, or one that nobody on this host uses. It stays held until
 * `releaseClaim`, or until the host restarts.
 *
 * @throws BerthError unavailable `network_pools_exhausted` when there is none.
 */
export async function claimNetwork ({ hostId, pool4, pool6 }: NetworkClaimOptions): Promise<NetworkClaim> {
  const tag = tagOf(hostId)
  const planOf = (blockIndex: number): NetworkPlan => planNetwork({ tag, pool4, pool6, blockIndex })
  await bringLoopbackUp()
  const [hasIpv6, held] = await Promise.all([isIpv6Usable(), listHeld(tag)])
  const count = countBlocks(pool4, pool6)
  // From a place of its own, so that daemons which start together seldom want the same.
  const order = Array.from({ length: count }, (_, i) => (parseInt(tag, 16) + i) % count)

  const heldIndex = order.find(index => held.includes(planOf(index).gateway4))
  if (heldIndex !== undefined) {
    const plan = planOf(heldIndex)
    if (hasIpv6) await addUnlessThere(`addr add ${plan.gateway6}/128 dev lo nodad`)
    return { plan, hasIpv6 }
  }

  const abandoned = await listAbandoned(order.map(planOf))
  const used = await listUsedNetworks(tag, abandoned)
  for (const plan of order.map(planOf)) {
    if (used.some(network => doOverlap(network, knownNetwork(plan.block4)) || doOverlap(network, knownNetwork(plan.block6)))) continue
    // One that is there may be ours: of a daemon that was killed before the kernel had done what it had asked for.
    const isTaken = !await addUnlessThere(`addr add ${plan.gateway4}/32 dev lo label lo:${tag}`)
    if (isTaken && !(await listHeld(tag)).includes(plan.gateway4)) continue
    if (!hasIpv6 || await addUnlessThere(`addr add ${plan.gateway6}/128 dev lo nodad`) || abandoned.has(plan.gateway6)) return { plan, hasIpv6 }
    // IPv6 addresses have no label, so whoever holds it is not us.
    await runIpBatch([`addr del ${plan.gateway4}/32 dev lo`], { isForced: true })
  }
  throw new BerthError('unavailable', 'network_pools_exhausted',
    `no block of addresses for sandboxes is free: this host, or other daemons on it, use addresses in all ${count} blocks of ${pool4} and ${pool6}; ` +
    'give BERTH_NETWORK_IPV4_POOL and BERTH_NETWORK_IPV6_POOL private networks that the host does not use')
}

/**
 * Gives the block back, and those held by other settings, which stay until nobody has an address of theirs. Idempotent.
 * IPv4 addresses go last: they say who holds a block.
 */
export async function releaseClaim ({ tag, gateway4, gateway6 }: NetworkPlan, { pool4, pool6 }: Pick<NetworkClaimOptions, 'pool4' | 'pool6'>): Promise<void> {
  const held = new Set([gateway4, ...await listHeld(tag)])
  const plans = Array.from({ length: countBlocks(pool4, pool6) }, (_, blockIndex) => planNetwork({ tag, pool4, pool6, blockIndex }))
  const held6 = new Set([gateway6, ...plans.filter(plan => held.has(plan.gateway4)).map(plan => plan.gateway6)])
  await runIpBatch([...[...held6].map(address => `addr del ${address}/128 dev lo`), ...[...held].map(address => `addr del ${address}/32 dev lo`)], { isForced: true })
}

async function bringLoopbackUp (): Promise<void> {
  const [lo] = await readIpJson<{ flags: string[] }>(['link', 'show', 'dev', 'lo'])
  if (!lo?.flags?.includes('UP')) await runIpBatch(['link set lo up'])
}

/** Whether addresses can be given to lo and to links that are made from here on. */
async function isIpv6Usable (): Promise<boolean> {
  const values = await Promise.all(['lo', 'default'].map(device => readSysctl(`net/ipv6/conf/${device}/disable_ipv6`)))
  return values.every(value => value === '0')
}

/** IPv4 addresses on lo with the tag of this daemon. */
async function listHeld (tag: string): Promise<string[]> {
  return (await listAddresses('lo')).filter(({ label }) => label === `lo:${tag}`).map(({ address }) => address)
}

/**
 * IPv6 addresses of blocks that nobody holds: whoever holds a block has its IPv4 address on lo from before it adds the other until after
 * it has removed it. Where a daemon has IPv4 addresses of another pool there is no telling whose they are.
 */
async function listAbandoned (plans: readonly NetworkPlan[]): Promise<ReadonlySet<string>> {
  const claimed = new Set((await listAddresses('lo')).filter(({ label }) => label !== undefined && claimLabel.test(label)).map(({ address }) => address))
  const known = new Set(plans.map(({ gateway4 }) => gateway4))
  if ([...claimed].some(address => !known.has(address))) return new Set()
  return new Set(plans.filter(({ gateway4 }) => !claimed.has(gateway4)).map(({ gateway6 }) => gateway6))
}

const claimLabel = /^lo:[0-9a-f]{6}$/

async function addUnlessThere (line: string): Promise<boolean> {
  try {
    await runIpBatch([line])
    return true
  } catch (error) {
    if (error instanceof IpError && error.problem === 'exists') return false
    throw error
  }
}

/** Networks that this host has or reaches in a way of its own, by the names of links without those of this daemon. */
async function listUsedNetworks (tag: string, abandoned: ReadonlySet<string>): Promise<IpNetwork[]> {
  const [addresses, ...routes] = await Promise.all([listAddresses(), listRoutes(4), listRoutes(6)])
  const isOurs = (device: string | undefined): boolean => device?.startsWith(`bv${tag}`) === true
  const isAbandoned = (device: string | undefined, address: string): boolean => device === 'lo' && abandoned.has(address)
  return [
    ...addresses.filter(({ device, address }) => !isOurs(device) && !isAbandoned(device, address)).map(({ address, prefixLength }) => knownNetwork(`${address}/${prefixLength}`)),
    ...routes.flat()
      .filter(({ destination, device, type }) => destination !== 'default' && !notOfNetworks.has(type) && !isOurs(device) && !isAbandoned(device, destination))
      .map(({ destination }) => knownNetwork(destination))
      .filter(({ family, prefixLength }) => prefixLength > longestOfDefaults[family]),
  ]
}

/** Routes that the kernel makes beside addresses, and that say nothing more. */
const notOfNetworks: ReadonlySet<string> = new Set(['local', 'broadcast', 'anycast', 'multicast'])
// Ways out to everywhere are written in halves and eighths too, as 0.0.0.0/1 or 2000::/3.
const longestOfDefaults = { 4: 3, 6: 6 }
