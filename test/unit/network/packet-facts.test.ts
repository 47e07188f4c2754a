import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parsePacket } from '../../../src/host/packet-facts.ts'

const tcp = Buffer.from('d4310050' + '00000001' + '00000000' + '50020000' + '00000000', 'hex')
const udp = Buffer.from('d4310035' + '00080000', 'hex')

function ipv4 (options: { protocol?: number, fragment?: number, options?: Buffer, totalBytes?: number, payload?: Buffer } = {}): Buffer {
  const extra = options.options ?? Buffer.alloc(0)
  const payload = options.payload ?? tcp
  const header = Buffer.alloc(20)
  header[0] = 0x45 + extra.length / 4
  header.writeUInt16BE(options.totalBytes ?? 20 + extra.length + payload.length, 2)
  header.writeUInt16BE(options.fragment ?? 0, 6)
  header[9] = options.protocol ?? 6
  header.set([10, 200, 0, 17], 12)
  header.set([203, 0, 113, 9], 16)
  return Buffer.concat([header, extra, payload])
}

function ipv6 (options: { next?: number, payloadBytes?: number, payload?: Buffer } = {}): Buffer {
  const payload = options.payload ?? tcp
  const header = Buffer.alloc(40)
  header[0] = 0x60
  header.writeUInt16BE(options.payloadBytes ?? payload.length, 4)
  header[6] = options.next ?? 6
  header.set(Buffer.from('fd00a1b2000000000000000000000011', 'hex'), 8)
  header.set(Buffer.from('20010db8000000000000000000000009', 'hex'), 24)
  return Buffer.concat([header, payload])
}

/** An extension header of `8 * words` bytes that says what follows it. */
function extension (next: number, words = 1): Buffer {
  const header = Buffer.alloc(8 * words)
  header[0] = next
  header[1] = words - 1
  return header
}

const from4 = { family: 4, source: '10.200.0.17', destination: '203.0.113.9' }
const from6 = { family: 6, source: 'fd00:a1b2::11', destination: '2001:db8::9' }

test('a packet says its family, protocol, addresses and port', () => {
  assert.deepEqual(parsePacket(ipv4()), { ...from4, protocol: 'tcp', destinationPort: 80 })
  assert.deepEqual(parsePacket(ipv4({ protocol: 17, payload: udp })), { ...from4, protocol: 'udp', destinationPort: 53 })
  assert.deepEqual(parsePacket(ipv6()), { ...from6, protocol: 'tcp', destinationPort: 80 })
  assert.deepEqual(parsePacket(ipv6({ next: 17, payload: udp })), { ...from6, protocol: 'udp', destinationPort: 53 })
})

test('protocols without ports have none, and those without a name their number', () => {
  assert.deepEqual(parsePacket(ipv4({ protocol: 1 })), { ...from4, protocol: 'icmp' })
  assert.deepEqual(parsePacket(ipv6({ next: 58 })), { ...from6, protocol: 'icmpv6' })
  assert.deepEqual(parsePacket(ipv4({ protocol: 47 })), { ...from4, protocol: '47' })
  assert.deepEqual(parsePacket(ipv6({ next: 50 })), { ...from6, protocol: '50' })
})

test('a packet in the middle of a buffer is read where it lies', () => {
  const buffer = Buffer.concat([Buffer.alloc(7, 0xff), ipv4(), Buffer.alloc(3, 0xff)])
  assert.deepEqual(parsePacket(buffer.subarray(7, -3)), { ...from4, protocol: 'tcp', destinationPort: 80 })
})

test('options of IPv4 are skipped', () => {
  assert.deepEqual(parsePacket(ipv4({ options: Buffer.alloc(40, 1) })), { ...from4, protocol: 'tcp', destinationPort: 80 })
})

test('a first fragment has a port, a later one has none', () => {
  assert.equal(parsePacket(ipv4({ fragment: 0x2000 }))?.destinationPort, 80)
  assert.deepEqual(parsePacket(ipv4({ fragment: 0x2001 })), { ...from4, protocol: 'tcp' })
  const fragment = (offset: number) => Buffer.concat([Buffer.from([6, 0, offset >> 5, offset << 3 | 1, 0, 0, 0, 7]), tcp])
  assert.equal(parsePacket(ipv6({ next: 44, payload: fragment(0) }))?.destinationPort, 80)
  assert.deepEqual(parsePacket(ipv6({ next: 44, payload: fragment(3) })), { ...from6, protocol: 'tcp' })
})

test('what follows a later fragment\'s header is data, not another header', () => {
  const payload = Buffer.concat([Buffer.from([60, 0, 0, 8, 0, 0, 0, 7]), extension(6), tcp])
  assert.deepEqual(parsePacket(ipv6({ next: 44, payload })), { ...from6, protocol: '60' })
})

test('extension headers of IPv6 are walked', () => {
  const authentication = Buffer.concat([Buffer.from([6, 1]), Buffer.alloc(10)])
  const payload = Buffer.concat([extension(43), extension(60, 3), extension(51), authentication, tcp])
  assert.deepEqual(parsePacket(ipv6({ next: 0, payload })), { ...from6, protocol: 'tcp', destinationPort: 80 })
})

test('a chain of headers longer than any honest one is left where it is', () => {
  const payload = Buffer.concat([...Array.from({ length: 9 }, () => extension(60)), tcp])
  assert.deepEqual(parsePacket(ipv6({ next: 60, payload })), { ...from6, protocol: '60' })
})

test('a chain that is cut off ends at its last known header', () => {
  assert.deepEqual(parsePacket(ipv6({ next: 0, payload: extension(43).subarray(0, 5) })), { ...from6, protocol: '0' })
  assert.deepEqual(parsePacket(ipv6({ next: 0, payload: extension(6, 200).subarray(0, 8) })), { ...from6, protocol: 'tcp' })
})

test('a length that is too short hides what lies behind it; none at all hides nothing', () => {
  assert.deepEqual(parsePacket(ipv4({ totalBytes: 22 })), { ...from4, protocol: 'tcp' })
  assert.equal(parsePacket(ipv4({ totalBytes: 0 }))?.destinationPort, 80)
  assert.deepEqual(parsePacket(ipv6({ payloadBytes: 3 })), { ...from6, protocol: 'tcp' })
  assert.equal(parsePacket(ipv6({ payloadBytes: 0 }))?.destinationPort, 80)
})

test('what is no packet is none', () => {
  assert.equal(parsePacket(Buffer.alloc(0)), undefined)
  assert.equal(parsePacket(Buffer.alloc(64)), undefined)
  assert.equal(parsePacket(Buffer.alloc(64, 0x55)), undefined)
  assert.equal(parsePacket(Buffer.from('44'.padEnd(80, '0'), 'hex')), undefined, 'an IPv4 header shorter than itself')
})

test('a packet cut off anywhere tells what is there and nothing else', () => {
  const cases = [ipv4({ options: Buffer.alloc(12) }), ipv6({ next: 0, payload: Buffer.concat([extension(44), Buffer.from([17, 0, 0, 1, 0, 0, 0, 7]), udp]) })]
  for (const [index, whole] of cases.entries()) {
    const addressesEnd = index === 0 ? 20 : 40
    const portEnd = (index === 0 ? 32 : 56) + 4
    for (let length = 0; length <= whole.length; length++) {
      const facts = parsePacket(whole.subarray(0, length))
      assert.equal(facts !== undefined, length >= addressesEnd)
      assert.equal(facts?.destinationPort !== undefined, length >= portEnd, `${length} bytes`)
    }
  }
})

test('whatever bytes come, reading them ends without an error', () => {
  let state = 1
  const next = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 16
  for (let round = 0; round < 5000; round++) {
    const bytes = Buffer.from(Array.from({ length: next() % 129 }, () => next() & 0xff))
    if (bytes.length > 0) bytes[0] = (bytes[0]! & 0x0f) | (round % 2 === 0 ? 0x40 : 0x60)
    if (bytes.length > 6 && round % 4 === 1) bytes[6] = [0, 43, 44, 51, 60, 135][next() % 6]!
    const facts = parsePacket(bytes)
    if (facts) assert.ok(facts.destinationPort === undefined || (facts.destinationPort >= 0 && facts.destinationPort <= 65_535))
  }
})
