import assert from 'node:assert/strict'
import test from 'node:test'
import dnsPacket from 'dns-packet'
import { pino } from 'pino'
import type { DnsAnswer } from '../../../src/services/network/server/dns-cache.ts'
import { classicPayloadBytes, dnsTypes, udpPayloadBytes } from '../../../src/services/network/server/dns-message.ts'
import { nameFromText } from '../../../src/services/network/server/dns-name.ts'
import { NameResolver } from '../../../src/services/network/server/name-resolver.ts'
import { DnsAuthority } from '../../support/dns-authority.ts'
import { connection, datagrams, decoded, framedQuery, messagesOver, queryOf } from '../../support/dns-client.ts'
import { DnsForwarderFixture } from '../../support/dns-forwarder-fixture.ts'

const soundId = 0xfffe

/** The same numbers in each run: what it finds can be found again. */
function numbersFrom (seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor(state / 2 ** 32 * below)
  }
}

function mutated (seeds: readonly Buffer[], number: (below: number) => number): Buffer {
  const bytes = Buffer.from(seeds[number(seeds.length)] ?? Buffer.alloc(0))
  for (let i = 1 + number(4); i > 0; i--) {
    const at = number(bytes.length)
    const edge = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff][number(8)] ?? 0
    bytes[at] = number(2) === 0 ? number(256) : edge
  }
  const kind = number(10)
  if (kind === 0) return bytes.subarray(0, number(bytes.length + 1))
  if (kind === 1) return Buffer.concat([bytes, bytes.subarray(number(bytes.length))])
  return bytes
}

const seeds = [
  queryOf('large.test', 'A'), queryOf('large.test', 'A', { ednsBytes: 4_096 }), queryOf('a.b.c.d.e.large.test', 'AAAA', { ednsBytes: 512 }),
  queryOf('gateway.internal', 'A'), queryOf('5.0.0.10.in-addr.arpa', 'PTR'), queryOf('_sip._tcp.test', 'SRV'),
  queryOf('x.test', 'A', { answers: [{ name: 'x.test', type: 'CNAME', data: 'y.test' }], authorities: [{ name: 'x.test', type: 'MX', data: { exchange: 'y.test' } }] }),
]

/** 200 addresses for every name, at once. */
const generous = {
  query: async ({ name, type }: { name: string, type: number }): Promise<DnsAnswer> => {
    const record = { name: nameFromText(name), type, class: 1, ttl: 5, data: Buffer.from(type === dnsTypes.AAAA ? '20010db8000000000000000000000007' : 'cb00710a', 'hex') }
    return { code: 0, answers: Array(200).fill(record), authorities: [] }
  },
}

test('no query, however broken, stops the name server or makes it say more than a datagram holds', async t => {
  const fixture = await DnsForwarderFixture.start(t, { resolver: generous, limits: { questionsPerSecond: 1e9 } })
  const client = fixture.sandbox('internet', { hasGateway: true })
  const number = numbersFrom(4)
  let answered = 0
  for (let round = 0; round < 80; round++) {
    const queries = Array.from({ length: 50 }, () => mutated(seeds, number))
    // The last one is sound: when its answer is there, so are those of the others.
    const answers = await datagrams(client, [...queries, queryOf('large.test', 'A', { id: soundId })], answer => answer.readUInt16BE(0) === soundId)
    const last = answers.at(-1)
    assert.ok(last !== undefined && last.readUInt16BE(0) === soundId && decoded(last).flag_tc)
    for (const answer of answers) {
      assert.ok(answer.length <= udpPayloadBytes && (answer.readUInt16BE(2) & 0x8000) !== 0)
      // Without an OPT record of its own the query had none, or none that could be read.
      if (answer.readUInt16BE(10) === 0) assert.ok(answer.length <= classicPayloadBytes)
    }
    answered += answers.length
  }
  assert.ok(answered > 3_000, `${answered} answers`)
})

test('no bytes on a connection stop it for others', async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { questionsPerSecond: 1e9, inFlight: 1e9, connections: 1e9 } })
  fixture.authority.name('a.test', ['203.0.113.10'])
  const client = fixture.sandbox('internet')
  const number = numbersFrom(7)
  for (let round = 0; round < 20; round++) {
    const socket = (await connection(client)).on('error', () => undefined)
    for (let i = 0; i < 30; i++) {
      const bytes = mutated(seeds, number)
      socket.write(number(3) === 0 ? bytes : framedQuery(bytes))
    }
    socket.resume().destroySoon()
  }
  const socket = await connection(client)
  const [answer] = await messagesOver(socket, framedQuery(queryOf('a.test', 'A')), 1)
  assert.ok(answer !== undefined && decoded(answer).answers?.length === 1)
  socket.destroy()
})

test('no answer of a name server, however broken, is taken for one or stops the resolver', async t => {
  const authority = await DnsAuthority.start(t)
  const number = numbersFrom(11)
  const resolver = new NameResolver({ servers: () => [authority.server], logger: pino({ level: 'silent' }), timeoutMs: 60 })
  t.after(() => resolver.close())
  const wanted = Array.from({ length: 400 }, (_, i) => `n${i}.test`)
  for (const name of wanted) {
    authority.reply(name, 'A', ({ id, type }) => {
      const questions = [{ name, type: type as 'A' }]
      const answers = [{ name, type: 'CNAME' as const, ttl: 5, data: 'c.test' }, { name: 'c.test', type: 'A' as const, ttl: 5, data: '203.0.113.10' }]
      return { bytes: mutated([dnsPacket.encode({ type: 'response', id, questions, answers })], number) }
    })
  }
  const taken: string[] = []
  for (let i = 0; i < wanted.length; i += 40) {
    const outcomes = await Promise.allSettled(wanted.slice(i, i + 40).map(async name => await resolver.addresses(name, 4)))
    taken.push(...outcomes.flatMap(outcome => outcome.status === 'fulfilled' ? outcome.value.addresses : []))
  }
  assert.ok(taken.length > 0 && taken.length < wanted.length)
  assert.ok(taken.every(address => /^\d+\.\d+\.\d+\.\d+$/.test(address)))
  assert.equal(resolver.queries, 0)
})
