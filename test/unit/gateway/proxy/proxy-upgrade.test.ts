import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { WebSocket, WebSocketServer } from 'ws'
import { pollUntil } from '../../../../src/lib/poll.ts'
import { as, FakeHost, hostToken, startGateway } from './proxy-rig.ts'

const api = '/v1/workers/w1/api'
const attach = `${api}/v1/sandboxes/s/terminals/t/attach`

/** A host that takes every WebSocket, and sends back what it is sent. */
async function startHost (t: Parameters<typeof FakeHost.start>[0]) {
  const host = await FakeHost.start(t, (_, response) => response.end('plain'))
  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'berth.v1' })
  host.server.on('upgrade', (request, socket, head) => {
    host.requests.push(request)
    if (request.url?.includes('ticket=bad')) return socket.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad')
    sockets.handleUpgrade(request, socket, head, opened => {
      opened.send(`hello ${request.url}`)
      opened.on('message', (data, isBinary) => opened.send(data, { binary: isBinary }))
    })
  })
  return { host }
}

async function refusal (socket: WebSocket): Promise<{ status: number, body: string }> {
  const [, answer] = await once(socket, 'unexpected-response') as [unknown, IncomingMessage]
  socket.on('error', () => {})
  return { status: answer.statusCode!, body: await text(answer) }
}

test('a WebSocket passes as it is, with the host\'s token in the place of the client\'s', async t => {
  const { host } = await startHost(t)
  const { port } = await startGateway(t, host)
  const socket = new WebSocket(`ws://127.0.0.1:${port}${attach}?since=3`, ['berth.v1'], { headers: as('client', { cookie: 'a=1' }) })
  const messages: Buffer[] = []
  socket.on('message', data => messages.push(data as Buffer))
  await once(socket, 'open')
  const big = Buffer.alloc(3 * 1024 ** 2, 7)
  socket.send(big)
  assert.ok(await pollUntil(async () => messages.length === 2, 5000))
  assert.equal(messages[0]!.toString(), 'hello /v1/sandboxes/s/terminals/t/attach?since=3')
  assert.ok(messages[1]!.equals(big))
  assert.equal(socket.protocol, 'berth.v1')
  const { headers } = host.requests[0]!
  assert.deepEqual([headers.authorization, headers.cookie, headers['sec-websocket-protocol']], [`Bearer ${hostToken}`, undefined, 'berth.v1'])
  socket.close(4001, 'enough')
  const [code] = await once(socket, 'close')
  assert.equal(code, 4001)
  assert.ok(await pollUntil(async () => host.sockets.size === 0, 5000), 'nothing of it is left')
})

test('a browser\'s token comes as a subprotocol, and goes no further than the gateway', async t => {
  const { host } = await startHost(t)
  const { port } = await startGateway(t, host)
  const socket = new WebSocket(`ws://127.0.0.1:${port}${attach}`, ['berth.v1', 'bearer.client'])
  await once(socket, 'open')
  const { headers } = host.requests[0]!
  assert.deepEqual([headers.authorization, headers['sec-websocket-protocol']], [`Bearer ${hostToken}`, 'berth.v1'])
  socket.terminate()
  assert.equal((await refusal(new WebSocket(`ws://127.0.0.1:${port}${attach}`, ['berth.v1', 'bearer.nobody']))).status, 401)
  assert.equal(host.requests.length, 1)
})

test('with a ticket the host alone decides: no word of the gateway\'s goes along', async t => {
  const { host } = await startHost(t)
  const { port } = await startGateway(t, host)
  const socket = new WebSocket(`ws://127.0.0.1:${port}${attach}?ticket=good`)
  await once(socket, 'open')
  assert.equal(host.requests[0]!.headers.authorization, undefined)
  socket.terminate()
  assert.deepEqual(await refusal(new WebSocket(`ws://127.0.0.1:${port}${attach}?ticket=bad`)), { status: 401, body: 'bad' })
  const elsewhere = await refusal(new WebSocket(`ws://127.0.0.1:${port}${api}/v1/host?ticket=good`))
  assert.equal(elsewhere.status, 401, 'where hosts take no tickets there is no way in by one')
  const nowhere = await refusal(new WebSocket(`ws://127.0.0.1:${port}/v1/workers/nobody/api/v1/sandboxes/s/logs/ws?ticket=good`))
  assert.equal(nowhere.status, 401, 'who has no token does not learn which workers there are')
})

test('who may only look opens what only looks', async t => {
  const { host } = await startHost(t)
  const { port } = await startGateway(t, host)
  const base = `ws://127.0.0.1:${port}${api}/v1/sandboxes/s`
  for (const [path, status] of [
    ['logs/ws', 101], ['execs/e/logs/ws', 101], ['terminals/t/attach?role=read', 101],
    ['terminals/t/attach', 403], ['terminals/t/attach?role=write', 403], ['terminals/t/attach?role=read&role=write', 403], ['ports/80/x', 403],
  ] as const) {
    const socket = new WebSocket(`${base}/${path}`, { headers: as('read') })
    if (status === 101) await once(socket, 'open').then(() => socket.terminate())
    else assert.equal((await refusal(socket)).status, status, path)
  }
  assert.equal((await refusal(new WebSocket(`${base}/logs/ws`))).status, 401)
  assert.equal((await refusal(new WebSocket(`${base}/logs/ws`, { headers: as('worker') }))).status, 403)
})

test('a host that does not upgrade answers as to any request, and one that is away is answered for', async t => {
  const host = await FakeHost.start(t, (_, response) => response.writeHead(404).end('no such thing'))
  const { port, workers } = await startGateway(t, host)
  assert.deepEqual(await refusal(new WebSocket(`ws://127.0.0.1:${port}${attach}`, { headers: as('client') })), { status: 404, body: 'no such thing' })
  workers.add('away', 'http://127.0.0.1:1')
  const { status, body } = await refusal(new WebSocket(`ws://127.0.0.1:${port}/v1/workers/away/api/v1/sandboxes/s/x`, { headers: as('client') }))
  assert.deepEqual([status, (JSON.parse(body) as { code: string }).code], [503, 'worker_unreachable'])
})

test('tunnels end with the gateway, and with either side', async t => {
  const { host } = await startHost(t)
  const { port, closing } = await startGateway(t, host)
  const open = async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}${attach}`, { headers: as('client') })
    socket.on('error', () => {})
    await once(socket, 'message')
    return socket
  }
  const cutByHost = await open()
  for (const socket of host.sockets) socket.destroy()
  await once(cutByHost, 'close')
  const cutByClient = await open()
  cutByClient.terminate()
  assert.ok(await pollUntil(async () => host.sockets.size === 0, 5000))
  const cutByGateway = await open()
  closing.abort()
  await once(cutByGateway, 'close')
  assert.ok(await pollUntil(async () => host.sockets.size === 0, 5000))
})

test('what was sent before an end arrives, whichever protocol it is', async t => {
  const host = await FakeHost.start(t, (_, response) => response.end())
  host.server.on('upgrade', (_, socket) => {
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nfirst')
    let received = ''
    socket.on('data', (chunk: Buffer) => { received += chunk.toString() })
    socket.once('end', () => socket.end(`got ${received}`))
  })
  const { port } = await startGateway(t, host)
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  socket.write(`GET ${api}/v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nearly`)
  await once(socket, 'data').then(([head]) => assert.match(String(head), /^HTTP\/1\.1 101 Switching Protocols\r\n/))
  socket.end(' late')
  assert.match(await text(socket), /got early late$/)
})
