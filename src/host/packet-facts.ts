/** Reads who a packet is from and for. What it reads was made by a sandbox: every length in it may be a lie, and its end may be cut off. */
import ipaddr from 'ipaddr.js'

export interface PacketFacts {
  family: 4 | 6
  /** tcp, udp, icmp, icmpv6, or the number of another. */
  protocol: string
  source: string
  destination: string
  /** tcp and udp only; absent where the packet has no such header: it is a later fragment, or is cut off before. */
  destinationPort?: number
}

const protocolNames: ReadonlyMap<number, string> = new Map([[1, 'icmp'], [6, 'tcp'], [17, 'udp'], [58, 'icmpv6']])
const protocolsWithPorts: ReadonlySet<number> = new Set([6, 17])

const ipv4HeaderBytes = 20
const ipv6HeaderBytes = 40
// RFC 8200, section 4: the extension headers that say where the next one begins; AH (51) counts in words of its own.
const extensionHeaders: ReadonlySet<number> = new Set([0, 43, 60, 135, 139, 140])
const fragmentHeader = 44
const authenticationHeader = 51
// Each of RFC 8200 once, and destination options twice, are 7.
const maxExtensionHeaders = 8

/** Answers undefined for what is no IPv4 or IPv6 packet, or is cut off before its addresses. */
export function parsePacket (bytes: Uint8Array): PacketFacts | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.byteLength < 1) return undefined
  const version = view.getUint8(0) >>> 4
  if (version === 4) return parseIpv4(view, bytes)
  if (version === 6) return parseIpv6(view, bytes)
}

function parseIpv4 (view: DataView, bytes: Uint8Array): PacketFacts | undefined {
  if (view.byteLength < ipv4HeaderBytes) return undefined
  const headerBytes = (view.getUint8(0) & 0x0f) * 4
  if (headerBytes < ipv4HeaderBytes) return undefined
  // 0: longer than 16 bits can say (segments that the card is to cut).
  const totalBytes = view.getUint16(2) || Infinity
  const protocol = view.getUint8(9)
  const isLaterFragment = (view.getUint16(6) & 0x1fff) !== 0
  return {
    family: 4,
    protocol: nameOf(protocol),
    source: addressText(bytes.subarray(12, 16)),
    destination: addressText(bytes.subarray(16, 20)),
    ...isLaterFragment ? {} : portOf(view, protocol, headerBytes, totalBytes),
  }
}

function parseIpv6 (view: DataView, bytes: Uint8Array): PacketFacts | undefined {
  if (view.byteLength < ipv6HeaderBytes) return undefined
  const payloadBytes = view.getUint16(4) || Infinity
  const { protocol, offset, isLaterFragment } = skipExtensionHeaders(view, view.getUint8(6))
  return {
    family: 6,
    protocol: nameOf(protocol),
    source: addressText(bytes.subarray(8, 24)),
    destination: addressText(bytes.subarray(24, 40)),
    ...isLaterFragment ? {} : portOf(view, protocol, offset, ipv6HeaderBytes + payloadBytes),
  }
}

/** Stops at the first header that is no extension, that is cut off, or that is one too many. */
function skipExtensionHeaders (view: DataView, first: number): { protocol: number, offset: number, isLaterFragment: boolean } {
  let protocol = first
  let offset = ipv6HeaderBytes
  for (let count = 0; count < maxExtensionHeaders && offset + 8 <= view.byteLength; count++) {
    if (protocol === fragmentHeader) {
      const isLaterFragment = view.getUint16(offset + 2) >>> 3 !== 0
      protocol = view.getUint8(offset)
      offset += 8
      if (isLaterFragment) return { protocol, offset, isLaterFragment }
    } else if (extensionHeaders.has(protocol) || protocol === authenticationHeader) {
      const length = view.getUint8(offset + 1)
      const bytes = protocol === authenticationHeader ? (length + 2) * 4 : (length + 1) * 8
      protocol = view.getUint8(offset)
      offset += bytes
    } else {
      break
    }
  }
  return { protocol, offset, isLaterFragment: false }
}

function portOf (view: DataView, protocol: number, offset: number, packetBytes: number): { destinationPort?: number } {
  if (!protocolsWithPorts.has(protocol) || offset + 4 > Math.min(view.byteLength, packetBytes)) return {}
  return { destinationPort: view.getUint16(offset + 2) }
}

function nameOf (protocol: number): string {
  return protocolNames.get(protocol) ?? String(protocol)
}

function addressText (bytes: Uint8Array): string {
  return ipaddr.fromByteArray([...bytes]).toString()
}
