import assert from 'node:assert/strict'
import { once } from 'node:events'
import test from 'node:test'
import { connection, datagrams, decoded, framedQuery, messagesOver, queryOf } from '../../support/dns-client.ts'
import { DnsForwarderFixture } from '../../support/dns-forwarder-fixture.ts'

const many = Array.from({ length: 200 }, (_, i) => `203.0.113.${i}`)

test('over TCP answers are whole, and questions may follow one another in any pieces', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.name('large.test', many).name('small.test', ['203.0.113.10'])
  const client = fixture.sandbox('internet')
  const socket = await connection(client)
  const [large] = await messagesOver(socket, framedQuery(queryOf('large.test', 'A')), 1)
  assert.ok(large !== undefined && large.length > 1_232)
  assert.deepEqual([decoded(large).answers?.length, decoded(large).flag_tc], [200, false])
  const three = Buffer.concat([1, 2, 3].map(id => framedQuery(queryOf('small.test', 'A', { id }))))
  socket.write(three.subarray(0, 1))
  await new Promise(resolve => setTimeout(resolve, 5))
  socket.write(three.subarray(1, 45))
  await new Promise(resolve => setTimeout(resolve, 5))
  const answers = await messagesOver(socket, three.subarray(45), 3)
  assert.deepEqual(answers.map(answer => decoded(answer).id).sort(), [1, 2, 3])
  socket.destroy()
})

test('a client that ends its side still has its answers, then the connection ends', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  fixture.authority.reply('slow.test', 'A', { delayMs: 20, answers: [{ name: 'slow.test', type: 'A', ttl: 5, data: '203.0.113.10' }] })
  const socket = await connection(fixture.sandbox('internet'))
  const chunks: Buffer[] = []
  socket.on('data', chunk => chunks.push(chunk))
  socket.end(framedQuery(queryOf('slow.test', 'A')))
  await once(socket, 'close')
  assert.equal(decoded(Buffer.concat(chunks).subarray(2)).answers?.length, 1)
})

test('a connection that is idle, or says that a question is longer than any, ends', async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { idleMs: 30 } })
  const client = fixture.sandbox('internet')
  const [idle, slow, long] = await Promise.all([connection(client), connection(client), connection(client)])
  slow.write(Buffer.of(0))
  long.write(Buffer.of(0xff, 0xff))
  await Promise.all([idle, slow, long].map(async socket => await once(socket.on('error', () => undefined).resume(), 'close')))
})

test('a sandbox has so many connections and no more, and room again when one ends', async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { connections: 2 } })
  fixture.authority.name('a.test', ['203.0.113.10'])
  const [client, other] = [fixture.sandbox('internet'), fixture.sandbox('internet')]
  const ask = async (from: typeof client) => {
    const socket = await connection(from)
    return { socket, answers: (await messagesOver(socket, framedQuery(queryOf('a.test', 'A')), 1)).length }
  }
  const [first, second] = [await ask(client), await ask(client)]
  assert.deepEqual([first.answers, second.answers, (await ask(client).catch(() => ({ answers: 0 }))).answers], [1, 1, 0])
  assert.deepEqual(fixture.newDecisions(), [{ sandboxId: client.sandboxId, action: 'denied', reason: 'too_many_connections', protocol: 'tcp' }])
  assert.equal((await ask(other)).answers, 1)
  first.socket.destroy()
  let answers = 0
  while (answers === 0) answers = (await ask(client).catch(() => ({ answers: 0 }))).answers
  second.socket.destroy()
})

test('questions of one connection are answered some at a time', async t => {
  let running = 0
  let most = 0
  const query = async () => {
    most = Math.max(most, ++running)
    await new Promise(resolve => setTimeout(resolve, 5))
    running--
    return { code: 0, answers: [], authorities: [] }
  }
  const fixture = await DnsForwarderFixture.start(t, { resolver: { query }, limits: { maximumPipelined: 4 } })
  const socket = await connection(fixture.sandbox('internet'))
  const queries = Array.from({ length: 40 }, (_, id) => framedQuery(queryOf(`n${id}.test`, 'A', { id })))
  assert.equal((await messagesOver(socket, Buffer.concat(queries), 40)).length, 40)
  assert.equal(most, 4)
  socket.destroy()
})

test('a sandbox that waits for too many answers fails alone', async t => {
  const waiting = Promise.withResolvers<void>()
  const query = async ({ name }: { name: string }) => {
    if (name.startsWith('slow')) await waiting.promise
    return { code: 0, answers: [], authorities: [] }
  }
  const fixture = await DnsForwarderFixture.start(t, { resolver: { query }, limits: { inFlight: 8 } })
  const [client, other] = [fixture.sandbox('internet'), fixture.sandbox('internet')]
  const queries = Array.from({ length: 10 }, (_, id) => queryOf(`slow${id}.test`, 'A', { id }))
  const asked = datagrams(client, queries)
  while (fixture.decisions.length < 2) await new Promise(resolve => setImmediate(resolve))
  assert.equal((await fixture.ask(other, 'a.test')).code, 'NOERROR')
  assert.equal((await fixture.ask(client, 'a.test')).code, 'SERVFAIL')
  waiting.resolve()
  const codes = (await asked).map(answer => decoded(answer).rcode)
  assert.deepEqual([codes.filter(code => code === 'SERVFAIL').length, codes.filter(code => code === 'NOERROR').length], [2, 8])
  assert.deepEqual(fixture.newDecisions().map(({ reason, name }) => [reason, name]),
    [['too_many_connections', 'slow8.test'], ['too_many_connections', 'slow9.test'], ['too_many_connections', 'a.test']])
  assert.equal((await fixture.ask(client, 'a.test')).code, 'NOERROR')
})

test('a sandbox that asks without end is not heard for a while, and that is recorded once', async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { questionsPerSecond: 10 } })
  const [client, other] = [fixture.sandbox({ allow: [] }), fixture.sandbox({ allow: [] })]
  const answers = await datagrams(client, Array.from({ length: 100 }, () => queryOf('a.test', 'A')), 100, 200)
  assert.ok(answers.length >= 20 && answers.length < 40, `${answers.length} answers`)
  assert.equal((await fixture.ask(other, 'a.test')).code, 'NXDOMAIN')
  assert.equal(fixture.newDecisions().filter(({ reason }) => reason === 'too_many_connections').length, 1)
})

test('an address that is taken is told, and nothing stays open', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const { server } = fixture.sandbox('internet')
  const { DnsListener } = await import('../../../src/services/network/server/dns-listener.ts')
  const { pino } = await import('pino')
  const listener = new DnsListener({ answer: async () => undefined, admit: () => undefined, logger: pino({ level: 'silent' }) })
  const free = server.address.replace(/\d+$/, last => String((Number(last) + 100) % 250 + 1))
  await assert.rejects(listener.listen([free, server.address], server.port), { code: 'EADDRINUSE' })
  await listener.listen([free], server.port)
  await listener.close()
})
