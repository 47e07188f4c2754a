import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import dgram from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import { PortRelays } from '../../../src/services/network/server/port-relay.ts'
import { ending, until } from '../../support/egress-world.ts'

// Addresses of this process alone: whatever else runs does not take its free ports.
const block = `127.${64 + process.pid % 64}.${process.pid >> 6 & 255}`
const outside = `${block}.1`
const sandbox = { ipv4: `${block}.2`, ipv6: '::1' }

function build (t: TestContext, publishAddress = outside): PortRelays {
  const relays = new PortRelays({ publishAddress, logger: pino({ level: 'silent' }) })
  t.after(() => relays.close())
  return relays
}

async function listen (t: TestContext, server: net.Server, host: string = sandbox.ipv4): Promise<number> {
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket: net.Socket) => sockets.add(socket.on('error', () => {})))
  server.listen(0, host)
  await once(server, 'listening')
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return (server.address() as net.AddressInfo).port
}

/** A port that was free a moment ago. */
async function freePort (host = outside): Promise<number> {
  const server = net.createServer().listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

function connect (t: TestContext, port: number, host = outside): net.Socket {
  const socket = net.connect({ port, host, allowHalfOpen: true }).on('error', () => {})
  t.after(() => socket.destroy())
  return socket
}

const greeter = (text: string): net.Server => net.createServer(socket => socket.end(text))

test('a published port leads inside, whole and half-closed', async t => {
  const relays = build(t)
  const echo = net.createServer({ allowHalfOpen: true }, socket => {
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk)).on('end', () => socket.end(Buffer.concat(chunks)))
  })
  const [port, hostPort] = [await listen(t, echo), await freePort()]
  await relays.set('sbx_a', sandbox, [{ port, hostPort, protocol: 'tcp' }])
  const body = randomBytes(8 * 1024 * 1024)
  const socket = connect(t, hostPort)
  const hash = createHash('sha256')
  socket.on('data', (chunk: Buffer) => hash.update(chunk))
  socket.once('data', () => { socket.pause(); setTimeout(() => socket.resume(), 50) })
  socket.end(body)
  await once(socket, 'end')
  assert.equal(hash.digest('hex'), createHash('sha256').update(body).digest('hex'))
})

test('where nothing listens inside, the connection is closed', async t => {
  const relays = build(t)
  const [port, hostPort] = [await freePort(sandbox.ipv4), await freePort()]
  await relays.set('sbx_a', sandbox, [{ port, hostPort, protocol: 'tcp' }])
  assert.equal(await ending(connect(t, hostPort)), 'ended ')
})

test('a reset goes through, both ways', async t => {
  const relays = build(t)
  const accepted: net.Socket[] = []
  const [port, hostPort] = [await listen(t, net.createServer(socket => accepted.push(socket))), await freePort()]
  await relays.set('sbx_a', sandbox, [{ port, hostPort, protocol: 'tcp' }])
  const first = connect(t, hostPort)
  await until(() => accepted.length === 1)
  const cut = ending(first)
  accepted[0]?.resetAndDestroy()
  assert.equal(await cut, 'ECONNRESET')
  const second = connect(t, hostPort)
  await until(() => accepted.length === 2)
  const inner = ending(accepted[1] ?? first)
  second.resetAndDestroy()
  assert.equal(await inner, 'ECONNRESET')
})

test('setting again changes only what differs', async t => {
  const relays = build(t)
  const accepted: net.Socket[] = []
  const port = await listen(t, net.createServer(socket => accepted.push(socket)))
  const other = await listen(t, greeter('other'))
  const [stays, goes, comes] = [await freePort(), await freePort(), await freePort()]
  await relays.set('sbx_a', sandbox, [{ port, hostPort: stays, protocol: 'tcp' }, { port, hostPort: goes, protocol: 'tcp' }])
  const kept = connect(t, stays)
  const gone = connect(t, goes)
  await until(() => accepted.length === 2)
  const cut = ending(gone)
  await relays.set('sbx_a', sandbox, [{ port, hostPort: stays, protocol: 'tcp' }, { port: other, hostPort: comes, protocol: 'tcp' }])
  assert.equal(await cut, 'ECONNRESET')
  assert.equal(await ending(connect(t, goes)), 'ECONNREFUSED')
  assert.equal(await ending(connect(t, comes)), 'ended other')
  assert.equal(kept.closed, false)
  // The same port of the host for another one inside.
  const moved = ending(kept)
  await relays.set('sbx_a', sandbox, [{ port: other, hostPort: stays, protocol: 'tcp' }])
  assert.equal(await moved, 'ECONNRESET')
  assert.equal(await ending(connect(t, stays)), 'ended other')
  await relays.remove('sbx_a')
  assert.equal(await ending(connect(t, stays)), 'ECONNREFUSED')
})

test('a port that is taken is told, and nothing is half done', async t => {
  const relays = build(t)
  const port = await listen(t, greeter('inside'))
  const taken = await listen(t, greeter('someone'), outside)
  const [old, free] = [await freePort(), await freePort()]
  await relays.set('sbx_a', sandbox, [{ port, hostPort: old, protocol: 'tcp' }])
  const wanted = [{ port, hostPort: free, protocol: 'tcp' as const }, { port, hostPort: taken, protocol: 'tcp' as const }]
  await assert.rejects(relays.set('sbx_a', sandbox, wanted), { code: 'EADDRINUSE', port: taken })
  assert.equal(await ending(connect(t, old)), 'ended inside')
  assert.equal(await ending(connect(t, free)), 'ECONNREFUSED')
  // Also where it is another sandbox that has it.
  await assert.rejects(relays.set('sbx_b', sandbox, [{ port, hostPort: old, protocol: 'tcp' }]), { code: 'EADDRINUSE', port: old })
  await relays.remove('sbx_a')
  await relays.set('sbx_b', sandbox, [{ port, hostPort: old, protocol: 'tcp' }])
  assert.equal(await ending(connect(t, old)), 'ended inside')
})

test('every address means both families', async t => {
  const relays = build(t, '0.0.0.0')
  const [port, hostPort] = [await listen(t, greeter('inside')), await freePort('0.0.0.0')]
  await relays.set('sbx_a', sandbox, [{ port, hostPort, protocol: 'tcp' }])
  for (const host of ['127.0.0.1', outside, '::1']) assert.equal(await ending(connect(t, hostPort, host)), 'ended inside')
})

/** A socket for datagrams, and what it has got. */
async function datagrams (t: TestContext, host: string, port = 0): Promise<{ socket: dgram.Socket, port: number, got: { text: string, from: dgram.RemoteInfo }[] }> {
  const socket = dgram.createSocket('udp4')
  const got: { text: string, from: dgram.RemoteInfo }[] = []
  socket.on('message', (message, from) => got.push({ text: message.toString(), from })).on('error', () => {})
  socket.bind(port, host)
  await once(socket, 'listening')
  t.after(() => socket.close())
  return { socket, port: socket.address().port, got }
}

test('datagrams find inside, and their answers back to whom they are for', async t => {
  const relays = build(t)
  const inside = await datagrams(t, sandbox.ipv4)
  const hostPort = await freePort()
  await relays.set('sbx_a', sandbox, [{ port: inside.port, hostPort, protocol: 'udp' }])
  const [a, b, stranger] = [await datagrams(t, `${block}.8`), await datagrams(t, `${block}.9`), await datagrams(t, `${block}.3`)]
  a.socket.send('from a', hostPort, outside)
  b.socket.send('from b', hostPort, outside)
  await until(() => inside.got.length === 2)
  for (const { text, from } of inside.got) {
    // Someone else than the sandbox knows the relay's own port, and is not heard.
    stranger.socket.send('forged', from.port, from.address)
    inside.socket.send(`to ${text}`, from.port, from.address)
  }
  await until(() => a.got.length === 1 && b.got.length === 1)
  assert.deepEqual([...a.got, ...b.got].map(({ text, from }) => `${text} ${from.address} ${from.port}`), [`to from a ${outside} ${hostPort}`, `to from b ${outside} ${hostPort}`])
  const [{ from: known } = { from: undefined }] = inside.got
  a.socket.send('again', hostPort, outside)
  await until(() => inside.got.length === 3)
  assert.equal(inside.got[2]?.from.port, known?.port)
  // A port in use counts for datagrams too.
  await assert.rejects(relays.set('sbx_b', sandbox, [{ port: inside.port, hostPort, protocol: 'udp' }]), { code: 'EADDRINUSE', port: hostPort })
  await relays.remove('sbx_a')
  await datagrams(t, outside, hostPort)
})
