/** Which addresses a sandbox may reach by being public, which only by an entry of its own, and which never. */
import { doOverlap, hasAddress, knownNetwork, parseAddress, type IpNetwork } from '../../lib/ip-network.ts'

/** public: reached with `internet`; private: only with an entry that is an address; forbidden: never. */
export type AddressClass = 'public' | 'private' | 'forbidden'

/** The networks that daemons of this host give their sandboxes addresses from. */
export interface Pools {
  pool4: string
  pool6: string
  /** The network that all hosts of a fleet have addresses from, when they are lent. */
  leasedPool4?: string
}

export interface AddressRange {
  cidr: string
  network: IpNetwork
  /** For messages: it follows "is" or "contains". */
  what: string
}

// From IANA's registries of special-purpose addresses, and what clouds document of their metadata services.
const forbiddenTable: [cidr: string, what: string][] = [
  ['0.0.0.0/8', 'addresses of "this network"'],
  ['127.0.0.0/8', 'loopback'],
  ['169.254.0.0/16', 'link-local and cloud metadata'],
  ['168.63.129.16/32', 'the metadata service of Azure'],
  ['100.100.100.200/32', 'the metadata service of Alibaba Cloud'],
  ['192.0.0.0/24', 'protocol assignments and the metadata service of Oracle Cloud'],
  ['192.88.99.0/24', '6to4 relays'],
  ['224.0.0.0/4', 'multicast'],
  ['240.0.0.0/4', 'reserved addresses and broadcast'],
  // With ::1, and addresses that embed an IPv4 address, which would lead around every rule for IPv4.
  ['::/96', 'loopback and IPv4-compatible addresses'],
  ['::ffff:0:0/96', 'IPv4-mapped addresses'],
  ['::ffff:0:0:0/96', 'IPv4-translated addresses'],
  ['64:ff9b::/96', 'NAT64'],
  ['64:ff9b:1::/48', 'NAT64'],
  ['2001::/32', 'Teredo'],
  ['2002::/16', '6to4'],
  ['100::/64', 'addresses that discard'],
  ['fd00:ec2::/32', 'the metadata service of AWS'],
  ['fd20:ce::254/128', 'the metadata service of Google Cloud'],
  ['fd00:c1::a9fe:a9fe/128', 'the metadata service of Oracle Cloud'],
  ['fd00:42::42/128', 'the metadata service of Scaleway'],
  ['fe80::/10', 'link-local'],
  ['ff00::/8', 'multicast'],
]

const privateTable: [cidr: string, what: string][] = [
  ['10.0.0.0/8', 'private addresses'],
  ['100.64.0.0/10', 'shared addresses of carriers'],
  ['172.16.0.0/12', 'private addresses'],
  ['192.168.0.0/16', 'private addresses'],
  ['198.18.0.0/15', 'addresses for benchmarks'],
  ['fc00::/7', 'private addresses'],
  ['fec0::/10', 'site-local addresses'],
]

const rangeOf = ([cidr, what]: [string, string]): AddressRange => ({ cidr, network: knownNetwork(cidr), what })

/** Forbidden on every host, whatever its pools are. */
export const forbiddenEverywhere: readonly AddressRange[] = forbiddenTable.map(rangeOf)
export const privateRanges: readonly AddressRange[] = privateTable.map(rangeOf)

// A process knows one pair of pools; the check happens for every connection.
let latest: { pools: Pools, ranges: readonly AddressRange[] } | undefined

/** What no sandbox of a host with these pools reaches, whatever it is allowed. */
export function forbiddenRanges ({ pool4, pool6, leasedPool4 = '' }: Pools): readonly AddressRange[] {
  if (latest?.pools.pool4 !== pool4 || latest.pools.pool6 !== pool6 || latest.pools.leasedPool4 !== leasedPool4) {
    const pools = [pool4, pool6, leasedPool4].filter(Boolean).map((pool): [string, string] => [pool, 'addresses of sandboxes'])
    latest = { pools: { pool4, pool6, leasedPool4 }, ranges: [...pools.map(rangeOf), ...forbiddenEverywhere] }
  }
  return latest.ranges
}

/** What is no address in its usual form is forbidden. */
export function classifyAddress (address: string, pools: Pools): AddressClass {
  const parsed = parseAddress(address)
  if (parsed === undefined || forbiddenRanges(pools).some(({ network }) => hasAddress(network, parsed))) return 'forbidden'
  return privateRanges.some(({ network }) => hasAddress(network, parsed)) ? 'private' : 'public'
}

/** Ranges that a network has addresses of. */
export function overlapping (network: IpNetwork, ranges: readonly AddressRange[]): AddressRange[] {
  return ranges.filter(range => doOverlap(network, range.network))
}
