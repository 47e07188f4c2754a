import { test } from 'node:test'
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { buildEgressWorld, ending, until, type EgressWorld } from '../../support/egress-world.ts'

const certificate = makeCertificate()

function makeCertificate (): { key: Buffer, cert: Buffer } {
  const dir = mkdtempSync(join(tmpdir(), 'berth-test-'))
  try {
    const files = ['-keyout', join(dir, 'key'), '-out', join(dir, 'cert')]
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=example.com', '-days', '1', ...files], { stdio: 'pipe' })
    return { key: readFileSync(join(dir, 'key')), cert: readFileSync(join(dir, 'cert')) }
  } finally {
    rmSync(dir, { recursive: true })
  }
}

const tlsServer = (serve: (socket: tls.TLSSocket) => void): net.Server =>
  tls.createServer({ ...certificate, allowHalfOpen: true } as tls.TlsOptions, socket => serve(socket.on('error', () => {})))
const greeter = (text: string): net.Server => tlsServer(socket => socket.end(text))

/** A TLS client inside that asks for a name: what it reads, or `ECONNRESET`. */
async function ask (world: EgressWorld, servername: string | undefined): Promise<string> {
  const socket = tls.connect({ socket: world.connect('tls'), rejectUnauthorized: false, ...servername !== undefined && { servername } })
  return await ending(socket)
}

const allowedTls = (name: string, address: string, entry = name) =>
  ({ sandboxId: 'sbx_test', kind: 'tls', action: 'allowed', reason: 'rule', name, entry, protocol: 'tcp', address, port: 443 })
const meant = { address: '203.0.113.250', port: 443 }

test('a TLS connection leads to where its name leads, not to where it was sent', async t => {
  const world = await buildEgressWorld(t, { allow: ['*.example.com'] })
  world.names['a.example.com'] = ['203.0.113.10']
  await world.place('203.0.113.10', 443, greeter('right'))
  await world.place(meant.address, 443, greeter('wrong'))
  assert.equal(await ask(world, 'A.example.com'), 'ended right')
  assert.deepEqual(world.decisions, [allowedTls('a.example.com', '203.0.113.10', '*.example.com')])
  assert.deepEqual(world.dialled, ['203.0.113.10:443'])
})

test('a name that is not allowed is reset, also at an address that an allowed name has', async t => {
  const world = await buildEgressWorld(t, { allow: ['a.example'], deny: ['evil.example'] })
  world.names['a.example'] = [meant.address]
  await world.place(meant.address, 443, greeter('shared'))
  assert.equal(await ask(world, 'b.example'), 'ECONNRESET')
  assert.equal(await ask(world, 'evil.example'), 'ECONNRESET')
  assert.equal(await ask(world, undefined), 'ECONNRESET')
  assert.deepEqual(world.decisions.map(({ action, reason, name, entry, address, port }) => ({ action, reason, name, entry, address, port })), [
    { action: 'denied', reason: 'no_rule', name: 'b.example', entry: undefined, ...meant },
    { action: 'denied', reason: 'rule', name: 'evil.example', entry: 'evil.example', ...meant },
    { action: 'denied', reason: 'no_name', name: undefined, entry: undefined, ...meant },
  ])
  assert.deepEqual(world.dialled, [])
})

test('an allowed name that leads inside is refused', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  const addresses = { '127.0.0.1': 'forbidden_address', '169.254.169.254': 'forbidden_address', '10.1.2.3': 'private_address', '198.51.100.1': 'host_port', '10.200.0.9': 'forbidden_address' }
  for (const [address, reason] of Object.entries(addresses)) {
    world.names['rebind.example'] = [address]
    assert.equal(await ask(world, 'rebind.example'), 'ECONNRESET')
    const { action, reason: found, address: refused } = world.decisions.pop() ?? {}
    assert.deepEqual({ action, found, refused }, { action: 'denied', found: reason, refused: address })
  }
  assert.equal(await ask(world, 'nowhere.example'), 'ECONNRESET')
  assert.equal(world.decisions.at(-1)?.reason, 'unresolvable')
  assert.deepEqual(world.dialled, [])
})

test('an address that is allowed is reached without a name, and with other protocols', async t => {
  const world = await buildEgressWorld(t, { allow: ['a.example', meant.address] })
  await world.place(meant.address, 443, greeter('by address'))
  assert.equal(await ask(world, undefined), 'ended by address')
  await world.place(meant.address, 443, net.createServer({ allowHalfOpen: true }, socket => socket.once('data', () => socket.end('SSH'))))
  const socket = world.connect('tls')
  socket.write('SSH-2.0-x\r\n')
  assert.equal(await ending(socket), 'ended SSH')
  assert.deepEqual(world.decisions.map(({ action, entry, address }) => [action, entry, address]), Array(2).fill(['allowed', meant.address, meant.address]))
})

test('strangers and sandboxes whose rules name no domain are reset', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  for (const kind of ['tls', 'http'] as const) assert.equal(await ending(world.connect(kind, '127.77.0.3')), 'ECONNRESET')
  world.setEgress('internet')
  for (const kind of ['tls', 'http'] as const) assert.equal(await ending(world.connect(kind)), 'ECONNRESET')
  assert.deepEqual(world.decisions, [])
  assert.equal(world.proxy.connections, 0)
})

test('bytes arrive whole both ways, also through a side that has ended', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  world.names['a.example'] = ['203.0.113.10']
  const body = randomBytes(12 * 1024 * 1024)
  // It answers only when the other side has ended.
  await world.place('203.0.113.10', 443, tlsServer(socket => {
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => socket.end(Buffer.concat(chunks)))
  }))
  const socket = tls.connect({ socket: world.connect('tls'), rejectUnauthorized: false, servername: 'a.example', allowHalfOpen: true } as tls.ConnectionOptions)
  const hash = createHash('sha256')
  socket.on('data', (chunk: Buffer) => hash.update(chunk))
  // A slow reader: what it does not take must not pile up, nor get lost.
  socket.once('data', () => { socket.pause(); setTimeout(() => socket.resume(), 100) })
  socket.end(body)
  await once(socket, 'end')
  assert.equal(hash.digest('hex'), createHash('sha256').update(body).digest('hex'))
  socket.destroy()
})

test('what the server resets is reset inside', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  world.names['a.example'] = ['203.0.113.10']
  await world.place('203.0.113.10', 443, net.createServer(socket => socket.once('data', () => socket.resetAndDestroy())))
  assert.equal(await ask(world, 'a.example'), 'ECONNRESET')
  world.names['a.example'] = ['203.0.113.11']
  assert.equal(await ask(world, 'a.example'), 'ECONNRESET')
  // Both were let through; that they failed is not for the policy to say.
  assert.deepEqual(world.decisions, [allowedTls('a.example', '203.0.113.10', '*'), allowedTls('a.example', '203.0.113.11', '*')])
})

test('a changed policy cuts what it does not allow, and nothing else', async t => {
  const world = await buildEgressWorld(t, { allow: ['a.example', 'b.example'] })
  Object.assign(world.names, { 'a.example': ['203.0.113.10'], 'b.example': ['203.0.113.11'] })
  const ticker = (): net.Server => tlsServer(socket => {
    const timer = setInterval(() => socket.write('tick'), 5)
    socket.once('close', () => clearInterval(timer))
  })
  await world.place('203.0.113.10', 443, ticker())
  await world.place('203.0.113.11', 443, ticker())
  const open = async (servername: string): Promise<tls.TLSSocket> => {
    const socket = tls.connect({ socket: world.connect('tls'), rejectUnauthorized: false, servername })
    await once(socket, 'data')
    return socket
  }
  const a = await open('a.example')
  const b = await open('b.example')
  const silent = world.connect('tls')
  await until(() => world.proxy.connections === 3)
  const cut = ending(a)
  world.setEgress({ allow: ['b.example'] })
  assert.equal(await cut, 'ECONNRESET')
  await once(b, 'data')
  assert.equal(world.proxy.connections, 2)
  const ends = Promise.all([ending(b), ending(silent)])
  world.setEgress(undefined)
  assert.deepEqual(await ends, ['ECONNRESET', 'ECONNRESET'])
  assert.equal(world.proxy.connections, 0)
})

test('a change of policy while the name is resolved counts', async t => {
  const asked = Promise.withResolvers<void>()
  const answered = Promise.withResolvers<{ addresses: string[], ttlSeconds: number }>()
  const world = await buildEgressWorld(t, { allow: ['a.example', '10.1.2.3'] }, {
    resolve: async () => {
      asked.resolve()
      return await answered.promise
    },
  })
  await world.place('10.1.2.3', 443, greeter('private'))
  const outcome = ask(world, 'a.example')
  await asked.promise
  world.setEgress({ allow: ['a.example'] })
  answered.resolve({ addresses: ['10.1.2.3'], ttlSeconds: 1 })
  assert.equal(await outcome, 'ECONNRESET')
  assert.deepEqual(world.dialled, [])
})

test('forgetting a sandbox cuts everything of it', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  const sockets = [world.connect('tls'), world.connect('http')]
  await until(() => world.proxy.connections === 2)
  const ends = Promise.all(sockets.map(ending))
  world.proxy.forget('sbx_other')
  assert.equal(world.proxy.connections, 2)
  world.proxy.forget('sbx_test')
  assert.deepEqual(await ends, ['ECONNRESET', 'ECONNRESET'])
})

test('a slow client, a mute one and one that talks nonsense are reset', async t => {
  // Not even an address that is allowed gets what cannot be understood.
  const world = await buildEgressWorld(t, { allow: ['*', meant.address] }, { helloTimeoutMs: 50 })
  await world.place(meant.address, 443, net.createServer(socket => socket.end('reached')))
  const mute = world.connect('tls')
  assert.equal(await ending(mute), 'ECONNRESET')
  assert.deepEqual(world.decisions, [])
  const slow = world.connect('tls')
  slow.write(Buffer.from([22, 3, 1, 0, 200, 1]))
  assert.equal(await ending(slow), 'ECONNRESET')
  const garbage = world.connect('tls')
  garbage.write(Buffer.concat([Buffer.from([22, 3, 1]), randomBytes(400)]))
  assert.equal(await ending(garbage), 'ECONNRESET')
  assert.deepEqual(world.decisions.map(({ action, reason }) => `${action} ${reason}`), ['denied no_name', 'denied no_name'])
  const slowHead = world.connect('http')
  slowHead.write('GET / HT')
  assert.match(await ending(slowHead), /^ended HTTP\/1.1 408/)
})

test('a sandbox has so many connections, and no more', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] }, { maximumConnections: 2 })
  const sockets = [world.connect('tls'), world.connect('http')]
  await until(() => world.proxy.connections === 2)
  assert.equal(await ending(world.connect('tls')), 'ECONNRESET')
  assert.deepEqual(world.decisions.map(({ action, reason, kind }) => [action, reason, kind]), [['denied', 'too_many_connections', 'tls']])
  sockets[0]?.destroy()
  await until(() => world.proxy.connections === 1)
  const again = world.connect('tls')
  await until(() => world.proxy.connections === 2)
  assert.equal(again.destroyed, false)
})

test('a port that is taken keeps the proxy from listening at all', async t => {
  const world = await buildEgressWorld(t, { allow: ['*'] })
  const taken = world.port('tls')
  const other = await buildEgressWorld(t, { allow: ['*'] })
  await assert.rejects(other.proxy.listen(['127.0.0.1'], { http: 0, tls: taken }), { code: 'EADDRINUSE' })
  assert.equal(await ending(other.connect('tls')), 'ECONNREFUSED')
})
