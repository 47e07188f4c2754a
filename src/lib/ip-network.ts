/** Addresses and networks of both families as numbers: what lies in what, and how it is written. */
import { isIPv4, isIPv6 } from 'node:net'
import ipaddr from 'ipaddr.js'

export type Family = 4 | 6

export interface IpAddress {
  family: Family
  value: bigint
}

export interface IpNetwork {
  family: Family
  /** Its first address. */
  first: bigint
  prefixLength: number
}

/** The address that a text is in its usual form; undefined for everything else: short forms, leading zeros, zones. */
export function parseAddress (text: string): IpAddress | undefined {
  const family = isIPv4(text) ? 4 : isIPv6(text) && !text.includes('%') ? 6 : undefined
  if (family === undefined) return undefined
  return { family, value: ipaddr.parse(text).toByteArray().reduce((value, byte) => value << 8n | BigInt(byte), 0n) }
}

/** `10.0.0.0/8`, or an address alone as the network of that address; bits of the host are dropped. */
export function parseNetwork (text: string): IpNetwork | undefined {
  const [, addressText = '', lengthText] = /^([^/]*)(?:\/(0|[1-9]\d{0,2}))?$/.exec(text) ?? []
  const address = parseAddress(addressText)
  if (address === undefined) return undefined
  const prefixLength = lengthText === undefined ? bitsOf(address.family) : Number(lengthText)
  return prefixLength > bitsOf(address.family) ? undefined : networkOf(address, prefixLength)
}

/** The network that a text is known to be. Throws where it is none. */
export function knownNetwork (text: string): IpNetwork {
  const network = parseNetwork(text)
  if (network === undefined) throw new Error(`"${text}" is not a network`)
  return network
}

export const bitsOf = (family: Family): number => family === 4 ? 32 : 128

export function networkOf ({ family, value }: IpAddress, prefixLength: number): IpNetwork {
  const hostBits = BigInt(bitsOf(family) - prefixLength)
  return { family, first: value >> hostBits << hostBits, prefixLength }
}

export const sizeOf = ({ family, prefixLength }: IpNetwork): bigint => 1n << BigInt(bitsOf(family) - prefixLength)

export function hasAddress (network: IpNetwork, address: IpAddress): boolean {
  return network.family === address.family && (address.value ^ network.first) >> BigInt(bitsOf(network.family) - network.prefixLength) === 0n
}

/** Whether the inner one lies wholly within the outer one; a network lies within itself. */
export function liesWithin (inner: IpNetwork, outer: IpNetwork): boolean {
  return inner.prefixLength >= outer.prefixLength && hasAddress(outer, { family: inner.family, value: inner.first })
}

/** Whether they have addresses in common. */
export function doOverlap (one: IpNetwork, other: IpNetwork): boolean {
  return liesWithin(one, other) || liesWithin(other, one)
}

/** What is left of a network without one that lies within it: the fewest networks, in order. */
export function without (network: IpNetwork, hole: IpNetwork): IpNetwork[] {
  if (!liesWithin(hole, network)) return [network]
  if (network.prefixLength === hole.prefixLength) return []
  const half = { family: network.family, prefixLength: network.prefixLength + 1 }
  const halves = [network.first, network.first + sizeOf({ ...half, first: 0n })].map(first => ({ ...half, first }))
  return halves.flatMap(part => without(part, hole))
}

/** In the one form that the family's standard recommends: `fd00::1`, RFC 5952. */
export function formatAddress ({ family, value }: IpAddress): string {
  const bytes = Array.from({ length: bitsOf(family) / 8 }, (_, i) => Number(value >> BigInt(bitsOf(family) - 8 * (i + 1)) & 0xffn))
  return ipaddr.fromByteArray(bytes).toString()
}

export const formatNetwork = ({ family, first, prefixLength }: IpNetwork): string => `${formatAddress({ family, value: first })}/${prefixLength}`
