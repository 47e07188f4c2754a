/**
 * Messages of nfnetlink_log, and of the thread that reads them. Sources: linux/netlink.h, linux/netfilter/nfnetlink.h,
 * linux/netfilter/nfnetlink_log.h. The kernel's own numbers are in the host's byte order, which is little-endian wherever Berth runs;
 * those of nfnetlink_log are big-endian.
 */
import { parsePacket, type PacketFacts } from './packet-facts.ts'

/** A packet that a rule of the packet filter has logged. */
export interface LoggedPacket {
  /** As the rule has it. */
  prefix: string
  /** The device that it came in by; absent for what this host sends itself. */
  deviceIndex?: number
  /** Name of that device; absent when it is gone. */
  device?: string
  /** undefined: neither IPv4 nor IPv6. */
  packet: PacketFacts | undefined
}

export interface NflogWorkerSettings {
  /** The bound socket; it does not block. */
  fd: number
  /** Becomes readable when `control` has changed. */
  wakeFd: number
  control: Int32Array
}

/** Words of the memory that both threads share. */
export const nflogControl = Object.freeze({ isClosing: 0, isReading: 1, messagesTaken: 2 })

export interface FromNflogWorker {
  packets: LoggedPacket[]
  /** Whether some are missing before these. */
  hasDropped: boolean
}

export type NetlinkMessage =
  | { kind: 'packet', packet: LoggedPacket }
  /** errno is 0 for success. */
  | { kind: 'answer', errno: number }

const messageHeaderBytes = 16
const nfgenHeaderBytes = 4
const attributeHeaderBytes = 4
const NLMSG_ERROR = 2
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NFNL_SUBSYS_ULOG = 4
const NFULNL_MSG_PACKET = NFNL_SUBSYS_ULOG << 8
const NFULNL_MSG_CONFIG = NFULNL_MSG_PACKET | 1
const configAttributes = Object.freeze({ command: 1, mode: 2, bufferBytes: 3, timeout: 4, threshold: 5 })
const NFULNL_CFG_CMD_BIND = 1
const NFULNL_COPY_PACKET = 2
const NFULA_IFINDEX_INDEV = 4
const NFULA_PAYLOAD = 9
const NFULA_PREFIX = 10
// The two highest bits are flags.
const attributeTypeMask = 0x3fff

// Longest headers before the ports: IPv4 60 bytes, IPv6 40 and what honest extension headers take.
const copyBytes = 128
// Of one datagram from the kernel. Each is charged to the receive buffer as if it were full.
const datagramBytes = 4096
// In hundredths of a second.
const flushTimeout = 1
const queuedPackets = 10

/** Binds a group to the socket that this is written to, and says what is to be sent of a packet, how much of it, and when. */
export function encodeBind (group: number): Buffer {
  const mode = Buffer.alloc(6)
  mode.writeUInt32BE(copyBytes, 0)
  mode.writeUInt8(NFULNL_COPY_PACKET, 4)
  const header = Buffer.alloc(messageHeaderBytes + nfgenHeaderBytes)
  const message = Buffer.concat([
    header,
    attribute(configAttributes.command, Buffer.of(NFULNL_CFG_CMD_BIND)),
    attribute(configAttributes.mode, mode),
    attribute(configAttributes.bufferBytes, bigEndian(datagramBytes)),
    attribute(configAttributes.timeout, bigEndian(flushTimeout)),
    attribute(configAttributes.threshold, bigEndian(queuedPackets)),
  ])
  message.writeUInt32LE(message.length, 0)
  message.writeUInt16LE(NFULNL_MSG_CONFIG, 4)
  message.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6)
  // nfgenmsg: no family, version 0, and the group
  message.writeUInt16BE(group, messageHeaderBytes + 2)
  return message
}

function attribute (type: number, value: Buffer): Buffer {
  const buffer = Buffer.alloc(aligned(attributeHeaderBytes + value.length))
  buffer.writeUInt16LE(attributeHeaderBytes + value.length, 0)
  buffer.writeUInt16LE(type, 2)
  buffer.set(value, attributeHeaderBytes)
  return buffer
}

function bigEndian (value: number): Buffer {
  const buffer = Buffer.alloc(4)
  buffer.writeUInt32BE(value)
  return buffer
}

function aligned (length: number): number {
  return (length + 3) & ~3
}

/** What one datagram of the kernel says. */
export function decodeDatagram (datagram: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = []
  for (let offset = 0; offset + messageHeaderBytes <= datagram.length;) {
    const length = datagram.readUInt32LE(offset)
    if (length < messageHeaderBytes || offset + length > datagram.length) break
    const type = datagram.readUInt16LE(offset + 4)
    const body = datagram.subarray(offset + messageHeaderBytes, offset + length)
    if (type === NLMSG_ERROR) messages.push({ kind: 'answer', errno: -body.readInt32LE(0) })
    else if (type === NFULNL_MSG_PACKET) messages.push({ kind: 'packet', packet: decodePacket(body.subarray(nfgenHeaderBytes)) })
    offset += aligned(length)
  }
  return messages
}

function decodePacket (attributes: Buffer): LoggedPacket {
  const logged: LoggedPacket = { prefix: '', packet: undefined }
  for (let offset = 0; offset + attributeHeaderBytes <= attributes.length;) {
    const length = attributes.readUInt16LE(offset)
    if (length < attributeHeaderBytes || offset + length > attributes.length) break
    const value = attributes.subarray(offset + attributeHeaderBytes, offset + length)
    switch (attributes.readUInt16LE(offset + 2) & attributeTypeMask) {
      case NFULA_IFINDEX_INDEV:
        logged.deviceIndex = value.readUInt32BE(0)
        break
      case NFULA_PAYLOAD:
        logged.packet = parsePacket(value)
        break
      case NFULA_PREFIX:
        logged.prefix = value.toString('utf8').replace(/\0.*$/s, '')
    }
    offset += aligned(length)
  }
  return logged
}
