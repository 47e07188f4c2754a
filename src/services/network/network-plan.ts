/** Names and addresses of a host's sandbox networks: all follow from the daemon's tag, its block of addresses and the number of a slot. */
import { createHash } from 'node:crypto'
import { formatAddress, formatNetwork, hasAddress, knownNetwork, networkOf, parseAddress, parseNetwork, sizeOf, type Family, type IpNetwork } from '../../lib/ip-network.ts'
import { forbiddenEverywhere, overlapping, type Pools } from './address-classes.ts'

/** A prepared network namespace with its link to the host. */
export interface NetworkSlot {
  /** 2 … plan.slotCount - 1 */
  number: number
  /** `berth-<tag>-<number as four hex digits>` */
  netns: string
  /** `/run/netns/<netns>` */
  netnsPath: string
  /** The host's end: `bv<tag><number as four hex digits>`, 12 characters; inside it is eth0. */
  device: string
  mac: string
  ipv4: string
  ipv6: string
}

/**
 * Where the network server listens on the gateway's addresses. Sandboxes know 53, 80 and 443, which the packet filter leads there: programs
 * of the host that listen on every address, as name servers and web servers do, may hold those.
 */
export const servicePorts = Object.freeze({ dns: 20_053, http: 20_080, tls: 20_443 })

export interface NetworkPlan {
  /** Six hex digits that follow from the host id: several daemons share a host. */
  tag: string
  /** Link group of all its veths. */
  group: number
  /** `berth_<tag>` */
  table: string
  /** The whole pools that daemons of this host take their blocks from; no sandbox reaches into them. */
  pool4: string
  pool6: string
  /** Where the IPv4 addresses of slots come from when they are lent to this host; it does not overlap pool4. */
  leasedPool4?: string
  /** This daemon's block. */
  block4: string
  block6: string
  /** The host's own addresses on lo, which sandboxes know as their router, name server and gateway.internal. */
  gateway4: string
  gateway6: string
  /** Of the host's end of every veth. */
  gatewayMac: string
  /** NFLOG group of the packet filter's log. */
  nflogGroup: number
  slotCount: number
  slot: (number: number) => NetworkSlot
}

/** 4094 addresses: more sandboxes than a host carries, and 16 daemons in a pool of the default size. */
const blockPrefix4 = 20
const blockPrefix6 = 112

const firstSlot = 2
/** Sandboxes send all they send to it; every veth has the same, since each is a wire of its own. */
const gatewayMac = '02:00:00:ff:ff:01'

/** Six hex digits that follow from a host id. */
export function tagOf (hostId: string): string {
  return createHash('sha256').update(hostId).digest('hex').slice(0, 6)
}

/** Reads the pools of a host's settings; canonical. Throws an Error whose message says what is wrong with which. */
export function parsePools (pool4: string, pool6: string): Pools {
  const network4 = poolOf(pool4, 4, 8, 28, '10.200.0.0/16')
  const network6 = poolOf(pool6, 6, 32, blockPrefix6, 'fd00:a1b2::/64')
  return { pool4: formatNetwork(network4), pool6: formatNetwork(network6) }
}

function poolOf (text: string, family: Family, shortest: number, longest: number, example: string): IpNetwork {
  const network = parseNetwork(text)
  if (network?.family !== family) throw new Error(`"${text}" is no IPv${family} network: write one such as ${example}`)
  const { prefixLength } = network
  if (prefixLength < shortest || prefixLength > longest) throw new Error(`"${text}" has a prefix length outside of ${shortest} to ${longest}: write a network such as ${example}`)
  const canonical = formatNetwork(network)
  if (parseAddress(text.split('/')[0] ?? '')?.value !== network.first) throw new Error(`"${text}" is an address in a network: write ${canonical}`)
  const [unusable] = overlapping(network, forbiddenEverywhere)
  if (unusable !== undefined) throw new Error(`"${text}" overlaps ${unusable.cidr} (${unusable.what}): write a private network such as ${example}`)
  return network
}

/** How many daemons find room in these pools. */
export function countBlocks (pool4: string, pool6: string): number {
  const counts = [knownNetwork(pool4), knownNetwork(pool6)].map(pool => sizeOf(pool) / sizeOf(blockOf(pool, 0)))
  return Number(counts.reduce((least, count) => count < least ? count : least))
}

export interface PlanChoice {
  tag: string
  pool4: string
  pool6: string
  /** 0 … countBlocks - 1 */
  blockIndex: number
}

export function planNetwork ({ tag, pool4, pool6, blockIndex }: PlanChoice): NetworkPlan {
  if (!/^[0-9a-f]{6}$/.test(tag)) throw new Error(`"${tag}" is no tag of a host`)
  const blockCount = countBlocks(pool4, pool6)
  if (!Number.isInteger(blockIndex) || blockIndex < 0 || blockIndex >= blockCount) throw new Error(`there is no block ${blockIndex} in ${pool4} and ${pool6}: they have ${blockCount}`)
  const block4 = blockOf(knownNetwork(pool4), blockIndex)
  const block6 = blockOf(knownNetwork(pool6), blockIndex)
  const addressIn = (block: IpNetwork, number: number): string => formatAddress({ family: block.family, value: block.first + BigInt(number) })
  // The last address of the block is no slot's: some programs take it for a broadcast.
  const slotCount = Number(sizeOf(block4)) - 1
  const hash = Number.parseInt(tag, 16)
  return {
    tag,
    group: linkGroupBase + hash,
    table: `berth_${tag}`,
    pool4,
    pool6,
    block4: formatNetwork(block4),
    block6: formatNetwork(block6),
    gateway4: addressIn(block4, 1),
    gateway6: addressIn(block6, 1),
    gatewayMac,
    nflogGroup: hash % 0xffff + 1,
    slotCount,
    slot: number => {
      if (!Number.isInteger(number) || number < firstSlot || number >= slotCount) throw new Error(`there is no slot ${number}: they are ${firstSlot} to ${slotCount - 1}`)
      const digits = number.toString(16).padStart(4, '0')
      const netns = `berth-${tag}-${digits}`
      return {
        number,
        netns,
        netnsPath: `/run/netns/${netns}`,
        device: `bv${tag}${digits}`,
        mac: `02:00:00:00:${digits.slice(0, 2)}:${digits.slice(2)}`,
        ipv4: addressIn(block4, number),
        ipv6: addressIn(block6, number),
      }
    },
  }
}

/** The slot that a network namespace or a device of this plan belongs to, by its name; undefined for everything else. */
export function slotOfName (plan: NetworkPlan, name: string): number | undefined {
  const digits = [`berth-${plan.tag}-`, `bv${plan.tag}`].flatMap(prefix => name.startsWith(prefix) ? [name.slice(prefix.length)] : [])[0]
  if (digits === undefined || !/^[0-9a-f]{4}$/.test(digits)) return undefined
  const number = Number.parseInt(digits, 16)
  return number >= firstSlot && number < plan.slotCount ? number : undefined
}

/** The slot that a sandbox has, with the address that it has; undefined when that is none of this plan's. */
export function heldSlot (plan: NetworkPlan, held: { slot: number, ipv4: string, netnsPath: string }): NetworkSlot | undefined {
  const slot = held.slot >= firstSlot && held.slot < plan.slotCount ? plan.slot(held.slot) : undefined
  if (slot?.netnsPath !== held.netnsPath) return undefined
  const leased = plan.leasedPool4 === undefined ? undefined : knownNetwork(plan.leasedPool4)
  const address = parseAddress(held.ipv4)
  const isOurs = held.ipv4 === slot.ipv4 || (leased !== undefined && address !== undefined && hasAddress(leased, address))
  return isOurs ? { ...slot, ipv4: held.ipv4 } : undefined
}

/** Far from the small numbers that people give to groups of links; 0 is the group of all links that have none. */
const linkGroupBase = 0x42000000

function blockOf (pool: IpNetwork, index: number): IpNetwork {
  const prefixLength = Math.max(pool.prefixLength, pool.family === 4 ? blockPrefix4 : blockPrefix6)
  const block = networkOf({ family: pool.family, value: pool.first }, prefixLength)
  return { ...block, first: block.first + BigInt(index) * sizeOf(block) }
}
