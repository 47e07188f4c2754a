import assert from 'node:assert/strict'
import test from 'node:test'
import dnsPacket from 'dns-packet'
import { dnsTypes, readMessage, writeQuery, writeResponse, type DnsRecord } from '../../../src/services/network/server/dns-message.ts'
import { DnsFormatError, nameFromText, nameText, readName, reverseAddress } from '../../../src/services/network/server/dns-name.ts'

test('a name is the same as bytes and as text, whatever bytes it has', () => {
  const bytes = [...nameFromText('www.example.com')]
  assert.deepEqual(bytes, [3, 119, 119, 119, 7, 101, 120, 97, 109, 112, 108, 101, 3, 99, 111, 109, 0])
  assert.equal(nameText(Buffer.of(3, 0x57, 0x57, 0x57, 2, 0x43, 0x6f, 0)), 'www.co')
  assert.equal(nameText(Buffer.of(0)), '.')
  const odd = Buffer.of(4, 0x61, 0x2e, 0xff, 0x5c, 1, 0x20, 0)
  assert.equal(nameText(odd), 'a\\046\\255\\092.\\032')
  assert.deepEqual(nameFromText(nameText(odd)), odd)
})

test('a dot within a label is no border of a label, so that no name pretends to be below another', () => {
  const trick = Buffer.concat([Buffer.of(16), Buffer.from('evil.example.com'), Buffer.of(0)])
  assert.equal(nameText(trick).endsWith('.example.com'), false)
})

test('what cannot be a name is refused', () => {
  for (const text of ['', '.a', 'a..b', `${'a'.repeat(64)}.b`, Array(130).fill('a').join('.'), 'ä.test']) assert.throws(() => nameFromText(text), DnsFormatError, text)
})

test('compressed names are followed back only, and only so far', () => {
  const message = Buffer.concat([Buffer.alloc(12), nameFromText('example.com'), Buffer.of(1, 0x61, 0xc0, 12)])
  assert.equal(nameText(readName(message, 25).name), 'a.example.com')
  assert.equal(readName(message, 25).next, 29)
  const loops = [Buffer.of(0xc0, 0), Buffer.of(1, 0x61, 0xc0, 0), Buffer.of(0xc0, 2, 0xc0, 0), Buffer.of(0xc0), Buffer.of(5, 0x61), Buffer.of(0x40, 0), Buffer.of()]
  for (const bytes of loops) assert.throws(() => readName(bytes, 0), DnsFormatError, bytes.toString('hex'))
  const chain = Buffer.concat([Buffer.of(0), ...Array.from({ length: 100 }, (_, i) => Buffer.of(0xc0, Math.max(0, i * 2 - 1)))])
  assert.throws(() => readName(chain, 199), DnsFormatError)
})

test('names of reverse look-ups tell their address, those of zones their first one', () => {
  const table: [string, string | undefined][] = [
    ['5.0.0.10.in-addr.arpa', '10.0.0.5'],
    ['168.192.in-addr.arpa', '192.168.0.0'],
    ['lb._dns-sd._udp.0.1.168.192.in-addr.arpa', '192.168.1.0'],
    ['in-addr.arpa', '0.0.0.0'],
    ['300.10.in-addr.arpa', '10.0.0.0'],
    [`1${'.0'.repeat(19)}.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa`, '2001:db8::1'],
    ['d.f.ip6.arpa', 'fd00::'],
    ['example.com', undefined],
    ['arpa', undefined],
  ]
  for (const [name, address] of table) assert.equal(reverseAddress(name), address, name)
})

test('messages of another implementation are read, names in data made whole', () => {
  const target = Buffer.from('c00c', 'hex')
  const head = dnsPacket.encode({ type: 'response', id: 7, questions: [{ name: 'Example.com', type: 'MX' }] })
  head.writeUInt16BE(1, 6)
  const record = Buffer.concat([Buffer.from('c00c000f00010000003c0004000a', 'hex'), target])
  const { id, answers: [mx], questions: [question] } = readMessage(Buffer.concat([head, record]))
  assert.equal(id, 7)
  assert.equal(question?.type, 15)
  assert.deepEqual(mx?.data, Buffer.concat([Buffer.of(0, 10), Buffer.from('\x07Example\x03com\x00')]))
})

test('another implementation reads what is written, which is compressed', () => {
  const name = nameFromText('www.example.com')
  const alias = nameFromText('cdn.example.com')
  const answers: DnsRecord[] = [
    { name, type: dnsTypes.CNAME, class: 1, ttl: 60, data: alias },
    { name: alias, type: dnsTypes.A, class: 1, ttl: 30, data: Buffer.of(203, 0, 113, 7) },
  ]
  const question = { name, type: dnsTypes.A, class: 1 }
  const bytes = writeResponse({ id: 9, queryFlags: 0x0110, code: 0, question, answers, hasEdns: true, extendedError: { infoCode: 15, text: 'no' } }, 512)
  const decoded = dnsPacket.decode(bytes)
  assert.deepEqual([decoded.id, decoded.flag_rd, decoded.flag_ra, decoded.flag_cd, decoded.flag_aa, decoded.flag_tc], [9, true, true, true, false, false])
  assert.deepEqual(decoded.answers?.map(answer => [answer.name, 'data' in answer && answer.data]), [['www.example.com', 'cdn.example.com'], ['cdn.example.com', '203.0.113.7']])
  assert.equal(bytes.length, 12 + 21 + (12 + 17) + (12 + 4) + 11 + 8)
  assert.deepEqual(readMessage(bytes).answers, answers)
})

test('an answer that does not fit is truncated', () => {
  const name = nameFromText('big.test')
  const answers = Array.from({ length: 40 }, (_, i): DnsRecord => ({ name, type: dnsTypes.A, class: 1, ttl: 1, data: Buffer.of(203, 0, 113, i) }))
  const response = { id: 1, queryFlags: 0, code: 0, question: { name, type: 1, class: 1 }, answers }
  assert.equal(dnsPacket.decode(writeResponse(response, 1_232)).answers?.length, 40)
  const short = writeResponse(response, 512)
  assert.ok(short.length <= 512)
  assert.deepEqual([dnsPacket.decode(short).flag_tc, dnsPacket.decode(short).answers?.length], [true, 0])
})

test('a query asks for recursion and says how much it takes', () => {
  const decoded = dnsPacket.decode(writeQuery({ id: 3, question: { name: nameFromText('a.test'), type: 28, class: 1 }, hasEdns: true }))
  assert.deepEqual(decoded.questions, [{ name: 'a.test', type: 'AAAA', class: 'IN' }])
  const [option] = decoded.additionals ?? []
  assert.ok(option?.type === 'OPT' && option.udpPayloadSize === 1_232 && decoded.flag_rd)
})

test('malformed messages are refused', () => {
  const question = { name: nameFromText('a.test'), type: 1, class: 1 }
  const whole = writeResponse({ id: 1, queryFlags: 0, code: 0, question, answers: [{ ...question, ttl: 1, data: Buffer.of(203, 0, 113, 1) }] }, 512)
  for (let length = 0; length < whole.length; length++) assert.throws(() => readMessage(whole.subarray(0, length)), DnsFormatError, `${length} bytes`)
  const three = Buffer.concat([whole.subarray(0, -6), Buffer.of(0, 3, 1, 2, 3)])
  assert.throws(() => readMessage(three), DnsFormatError)
  const option = Buffer.from('0000290200000000000000', 'hex')
  const twice = Buffer.concat([Buffer.from('000101000001000000000002', 'hex'), nameFromText('a.test'), Buffer.of(0, 1, 0, 1), option, option])
  assert.throws(() => readMessage(twice), DnsFormatError)
})
