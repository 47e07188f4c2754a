/** Ethernet frames as hexadecimal text, for frame-sender.ts. */
import { parseAddress } from '../../src/lib/ip-network.ts'

export interface FrameEnds {
  /** MAC addresses, `02:00:…`. */
  fromMac: string
  toMac: string
}

const [etherTypeIpv4, etherTypeArp, etherTypeIpv6] = ['0800', '0806', '86dd']
const [protocolIcmp, protocolUdp, protocolIcmpv6] = [1, 17, 58]

const hex = (value: number, bytes: number): string => value.toString(16).padStart(2 * bytes, '0')
const mac = (text: string): string => text.replaceAll(':', '')

function hexOf (address: string): string {
  const parsed = parseAddress(address)
  if (!parsed) throw new Error(`"${address}" is no address`)
  return parsed.value.toString(16).padStart(parsed.family === 4 ? 8 : 32, '0')
}

/** The Internet checksum, RFC 1071. */
function checksum (data: string): string {
  let sum = 0
  for (const word of data.padEnd(Math.ceil(data.length / 4) * 4, '0').match(/.{4}/g) ?? []) sum += Number.parseInt(word, 16)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return hex(~sum & 0xffff, 2)
}

/** A datagram with any source address. */
export function udpFrame ({ fromMac, toMac, source, destination, port, text }: FrameEnds & { source: string, destination: string, port: number, text: string }): string {
  const isIpv6 = source.includes(':')
  const payload = Buffer.from(text).toString('hex')
  const length = 8 + text.length
  const [from, to] = [hexOf(source), hexOf(destination)]
  const header = `${hex(40_000, 2)}${hex(port, 2)}${hex(length, 2)}`
  const udp = `${header}${checksum(`${from}${to}${hex(protocolUdp, 2)}${hex(length, 2)}${header}0000${payload}`)}${payload}`
  const link = `${mac(toMac)}${mac(fromMac)}`
  if (isIpv6) return `${link}${etherTypeIpv6}60000000${hex(length, 2)}${hex(protocolUdp, 1)}40${from}${to}${udp}`
  return `${link}${etherTypeIpv4}${ipv4Packet(protocolUdp, from, to, udp)}`
}

/** An echo request of IPv4. */
export function pingFrame ({ fromMac, toMac, source, destination }: FrameEnds & { source: string, destination: string }): string {
  const rest = '12340001'
  const message = `0800${checksum(`08000000${rest}`)}${rest}`
  return `${mac(toMac)}${mac(fromMac)}${etherTypeIpv4}${ipv4Packet(protocolIcmp, hexOf(source), hexOf(destination), message)}`
}

function ipv4Packet (protocol: number, from: string, to: string, payload: string): string {
  const before = `4500${hex(20 + payload.length / 2, 2)}0001400040${hex(protocol, 1)}`
  return `${before}${checksum(`${before}0000${from}${to}`)}${from}${to}${payload}`
}

/** An ARP reply to everybody that nobody asked for: `address` is at `fromMac`. */
export function gratuitousArp ({ fromMac, address, target }: { fromMac: string, address: string, target: string }): string {
  return `ffffffffffff${mac(fromMac)}${etherTypeArp}0001080006040002${mac(fromMac)}${hexOf(address)}ffffffffffff${hexOf(target)}`
}

/** A neighbour advertisement (RFC 4861, 4.4) that overrides what is known: `address` is at `fromMac`. */
export function neighbourAdvertisement ({ fromMac, toMac, address, target }: FrameEnds & { address: string, target: string }): string {
  const [from, to] = [hexOf(address), hexOf(target)]
  const message = (sum: string) => `8800${sum}20000000${from}0201${mac(fromMac)}`
  const length = 32
  const sum = checksum(`${from}${to}${hex(length, 2)}${hex(protocolIcmpv6, 2)}${message('0000')}`)
  return `${mac(toMac)}${mac(fromMac)}${etherTypeIpv6}60000000${hex(length, 2)}${hex(protocolIcmpv6, 1)}ff${from}${to}${message(sum)}`
}
