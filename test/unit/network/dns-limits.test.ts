import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import test from 'node:test'
import { pino } from 'pino'
import { DnsListener } from '../../../src/services/network/server/dns-listener.ts'
import { connection, datagrams, decoded, framedQuery, freeEndpoint, messagesOver, queryOf } from '../../support/dns-client.ts'
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

test('a client that ends its side still has its answers, then the connection ends', { timeout: 5_000 }, async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { idleMs: 60_000 } })
  fixture.authority.reply('slow.test', 'A', { delayMs: 20, answers: [{ name: 'slow.test', type: 'A', ttl: 5, data: '203.0.113.10' }] })
  const socket = await connection(fixture.sandbox('internet'))
  const chunks: Buffer[] = []
  socket.on('data', chunk => chunks.push(chunk))
  socket.end(framedQuery(queryOf('slow.test', 'A')))
  await once(socket, 'close')
  assert.equal(decoded(Buffer.concat(chunks).subarray(2)).answers?.length, 1)
})

test('a connection on which nothing happens ends, also within a question', { timeout: 5_000 }, async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { idleMs: 30 } })
  const client = fixture.sandbox('internet')
  const [idle, slow] = await Promise.all([connection(client), connection(client)])
  slow.write(Buffer.of(0))
  await Promise.all([closed(idle), closed(slow)])
})

test('a connection on which a question is longer than any ends', { timeout: 5_000 }, async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { idleMs: 60_000 } })
  const socket = await connection(fixture.sandbox('internet'))
  socket.write(Buffer.of(0xff, 0xff))
  await closed(socket)
})

async function closed (socket: Socket): Promise<void> {
  await once(socket.on('error', () => undefined).resume(), 'close')
}

test('sandboxes are known by their addresses of both families', async () => {
  const sources: string[] = []
  const answer = async (query: Buffer, source: string, transport: string) => {
    sources.push(`${source} ${transport}`)
    return query
  }
  const listener = new DnsListener({ answer, admit: source => () => { sources.push(`${source} ended`) }, logger: pino({ level: 'silent' }) })
  const { port } = await freeEndpoint()
  await listener.listen(['::1'], port)
  const client = { from: '::1', server: { address: '::1', port } }
  const query = queryOf('a.test', 'A')
  assert.deepEqual(await datagrams(client, [query]), [query])
  const socket = await connection(client)
  assert.deepEqual(await messagesOver(socket, framedQuery(query), 1), [query])
  const ended = closed(socket)
  await listener.close()
  await ended
  assert.deepEqual(sources, ['::1 udp', '::1 tcp', '::1 ended'])
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

test('a sandbox that asks without end is not heard for a while, and that is recorded, not one by one', async t => {
  const fixture = await DnsForwarderFixture.start(t, { limits: { questionsPerSecond: 10 } })
  const [client, other] = [fixture.sandbox({ allow: [] }), fixture.sandbox({ allow: [] })]
  assert.equal((await datagrams(client, Array.from({ length: 100 }, () => queryOf('a.test', 'A')), 20)).length, 20)
  // Datagrams are read in their order: when this one is answered, all of the flood are decided.
  assert.equal((await fixture.ask(other, 'a.test')).code, 'NXDOMAIN')
  const reasons = fixture.newDecisions().filter(({ sandboxId }) => sandboxId === client.sandboxId).map(({ reason }) => reason)
  const answered = reasons.filter(reason => reason === 'no_rule').length
  assert.ok(answered >= 20 && answered < 80, `${answered} answers`)
  const recorded = reasons.length - answered
  assert.ok(recorded >= 1 && recorded <= 5, `${recorded} records`)
})

test('an address that is taken is told, and nothing stays open', async t => {
  const fixture = await DnsForwarderFixture.start(t)
  const { server } = fixture.sandbox('internet')
  const listener = new DnsListener({ answer: async () => undefined, admit: () => undefined, logger: pino({ level: 'silent' }) })
  const free = server.address.replace(/\d+$/, last => String((Number(last) + 100) % 250 + 1))
  await assert.rejects(listener.listen([free, server.address], server.port), { code: 'EADDRINUSE' })
  await listener.listen([free], server.port)
  await listener.close()
})
