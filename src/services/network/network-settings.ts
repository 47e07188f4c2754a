/** Settings of the network as an operator writes them. Each parser throws an Error that says what to write. */
import { isIP } from 'node:net'
import type { Egress } from '../../schemas/network.ts'
import { doOverlap, formatNetwork, liesWithin, parseAddress as parseIpAddress, parseNetwork } from '../../lib/ip-network.ts'
import { privateRanges } from './address-classes.ts'
import { parseEgress } from './egress-policy.ts'
import { parsePools } from './network-plan.ts'
import { parseUpstreamServer } from './server/upstream-servers.ts'

/** What sandboxes of this host may reach that do not say: `none`, `internet`, or entries as in `allow`, separated by commas. */
export function parseEgressSetting (text: string): Egress {
  const trimmed = text.trim()
  if (trimmed === 'none' || trimmed === 'internet') return trimmed
  const egress = { allow: splitList(trimmed) }
  // The pools are other settings; what overlaps them is refused when a sandbox asks.
  parseEgress(egress, parsePools(defaultPools.pool4, defaultPools.pool6))
  return egress
}

export const defaultPools = Object.freeze({ pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' })

export function parsePool4 (text: string): string {
  return parsePools(text, defaultPools.pool6).pool4
}

export function parsePool6 (text: string): string {
  return parsePools(defaultPools.pool4, text).pool6
}

/** The network that a gateway gives addresses from. */
export function parseLeasedPool (text: string): string {
  const network = parseNetwork(text)
  const address = parseIpAddress(text.split('/')[0] ?? '')
  if (network?.family !== 4 || network.prefixLength < 8 || network.prefixLength > 30) throw new Error('give the IPv4 network that the gateway gives addresses from, /8 to /30, such as 10.64.0.0/12')
  if (address?.value !== network.first) throw new Error(`"${text}" is an address in a network: write ${formatNetwork(network)}`)
  if (!privateRanges.some(range => liesWithin(network, range.network))) throw new Error(`"${text}" is not a private network, such as 10.64.0.0/12`)
  return formatNetwork(network)
}

/** `gateway.internal:9090`, `192.0.2.1:9090`, `[2001:db8::1]:9090` */
export function parseGateway (text: string): string {
  const [, bracketed, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text) ?? []
  const isHost = plain !== undefined || isIP(bracketed ?? '') === 6
  if (!isHost || Number(port) < 1 || Number(port) > 65_535) throw new Error('give HOST:PORT of its gRPC service, for example gateway.example.com:9090')
  return text
}

/** What is wrong with settings of addresses that are each right by themselves; undefined when nothing is. */
export function problemOfAddressSettings ({ addresses, gateway, tokenFile, leasedPool4, pool4 }: AddressSettings): string | undefined {
  if (addresses !== 'gateway') return undefined
  const missing = Object.entries({ BERTH_GATEWAY: gateway, BERTH_GATEWAY_TOKEN_FILE: tokenFile, BERTH_GATEWAY_IPV4_POOL: leasedPool4 }).flatMap(([name, value]) => value === '' ? [name] : [])
  if (missing.length > 0) return `BERTH_NETWORK_ADDRESSES=gateway needs ${missing.join(', ')}`
  const [leased, pool] = [parseNetwork(leasedPool4), parseNetwork(pool4)]
  if (!leased || !pool || !doOverlap(leased, pool)) return undefined
  return `BERTH_GATEWAY_IPV4_POOL ${leasedPool4} overlaps BERTH_NETWORK_IPV4_POOL ${pool4}, of which this host takes its own address: give BERTH_NETWORK_IPV4_POOL another private network`
}

export interface AddressSettings {
  addresses: string
  gateway: string
  tokenFile: string
  leasedPool4: string
  pool4: string
}

/** `192.0.2.53,192.0.2.54:5353,[2001:db8::53]:53` */
export function parseResolvers (text: string): string[] {
  const entries = splitList(text)
  for (const entry of entries) parseUpstreamServer(entry)
  return entries
}

export function parseAddress (text: string): string {
  if (isIP(text) === 0) throw new Error('give an IP address of this host; 127.0.0.1 is for this host alone, 0.0.0.0 is every address')
  return text
}

export function parseDomain (text: string): string {
  const domain = text.trim().toLowerCase().replace(/\.$/, '')
  const isDomain = domain.length <= 180 && /^(?!-)[a-z0-9-]{1,63}(?:\.(?!-)[a-z0-9-]{1,63})*$/.test(domain)
  if (!isDomain || isIP(domain) !== 0) throw new Error('give a domain whose names all lead to this host, such as preview.example.com')
  return domain
}

function splitList (text: string): string[] {
  return text.split(',').map(entry => entry.trim()).filter(Boolean)
}
