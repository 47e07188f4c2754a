import assert from 'node:assert/strict'
import { rmSync, writeFileSync, mkdtempSync } from 'node:fs'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { pino } from 'pino'
import { DnsCache } from '../../../src/services/network/server/dns-cache.ts'
import { dnsCodes, dnsTypes } from '../../../src/services/network/server/dns-message.ts'
import { NameResolver, type NameResolverOptions } from '../../../src/services/network/server/name-resolver.ts'
import { parseUpstreamServer, UpstreamServers, upstreamServersOf, type UpstreamServer } from '../../../src/services/network/server/upstream-servers.ts'
import { DnsAuthority, type AuthorityQuestion } from '../../support/dns-authority.ts'

function resolverOf (t: TestContext, servers: UpstreamServer[], options: Partial<NameResolverOptions> = {}): NameResolver {
  const resolver = new NameResolver({ servers: () => servers, logger: pino({ level: 'silent' }), ...options })
  t.after(() => {
    resolver.close()
    assert.equal(resolver.queries, 0)
  })
  return resolver
}

const a = (name: string, data: string, ttl = 60) => ({ name, type: 'A' as const, ttl, data })

/** A server that is not there: its port was free a moment ago. */
async function deadServer (): Promise<UpstreamServer> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  return { address: '127.0.0.1', port }
}

test('addresses are found through CNAME records, of both families', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('www.test', 'A', { answers: [{ name: 'www.test', type: 'CNAME', ttl: 20, data: 'cdn.test' }, a('cdn.test', '203.0.113.7', 90), a('cdn.test', '203.0.113.8', 90)] })
  authority.name('six.test', ['2001:db8::7'])
  const resolver = resolverOf(t, [authority.server])
  assert.deepEqual(await resolver.addresses('WWW.test.', 4), { addresses: ['203.0.113.7', '203.0.113.8'], ttlSeconds: 20 })
  assert.deepEqual(await resolver.addresses('six.test', 6), { addresses: ['2001:db8::7'], ttlSeconds: 60 })
  assert.deepEqual(await resolver.addresses('six.test', 4), { addresses: [], ttlSeconds: 0 })
  assert.deepEqual(await resolver.addresses('none.test', 4), { addresses: [], ttlSeconds: 0 })
})

test('records that were not asked for are not taken', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('a.test', 'A', { answers: [a('bank.test', '203.0.113.66'), a('a.test', '203.0.113.1'), { name: 'bank.test', type: 'CNAME', data: 'b.test' }, a('b.test', '203.0.113.67')] })
  authority.reply('loop.test', 'A', { answers: [{ name: 'loop.test', type: 'CNAME', ttl: 9, data: 'loop.test' }] })
  const resolver = resolverOf(t, [authority.server])
  assert.deepEqual((await resolver.addresses('a.test', 4)).addresses, ['203.0.113.1'])
  assert.deepEqual((await resolver.addresses('loop.test', 4)).addresses, [])
})

test('an answer is kept while it holds, and a negative one as its zone says', async t => {
  let now = 0
  const authority = await DnsAuthority.start(t)
  authority.name('a.test', ['203.0.113.1'], 10)
  const resolver = resolverOf(t, [authority.server], { cache: new DnsCache({ now: () => now }) })
  const ask = async (name: string) => (await resolver.query({ name, type: dnsTypes.A }))
  await ask('a.test')
  now = 9_500
  assert.equal((await ask('a.test')).answers[0]?.ttl, 1)
  assert.equal(authority.questions.length, 1)
  now = 10_000
  assert.equal((await ask('A.test')).answers[0]?.ttl, 10)
  assert.equal(authority.questions.length, 2)
  assert.equal((await ask('none.test')).code, dnsCodes.NXDOMAIN)
  now = 39_999
  await ask('none.test')
  assert.equal(authority.questions.length, 3)
  now = 40_001
  await ask('none.test')
  assert.equal(authority.questions.length, 4)
})

test('what holds for no time, and a negative answer that does not say how long, are not kept', async t => {
  const authority = await DnsAuthority.start(t)
  authority.name('zero.test', ['203.0.113.1'], 0)
  authority.reply('mute.test', 'A', { answers: [{ name: 'mute.test', type: 'CNAME', ttl: 60, data: 'x.test' }] })
  const resolver = resolverOf(t, [authority.server])
  for (const name of ['zero.test', 'zero.test', 'mute.test', 'mute.test']) await resolver.query({ name, type: dnsTypes.A })
  assert.equal(authority.questions.length, 4)
})

test('the cache keeps what is asked for, and only so much', () => {
  const cache = new DnsCache({ maximumEntries: 2, now: () => 0 })
  const answer = (ttl: number, size = 4) => ({ code: 0, answers: [{ name: Buffer.of(0), type: 1, class: 1, ttl, data: Buffer.alloc(size) }], authorities: [] })
  cache.keep('a', answer(1))
  cache.keep('b', answer(1))
  cache.get('a')
  cache.keep('c', answer(1))
  cache.keep('huge', answer(1, 5_000))
  assert.deepEqual(['a', 'b', 'c', 'huge'].map(key => cache.get(key) !== undefined), [true, false, true, false])
})

test('the same question under way is asked once', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('slow.test', 'A', { delayMs: 30, answers: [a('slow.test', '203.0.113.1')] })
  const resolver = resolverOf(t, [authority.server])
  const answers = await Promise.all(Array.from({ length: 20 }, async () => await resolver.addresses('slow.test', 4)))
  assert.equal(new Set(answers.map(answer => JSON.stringify(answer))).size, 1)
  assert.equal(authority.questions.length, 1)
})

test('ids and ports cannot be foretold, and false answers are passed over', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('a.test', 'A', { lies: ['id', 'question', 'source'], answers: [a('a.test', '203.0.113.1', 0)], delayMs: 5 })
  const resolver = resolverOf(t, [authority.server])
  for (let i = 0; i < 8; i++) assert.deepEqual((await resolver.addresses('a.test', 4)).addresses, ['203.0.113.1'])
  assert.ok(new Set(authority.questions.map(question => question.id)).size > 6)
  assert.ok(new Set(authority.questions.map(question => question.sourcePort)).size > 6)
})

test('who is flooded with false answers asks over TCP', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('a.test', 'A', ({ transport }) => transport === 'tcp' ? { answers: [a('a.test', '203.0.113.1')] } : { lies: Array(20).fill('id'), answers: [a('a.test', '203.0.113.66')] })
  assert.deepEqual((await resolverOf(t, [authority.server]).addresses('a.test', 4)).addresses, ['203.0.113.1'])
})

test('an answer that is truncated, even within a record, is asked for over TCP', async t => {
  const authority = await DnsAuthority.start(t)
  const many = Array.from({ length: 200 }, (_, i) => a('big.test', `203.0.113.${i}`))
  authority.reply('big.test', 'A', { answers: many })
  authority.reply('cut.test', 'A', question => question.transport === 'tcp' ? { answers: [a('cut.test', '203.0.113.1')] } : { bytes: cut(question) })
  const resolver = resolverOf(t, [authority.server])
  assert.equal((await resolver.addresses('big.test', 4)).addresses.length, 200)
  assert.deepEqual((await resolver.addresses('cut.test', 4)).addresses, ['203.0.113.1'])
  assert.deepEqual(authority.questions.map(question => question.transport), ['udp', 'tcp', 'udp', 'tcp'])
})

function cut ({ id }: AuthorityQuestion): Buffer {
  const bytes = Buffer.from('00008380000100010000000003637574047465737400000100', 'hex')
  bytes.writeUInt16BE(id)
  return bytes
}

test('a server that is away, silent, broken or refusing is passed over, and asked last for a while', async t => {
  const [silent, broken, refusing, sound] = await Promise.all([1, 2, 3, 4].map(async () => await DnsAuthority.start(t)))
  assert.ok(silent && broken && refusing && sound)
  silent.reply('a.test', 'A', { isDropped: true })
  broken.reply('a.test', 'A', { code: 2 })
  refusing.reply('a.test', 'A', { code: 5 })
  sound.name('a.test', ['203.0.113.1'], 0)
  for (const bad of [await deadServer(), silent.server, broken.server, refusing.server]) {
    const resolver = resolverOf(t, [bad, sound.server], { timeoutMs: 300 })
    for (let i = 0; i < 3; i++) assert.deepEqual((await resolver.addresses('a.test', 4)).addresses, ['203.0.113.1'])
  }
  assert.deepEqual([silent, broken, refusing].map(server => server.questions.length), [1, 1, 1])
})

test('a datagram that is lost is sent again when there is one server', async t => {
  const authority = await DnsAuthority.start(t)
  let asked = 0
  authority.reply('a.test', 'A', () => ++asked === 1 ? { isDropped: true } : { answers: [a('a.test', '203.0.113.1')] })
  assert.deepEqual((await resolverOf(t, [authority.server], { timeoutMs: 300 }).addresses('a.test', 4)).addresses, ['203.0.113.1'])
})

test('a server that does not know EDNS is asked without', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('old.test', 'A', ({ hasEdns, id }) => {
    const bytes = Buffer.from('000081810000000000000000', 'hex')
    bytes.writeUInt16BE(id)
    return hasEdns ? { bytes } : { answers: [a('old.test', '203.0.113.1')] }
  })
  assert.deepEqual((await resolverOf(t, [authority.server]).addresses('old.test', 4)).addresses, ['203.0.113.1'])
})

test('who gets no answer, asks for no name, or asks too much at once is told', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('silent.test', 'A', { isDropped: true })
  const resolver = resolverOf(t, [authority.server], { timeoutMs: 30, maximumQueries: 1 })
  await Promise.all([
    assert.rejects(resolver.addresses('silent.test', 4), /no name server has an answer/),
    assert.rejects(resolver.addresses('other.test', 4), /too many/),
  ])
  await assert.rejects(resolver.addresses('a..test', 4), /label/)
  await assert.rejects(resolverOf(t, []).addresses('a.test', 4), /no name server/)
})

test('queries under way end when the resolver closes', async t => {
  const authority = await DnsAuthority.start(t)
  authority.reply('silent.test', 'A', { isDropped: true })
  const resolver = resolverOf(t, [authority.server], { timeoutMs: 60_000 })
  const asked = resolver.addresses('silent.test', 4)
  await once(authority, 'question')
  resolver.close()
  await assert.rejects(asked, /closing/)
})

test('name servers are read from settings and from resolv.conf', () => {
  assert.deepEqual(parseUpstreamServer('192.0.2.53'), { address: '192.0.2.53', port: 53 })
  assert.deepEqual(parseUpstreamServer('192.0.2.53:5353'), { address: '192.0.2.53', port: 5353 })
  assert.deepEqual(parseUpstreamServer('2001:db8::53'), { address: '2001:db8::53', port: 53 })
  assert.deepEqual(parseUpstreamServer('[2001:db8::53]:5353'), { address: '2001:db8::53', port: 5353 })
  for (const text of ['', 'dns.example', '192.0.2.53:0', '192.0.2.53:70000', '[192.0.2.53]', '2001:db8::53:', '[::1]x']) {
    assert.throws(() => parseUpstreamServer(text), { code: 'invalid_resolver' }, text)
  }
  assert.deepEqual(upstreamServersOf('# nameserver 9.9.9.9\nsearch a b\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0 # x\nnameserver nonsense\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n'),
    ['192.0.2.1', 'fe80::1%eth0', '192.0.2.3'].map(address => ({ address, port: 53 })))
  assert.deepEqual(upstreamServersOf('options edns0\n'), [{ address: '127.0.0.1', port: 53 }])
})

test('a resolv.conf that changes is followed, and one that vanishes stays in force', t => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-resolv-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const resolvConfPath = join(dir, 'resolv.conf')
  const servers = new UpstreamServers({ resolvers: [], resolvConfPath, recheckMs: 0 })
  const addresses = () => servers.list().map(server => server.address)
  assert.deepEqual(addresses(), ['127.0.0.1'])
  writeFileSync(resolvConfPath, 'nameserver 192.0.2.1\n')
  assert.deepEqual(addresses(), ['192.0.2.1'])
  writeFileSync(resolvConfPath, 'nameserver 192.0.2.1\nnameserver 192.0.2.2\n')
  assert.deepEqual(addresses(), ['192.0.2.1', '192.0.2.2'])
  rmSync(resolvConfPath)
  assert.deepEqual(addresses(), ['192.0.2.1', '192.0.2.2'])
  assert.deepEqual(new UpstreamServers({ resolvers: ['192.0.2.9:54'], resolvConfPath }).list(), [{ address: '192.0.2.9', port: 54 }])
})
