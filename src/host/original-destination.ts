/** Where a connection was meant to go before the packet filter led it to us (DNAT). */
import type { Socket } from 'node:net'
import { readSocketOption } from './libc.ts'

export interface Destination {
  address: string
  port: number
}

// linux/in.h, linux/in6.h, linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h
const SOL_IP = 0
const SOL_IPV6 = 41
const SO_ORIGINAL_DST = 80
const sockaddrInBytes = 16
const sockaddrIn6Bytes = 28

/**
 * What the connection tracking of the kernel knows as the destination of an accepted connection; its local address where nothing led it
 * elsewhere, and undefined where connections are not tracked, or the socket is closed.
 */
export function originalDestination (socket: Socket): Destination | undefined {
  const fd = descriptorOf(socket)
  if (fd === undefined) return undefined
  const isIpv6 = socket.localFamily === 'IPv6' && socket.localAddress?.startsWith('::ffff:') === false
  const found = isIpv6 ? readSocketOption(fd, SOL_IPV6, SO_ORIGINAL_DST, sockaddrIn6Bytes) : readSocketOption(fd, SOL_IP, SO_ORIGINAL_DST, sockaddrInBytes)
  return found === undefined ? undefined : isIpv6 ? parseSockaddrIn6(found) : parseSockaddrIn(found)
}

/** Node tells the descriptor of a socket only by its handle. */
function descriptorOf (socket: Socket): number | undefined {
  const { _handle: handle } = socket as Socket & { _handle?: { fd?: number } | null }
  const fd = handle?.fd
  return fd === undefined || fd < 0 ? undefined : fd
}

// struct sockaddr_in: family, port (big endian), address
function parseSockaddrIn (bytes: Buffer): Destination | undefined {
  if (bytes.length < 8) return undefined
  return { address: [...bytes.subarray(4, 8)].join('.'), port: bytes.readUInt16BE(2) }
}

// struct sockaddr_in6: family, port (big endian), flow, address, scope
function parseSockaddrIn6 (bytes: Buffer): Destination | undefined {
  if (bytes.length < 24) return undefined
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(8 + index * 2).toString(16))
  // A URL has the shortest form of an address.
  return { address: new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1), port: bytes.readUInt16BE(2) }
}
