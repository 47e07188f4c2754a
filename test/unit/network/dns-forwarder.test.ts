import assert from 'node:assert/strict'
import { once } from 'node:events'
import test from 'node:test'
import type { Egress } from '../../../src/schemas/network.ts'
import { askOverUdp, datagrams, decoded, queryOf } from '../../support/dns-client.ts'
import { DnsForwarderFixture, gateway4, gateway6 } from '../../support/dns-forwarder-fixture.ts'

const denied = { code: 'NXDOMAIN', data: [] }
const empty = { code: 'NOERROR', data: [] }
const found = { code: 'NOERROR', data: ['203.0.113.10'] }

test('each policy answers the names that it allows, and no other is asked for upstream', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  for (const name of ['allowed.test', 'a.wild.test', 'wild.test', 'denied.test', 'other.test', 'evil.wild.test']) fixture.authority.name(name, ['203.0.113.10'])
  const rules: Egress = { allow: ['allowed.test', '*.wild.test'], deny: ['evil.wild.test'] }
  const open: Egress = { allow: ['internet', 'allowed.test'], deny: ['denied.test'] }
  const table: [Egress, string, { code: string, data: unknown[] }, Record<string, unknown> | undefined][] = [
    ['none', 'allowed.test', denied, { action: 'denied', reason: 'egress_none' }],
    ['internet', 'other.test', found, undefined],
    ['internet', 'missing.test', denied, undefined],
    [rules, 'allowed.test', found, { action: 'allowed', reason: 'rule', entry: 'allowed.test' }],
    [rules, 'ALLOWED.Test', found, { action: 'allowed', reason: 'rule', entry: 'allowed.test', name: 'allowed.test' }],
    [rules, 'a.wild.test', found, { action: 'allowed', reason: 'rule', entry: '*.wild.test' }],
    [rules, 'wild.test', denied, { action: 'denied', reason: 'no_rule' }],
    [rules, 'evil.wild.test', denied, { action: 'denied', reason: 'rule', entry: 'evil.wild.test' }],
    [rules, 'other.test', denied, { action: 'denied', reason: 'no_rule' }],
    [rules, 'x.allowed.test', denied, { action: 'denied', reason: 'no_rule' }],
    [rules, '.', denied, { action: 'denied', reason: 'no_rule' }],
    [open, 'denied.test', denied, { action: 'denied', reason: 'rule', entry: 'denied.test' }],
    [open, 'other.test', found, { action: 'allowed', reason: 'rule', entry: 'internet' }],
    [{ allow: ['203.0.113.0/24'] }, 'allowed.test', denied, { action: 'denied', reason: 'no_rule' }],
  ]
  for (const [egress, name, answer, decision] of table) {
    const client = fixture.sandbox(egress)
    assert.deepEqual(await fixture.ask(client, name), answer, `${JSON.stringify(egress)} ${name}`)
    assert.deepEqual(fixture.newDecisions(), decision === undefined ? [] : [{ sandboxId: client.sandboxId, name, ...decision }])
  }
  assert.deepEqual(new Set(fixture.authority.questions.map(question => question.name)), new Set(['other.test', 'missing.test', 'allowed.test', 'a.wild.test']))
})

test('the answer has the question as it was asked, and says what it is', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.name('mixed.test', ['203.0.113.10'], 86_400)
  const client = fixture.sandbox({ allow: ['mixed.test'] })
  const answer = await askOverUdp(client, queryOf('MiXeD.test', 'A', { id: 77, ednsBytes: 4_096 }))
  assert.deepEqual([answer.id, answer.type, answer.questions], [77, 'response', [{ name: 'MiXeD.test', type: 'A', class: 'IN' }]])
  assert.deepEqual([answer.flag_aa, answer.flag_ra, answer.flag_rd, answer.flag_tc, answer.flag_ad], [false, true, true, false, false])
  assert.deepEqual(answer.answers?.map(record => [record.name, 'ttl' in record && record.ttl]), [['MiXeD.test', 300]])
  const [option] = answer.additionals ?? []
  assert.ok(option?.type === 'OPT' && option.udpPayloadSize === 1_232 && !option.flag_do)
  assert.deepEqual((await askOverUdp(client, queryOf('mixed.test', 'A', { flags: 0 }))).additionals, [])
})

test('a refusal says that it is one to clients that know EDNS', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const client = fixture.sandbox({ allow: ['a.test'] })
  const { additionals: [option] = [] } = await askOverUdp(client, queryOf('b.test', 'A', { ednsBytes: 1_232 }))
  assert.ok(option?.type === 'OPT')
  const [error] = option.options as unknown as { code: number, data: Buffer }[]
  assert.deepEqual([error?.code, error?.data.readUInt16BE(0), error?.data.toString('utf8', 2)], [15, 15, 'not allowed by the egress policy of this sandbox'])
  assert.deepEqual((await askOverUdp(client, queryOf('b.test', 'A'))).additionals, [])
})

test('addresses behind the host are taken out of answers, unless an entry allows them', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority
    .name('mixed.test', ['203.0.113.10', '10.1.2.3', '127.0.0.1'])
    .name('meta.test', ['169.254.169.254', '::1', '::ffff:10.1.2.3', 'fd00:a1b2::5'])
    .name('inner.test', ['10.1.2.3'])
    .name('pool.test', ['10.200.0.7'])
    .reply('alias.test', 'A', { answers: [{ name: 'alias.test', type: 'CNAME', ttl: 5, data: 'db.corp' }, { name: 'db.corp', type: 'A', ttl: 5, data: '10.1.2.3' }] })
  const table: [Egress, string, string, { code: string, data: unknown[] }, string[]][] = [
    ['internet', 'mixed.test', 'A', found, ['private_address 10.1.2.3', 'forbidden_address 127.0.0.1']],
    ['internet', 'meta.test', 'A', empty, ['forbidden_address 169.254.169.254']],
    ['internet', 'meta.test', 'AAAA', empty, ['forbidden_address ::1', 'forbidden_address ::ffff:a01:203', 'forbidden_address fd00:a1b2::5']],
    ['internet', 'alias.test', 'A', empty, ['private_address 10.1.2.3']],
    [{ allow: ['inner.test'] }, 'inner.test', 'A', empty, ['private_address 10.1.2.3']],
    [{ allow: ['inner.test', '10.1.0.0/16'] }, 'inner.test', 'A', { code: 'NOERROR', data: ['10.1.2.3'] }, ['rule undefined']],
    [{ allow: ['inner.test', '10.1.2.3:5432'] }, 'inner.test', 'A', { code: 'NOERROR', data: ['10.1.2.3'] }, ['rule undefined']],
    [{ allow: ['inner.test', '10.1.0.0/16'], deny: ['10.1.2.0/24'] }, 'inner.test', 'A', empty, ['private_address 10.1.2.3']],
    [{ allow: ['internet', '10.0.0.0/15'] }, 'pool.test', 'A', empty, ['forbidden_address 10.200.0.7']],
  ]
  for (const [egress, name, type, answer, decisions] of table) {
    assert.deepEqual(await fixture.ask(fixture.sandbox(egress), name, type), answer, `${JSON.stringify(egress)} ${name}`)
    assert.deepEqual(fixture.newDecisions().map(({ reason, address }) => `${reason} ${address}`), decisions)
  }
})

test('a name with a port is answered when the packet filter lets it through, and opened once', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.name('git.test', ['203.0.113.10', '203.0.113.11', '2001:db8::7'], 5).name('web.test', ['203.0.113.12'])
  const client = fixture.sandbox({ allow: ['git.test:22', 'git.test:9418', 'web.test'] })
  const isOpen = Promise.withResolvers<boolean>()
  fixture.open = async () => await isOpen.promise
  let isAnswered = false
  const asked = fixture.ask(client, 'git.test').then(answer => {
    isAnswered = true
    return answer
  })
  await once(fixture.authority, 'question')
  while (fixture.opened.length < 2) await new Promise(resolve => setImmediate(resolve))
  assert.equal(isAnswered, false)
  isOpen.resolve(true)
  assert.deepEqual(await asked, { code: 'NOERROR', data: ['203.0.113.10', '203.0.113.11'] })
  const request = { sandboxId: client.sandboxId, addresses: ['203.0.113.10', '203.0.113.11'], ttlMs: 65_000 }
  assert.deepEqual(fixture.opened.splice(0), [{ ...request, port: 22 }, { ...request, port: 9418 }])
  await fixture.ask(client, 'git.test')
  await fixture.ask(client, 'web.test')
  assert.deepEqual(fixture.opened, [])
  await fixture.ask(client, 'git.test', 'AAAA')
  assert.deepEqual(fixture.opened.splice(0).map(({ addresses, port }) => [...addresses, port]), [['2001:db8::7', 22], ['2001:db8::7', 9418]])
  fixture.changeEgress(client.from, { allow: ['git.test:22'] })
  await fixture.ask(client, 'git.test')
  assert.equal(fixture.opened.length, 1)
})

test('what the packet filter does not open is not answered, and asked for again', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.name('git.test', ['203.0.113.10'])
  const client = fixture.sandbox({ allow: ['git.test:22'] })
  for (const open of [async () => false, async () => { throw new Error('gone') }]) {
    fixture.open = open
    assert.deepEqual(await fixture.ask(client, 'git.test'), { code: 'SERVFAIL', data: [] })
  }
  fixture.open = async () => true
  assert.deepEqual(await fixture.ask(client, 'git.test'), found)
  assert.equal(fixture.opened.length, 3)
})

test('an address is not opened for having a name when it is private, denied, or allowed anyway', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.name('git.test', ['10.1.2.3', '203.0.113.10', '203.0.113.20', '203.0.113.30'])
  const client = fixture.sandbox({ allow: ['git.test:22', '10.1.2.3:443', '203.0.113.20'], deny: ['203.0.113.30'] })
  await fixture.ask(client, 'git.test')
  assert.deepEqual(fixture.opened.map(({ addresses, port }) => [...addresses, port]), [['203.0.113.10', 22]])
})

test('gateway.internal is known to who may reach it, and asked for nowhere', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const inside = fixture.sandbox('none', { hasGateway: true })
  assert.deepEqual(await fixture.ask(inside, 'Gateway.Internal'), { code: 'NOERROR', data: [gateway4] })
  assert.deepEqual(await fixture.ask(inside, 'gateway.internal', 'AAAA'), { code: 'NOERROR', data: [gateway6] })
  assert.deepEqual(await fixture.ask(inside, 'gateway.internal', 'TXT'), empty)
  assert.deepEqual(await fixture.ask(inside, 'x.gateway.internal'), denied)
  for (const egress of ['none', 'internet', { allow: ['*.internal'] }] as Egress[]) assert.deepEqual(await fixture.ask(fixture.sandbox(egress), 'gateway.internal'), denied)
  assert.deepEqual(fixture.authority.questions, [])
})

test('reverse look-ups tell nothing about networks of the host, nor anything where names are listed', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const reverse = '10.113.0.203.in-addr.arpa'
  fixture.authority.reply(reverse, 'PTR', { answers: [{ name: reverse, type: 'PTR', ttl: 5, data: 'www.test' }] })
  const internet = fixture.sandbox('internet')
  assert.deepEqual(await fixture.ask(internet, reverse, 'PTR'), { code: 'NOERROR', data: ['www.test'] })
  for (const name of ['5.0.0.10.in-addr.arpa', '1.0.200.10.in-addr.arpa', 'b._dns-sd._udp.0.2.168.192.in-addr.arpa', '8.e.f.ip6.arpa', 'd.f.ip6.arpa']) {
    assert.deepEqual(await fixture.ask(internet, name, 'PTR'), denied, name)
  }
  assert.deepEqual(fixture.newDecisions().map(({ reason, address }) => `${reason} ${address}`),
    ['private_address 10.0.0.5', 'forbidden_address 10.200.0.1', 'private_address 192.168.2.0', 'forbidden_address fe80::', 'private_address fd00::'])
  assert.deepEqual(await fixture.ask(fixture.sandbox({ allow: ['*'] }), reverse, 'PTR'), denied)
  assert.equal(fixture.authority.questions.length, 1)
})

test('records by which a connection could hide its name are not told to who goes through the proxy', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  for (const type of ['UNKNOWN_64', 'UNKNOWN_65']) {
    fixture.authority.reply('www.test', type, { answers: [{ name: 'www.test', type: type as 'NULL', ttl: 5, data: Buffer.of(0, 1, 0) }] })
    assert.equal((await fixture.ask(fixture.sandbox('internet'), 'www.test', type)).data.length, 1)
    assert.deepEqual(await fixture.ask(fixture.sandbox({ allow: ['www.test'] }), 'www.test', type), empty)
  }
})

test('only what answers the question is passed on, and never an address beside it', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const target = { name: 'x.test', type: 'A' as const, ttl: 5, data: '10.1.2.3' }
  fixture.authority.reply('_sip._tcp.test', 'SRV', {
    answers: [{ name: '_sip._tcp.test', type: 'SRV', ttl: 5, data: { port: 5060, target: 'x.test' } }, target], additionals: [target],
  })
  const answer = await askOverUdp(fixture.sandbox('internet'), queryOf('_sip._tcp.test', 'SRV'))
  assert.deepEqual([answer.answers?.map(record => record.type), answer.authorities, answer.additionals], [['SRV'], [], []])
  const missing = await askOverUdp(fixture.sandbox('internet'), queryOf('missing.test', 'A'))
  assert.deepEqual(missing.authorities?.map(record => record.type), ['SOA'])
})

test('what is no ordinary question is refused as the standards say', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const client = fixture.sandbox('internet')
  const code = async (query: Buffer) => (await askOverUdp(client, query)).rcode
  const withFlags = (flags: number) => queryOf('a.test', 'A', { flags })
  const two = queryOf('a.test', 'A', { questions: [{ name: 'a.test', type: 'A' }, { name: 'b.test', type: 'A' }] })
  const table: [string, Buffer, string][] = [
    ['ANY', queryOf('a.test', 'ANY'), 'REFUSED'],
    ['AXFR', queryOf('a.test', 'AXFR'), 'REFUSED'],
    ['IXFR', queryOf('a.test', 'IXFR'), 'REFUSED'],
    ['type 0', queryOf('a.test', 'UNKNOWN_0'), 'REFUSED'],
    ['class CHAOS', queryOf('version.bind', 'TXT', { questions: [{ name: 'version.bind', type: 'TXT', class: 'CH' }] }), 'REFUSED'],
    ['opcode IQUERY', withFlags(1 << 11), 'NOTIMP'],
    ['opcode UPDATE', withFlags(5 << 11), 'NOTIMP'],
    ['no question', queryOf('a.test', 'A', { questions: [] }), 'FORMERR'],
    ['two questions', two, 'FORMERR'],
    ['a query with answers', queryOf('a.test', 'A', { answers: [{ name: 'a.test', type: 'A', data: '203.0.113.1' }] }), 'FORMERR'],
    ['a cut question', queryOf('a.test', 'A').subarray(0, -3), 'FORMERR'],
    ['a header alone', Buffer.from('123401000001000000000000', 'hex'), 'FORMERR'],
  ]
  for (const [what, query, expected] of table) assert.equal(await code(query), expected, what)
  const future = queryOf('a.test', 'A', { ednsBytes: 1_232 })
  future[future.length - 5] = 1
  const badVersion = await askOverUdp(client, future)
  const [option] = badVersion.additionals ?? []
  assert.ok(option?.type === 'OPT' && option.extendedRcode === 1 && badVersion.rcode === 'NOERROR')
  const response = queryOf('a.test', 'A')
  response[2] = 0x81
  assert.deepEqual(await datagrams(client, [response, Buffer.alloc(11), Buffer.alloc(0), Buffer.alloc(5_000)], 1, 50), [])
  assert.deepEqual([fixture.authority.questions, fixture.newDecisions()], [[], []])
})

test('who is no sandbox is refused', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const client = fixture.sandbox('internet')
  fixture.setPolicy(client.from, undefined)
  assert.deepEqual(await fixture.ask(client, 'a.test'), { code: 'REFUSED', data: [] })
  assert.deepEqual([fixture.authority.questions, fixture.newDecisions()], [[], []])
})

test('a policy that changes while its question waits decides', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const client = fixture.sandbox({ allow: ['git.test:22'] })
  fixture.authority.reply('git.test', 'A', () => {
    fixture.changeEgress(client.from, 'none')
    return { answers: [{ name: 'git.test', type: 'A', ttl: 5, data: '203.0.113.10' }] }
  })
  assert.deepEqual(await fixture.ask(client, 'git.test'), denied)
  assert.deepEqual(fixture.opened, [])
  assert.deepEqual(fixture.newDecisions().map(({ action, reason }) => [action, reason]), [['denied', 'egress_none']])
})

test('a failing name server is a failure, not a refusal', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.reply('a.test', 'A', { code: 2 })
  assert.deepEqual(await fixture.ask(fixture.sandbox('internet'), 'a.test'), { code: 'SERVFAIL', data: [] })
})

test('answers over UDP are as long as the client takes, and no longer than what passes everywhere', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const client = fixture.sandbox('internet')
  const addresses = (count: number) => Array.from({ length: count }, (_, i) => `203.0.113.${i}`)
  fixture.authority.name('small.test', addresses(20)).name('middle.test', addresses(60)).name('large.test', addresses(200))
  const table: [string, number | undefined, boolean][] = [
    ['small.test', undefined, false], ['middle.test', undefined, true], ['middle.test', 100, true], ['middle.test', 1_232, false], ['large.test', 65_535, true],
  ]
  for (const [name, ednsBytes, isTruncated] of table) {
    const [bytes] = await datagrams(client, [queryOf(name, 'A', { ednsBytes })])
    assert.ok(bytes !== undefined && bytes.length <= Math.min(1_232, Math.max(512, ednsBytes ?? 0)))
    assert.equal(decoded(bytes).flag_tc, isTruncated, `${name} ${ednsBytes}`)
  }
})
