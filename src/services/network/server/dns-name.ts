/**
 * Names of the domain name system (RFC 1035, section 3.1): as they travel, labels with a length before each and a zero at the end; and as
 * text.
 */
import { formatAddress, type IpAddress } from '../../../lib/ip-network.ts'

/** A message, or a name, that breaks the rules of RFC 1035. */
export class DnsFormatError extends Error {
  constructor (problem: string) {
    super(problem)
    this.name = 'DnsFormatError'
  }
}

const maximumNameBytes = 255
const maximumLabelBytes = 63
/** More than any server has a reason for; following them costs time. */
const maximumPointers = 32
const plainLabel = /^[A-Za-z0-9_*-]+$/

/**
 * A name as text in lower case, without a dot at its end; the root is `.`. Bytes that are no part of a host's name are written `\DDD`, a dot
 * within a label too: two names have the same text only when they are the same.
 */
export function nameText (name: Buffer): string {
  const labels: string[] = []
  for (let at = 0, length = name[0] ?? 0; length > 0; at += 1 + length, length = name[at] ?? 0) {
    const label = name.toString('latin1', at + 1, at + 1 + length)
    labels.push(plainLabel.test(label) ? label.toLowerCase() : label.replace(/[^A-Za-z0-9_*-]/g, escaped).replace(/[A-Z]+/g, lower))
  }
  return labels.length === 0 ? '.' : labels.join('.')
}

const escaped = (character: string): string => `\\${character.charCodeAt(0).toString().padStart(3, '0')}`
const lower = (letters: string): string => letters.toLowerCase()

/** The name that a text stands for, one dot at its end or none. Throws DnsFormatError for what cannot be a name. */
export function nameFromText (text: string): Buffer {
  const labels = text === '.' ? [] : text.replace(/\.$/, '').split('.').map(labelFromText)
  const name = Buffer.concat([...labels.flatMap(label => [Buffer.of(label.length), label]), Buffer.of(0)])
  if (name.length > maximumNameBytes) throw new DnsFormatError('a name has at most 255 bytes')
  return name
}

function labelFromText (text: string): Buffer {
  if (!/^[\x20-\x7e]*$/.test(text)) throw new DnsFormatError('a name is written in ASCII')
  const label = Buffer.from(text.replace(/\\(\d{3})/g, (_all, digits: string) => String.fromCharCode(Number(digits))), 'latin1')
  if (label.length === 0 || label.length > maximumLabelBytes) throw new DnsFormatError('a label has 1 to 63 bytes')
  return label
}

/** Reads a name, compressed or not (RFC 1035, section 4.1.4). `next` is the offset behind it. Throws DnsFormatError. */
export function readName (message: Buffer, offset: number): { name: Buffer, next: number } {
  const parts: Buffer[] = []
  let size = 1
  let next: number | undefined
  // A pointer leads to what stands before the part that it ends, so there is no going round in circles.
  let partStart = offset
  let at = offset
  let pointers = 0
  for (;;) {
    const length = message[at]
    if (length === undefined) throw new DnsFormatError('a name ends outside the message')
    if (length === 0) break
    if (length >= 0xc0) {
      const low = message[at + 1]
      if (low === undefined) throw new DnsFormatError('a pointer ends outside the message')
      next ??= at + 2
      const target = (length & 0x3f) << 8 | low
      if (target >= partStart || ++pointers > maximumPointers) throw new DnsFormatError('a pointer does not lead back')
      partStart = at = target
      continue
    }
    if (length > maximumLabelBytes) throw new DnsFormatError('a label is of an unknown kind')
    if (at + 1 + length > message.length) throw new DnsFormatError('a label ends outside the message')
    size += 1 + length
    if (size > maximumNameBytes) throw new DnsFormatError('a name has more than 255 bytes')
    parts.push(message.subarray(at, at + 1 + length))
    at += 1 + length
  }
  return { name: Buffer.concat([...parts, Buffer.of(0)], size), next: next ?? at + 1 }
}

/** An address, or the first one of a network, that a name below in-addr.arpa or ip6.arpa is about; undefined for every other name. */
export function reverseAddress (text: string): string | undefined {
  const labels = text.split('.').reverse()
  if (labels.shift() !== 'arpa') return undefined
  const zone = labels.shift()
  if (zone !== 'in-addr' && zone !== 'ip6') return undefined
  const [count, bits, digits] = zone === 'ip6' ? [32, 4n, /^[0-9a-f]$/] as const : [4, 8n, /^(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])$/] as const
  const end = labels.findIndex(label => !digits.test(label))
  const given = labels.slice(0, Math.min(end === -1 ? labels.length : end, count))
  const address: IpAddress = { family: zone === 'ip6' ? 6 : 4, value: 0n }
  for (let i = 0; i < count; i++) address.value = address.value << bits | BigInt(zone === 'ip6' ? `0x${given[i] ?? '0'}` : given[i] ?? '0')
  return formatAddress(address)
}
