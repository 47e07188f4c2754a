import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import { test } from 'node:test'
import { WebSocket } from 'undici'
import { buildPreviewRig, until, type PreviewRig } from '../../support/preview-rig.ts'

// RFC 6455, section 1.3.
const webSocketGuid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** A program that speaks WebSocket as far as to send each short frame back, unmasked. */
async function serveEcho (rig: PreviewRig, isRude = false) {
  const seen: http.IncomingMessage[] = []
  const server = http.createServer((_request, response) => response.end('plain'))
  server.on('upgrade', (request, socket: Duplex) => {
    seen.push(request)
    const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + webSocketGuid).digest('base64')
    const protocol = request.headers['sec-websocket-protocol']?.split(',')[0]
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\nSet-Cookie: a=b\r\n${protocol ? `Sec-WebSocket-Protocol: ${protocol}\r\n` : ''}\r\n`)
    let pending = Buffer.alloc(0)
    socket.on('data', (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk])
      for (;;) {
        const length = (pending[1] ?? 0) & 0x7f
        if (pending.length < 6 + length) return
        const payload = pending.subarray(6, 6 + length).map((byte, at) => byte ^ pending[2 + (at & 3)]!)
        socket.write(Buffer.concat([Buffer.from([pending[0]!, length]), payload]))
        if ((pending[0]! & 0x0f) === 8) socket.end()
        pending = pending.subarray(6 + length)
      }
    })
    socket.on('error', () => {})
    if (!isRude) socket.on('end', () => socket.end())
  })
  return { ...await rig.listen(server), seen }
}

function connect (url: string, headers: Record<string, string>, protocols: string[] = []) {
  const socket = new WebSocket(url, { protocols, headers })
  socket.binaryType = 'arraybuffer'
  return socket
}

test('a WebSocket with a subprotocol carries text and bytes both ways, and closes for both', async t => {
  const rig = await buildPreviewRig(t)
  const { port, seen, sockets } = await serveEcho(rig)
  const socket = connect(`ws://127.0.0.1:${rig.port}${rig.pathTo(port, '/live?x=1')}`, rig.asSandbox, ['chat.v2', 'chat.v1'])
  await once(socket, 'open')
  assert.equal(socket.protocol, 'chat.v2')
  assert.equal(seen[0]!.url, '/live?x=1')
  assert.equal(seen[0]!.headers.authorization, undefined)
  socket.send('grüße')
  const [text] = await once(socket, 'message') as [MessageEvent]
  assert.equal(text.data, 'grüße')
  const bytes = Uint8Array.from({ length: 100 }, (_, n) => 255 - n)
  socket.send(bytes)
  const [binary] = await once(socket, 'message') as [MessageEvent]
  assert.deepEqual(new Uint8Array(binary.data as ArrayBuffer), bytes)
  assert.equal(rig.forwarder.open.count(rig.sandbox.id), 1)
  socket.close(1000)
  const [closed] = await once(socket, 'close') as [CloseEvent]
  assert.equal(closed.code, 1000)
  await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
})

test('previews and the API\'s own sockets share a door, and a preview\'s host name is all its own', async t => {
  const rig = await buildPreviewRig(t)
  const { port, seen } = await serveEcho(rig)
  const path = `/v1/sandboxes/${rig.sandbox.id}/logs/ws`
  const preview = connect(`ws://127.0.0.1:${rig.port}${rig.pathTo(port, '/live')}`, rig.asSandbox)
  await once(preview, 'open')
  const api = connect(`ws://127.0.0.1:${rig.port}${path}`, rig.asSandbox, ['berth.v1'])
  const messages: string[] = []
  api.addEventListener('message', ({ data }) => messages.push(JSON.parse(String(data)).type))
  const [{ code }] = await once(api, 'close') as [CloseEvent]
  assert.deepEqual([code, ...messages], [1000, 'output', 'gap', 'end'])
  const named = await openRaw(rig, path, { ...rig.asSandbox, host: rig.hostOf(port) })
  assert.deepEqual(seen.map(({ url }) => url), ['/live', path])
  named.destroy()
  preview.close()
  await once(preview, 'close')
})

test('a WebSocket comes in by ticket, once, and by host name', async t => {
  const rig = await buildPreviewRig(t)
  const { port, seen } = await serveEcho(rig)
  const { ticket } = rig.tickets.create({ scope: 'preview', sandboxId: rig.sandbox.id, port, tokenId: 'root' })
  const headers = { host: rig.hostOf(port) }
  const socket = await openRaw(rig, `/hmr?berth_ticket=${ticket}`, headers)
  assert.equal(seen[0]!.url, '/hmr')
  socket.destroy()
  const refused = await upgrade(rig, `/hmr?berth_ticket=${ticket}`, headers)
  assert.match(refused, /^HTTP\/1\.1 401 /)
  assert.match(refused, /"ticket_invalid"/)
})

/** The client's end of an upgraded connection. */
async function openRaw (rig: PreviewRig, path: string, headers: Record<string, string>): Promise<Duplex> {
  const request = http.request({ host: '127.0.0.1', port: rig.port, path, headers: { ...headers, connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'x' } }).end()
  const [, socket] = await once(request, 'upgrade') as [http.IncomingMessage, Duplex]
  socket.on('error', () => {})
  return socket.resume()
}

/** The whole of what comes back for a request to be upgraded; undefined headers are of nobody. */
async function upgrade (rig: PreviewRig, path: string, headers: Record<string, string>, other: Record<string, string> = {}): Promise<string> {
  const socket = net.connect(rig.port, '127.0.0.1')
  const lines = Object.entries({ host: '127.0.0.1', connection: 'Upgrade', upgrade: 'websocket', ...headers, ...other }).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.write(`GET ${path} HTTP/1.1\r\n${lines.join('')}\r\n`)
  return Buffer.concat(await socket.toArray() as Buffer[]).toString()
}

test('an upgrade is refused like a request, on a connection that then ends', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await serveEcho(rig)
  const path = rig.pathTo(port)
  const rows: Array<[what: string, path: string, headers: Record<string, string>, status: number, code: string]> = [
    ['no token', path, {}, 401, 'token_missing'],
    ['a wrong token', path, { authorization: 'Bearer berth_nobody' }, 401, 'token_invalid'],
    ['a read token', path, rig.asReader, 403, 'scope_insufficient'],
    ['the token of another sandbox', path, rig.asOther, 403, 'scope_insufficient'],
    ['a wrong port', rig.pathTo(70_000), rig.asAdmin, 400, 'invalid_port'],
    ['a body', path, { ...rig.asAdmin, 'content-length': '5' }, 400, 'upgrade_with_body'],
    ['an unknown sandbox', `/v1/sandboxes/sbx_${'0'.repeat(20)}/ports/${port}/`, rig.asAdmin, 404, 'sandbox_not_found'],
  ]
  for (const [what, asked, headers, status, code] of rows) {
    const text = await upgrade(rig, asked, headers)
    assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} `), what)
    assert.ok(text.includes(`"code":"${code}"`), `${what}: ${text}`)
  }
})

test('where nothing can be upgraded a request is answered as if it had not asked', async t => {
  const rig = await buildPreviewRig(t)
  const { port, seen } = await serveEcho(rig)
  assert.match(await upgrade(rig, '/healthz', { connection: 'close, upgrade', upgrade: 'h2c' }), /^HTTP\/1\.1 200 /)
  assert.match(await upgrade(rig, '/v1/sandboxes', { connection: 'close, upgrade' }), /^HTTP\/1\.1 401 /)
  assert.match(await upgrade(rig, rig.pathTo(port), { ...rig.asAdmin, connection: 'close, upgrade', upgrade: 'h2c' }), /plain$/)
  assert.equal(seen.length, 0)
})

test('a program that does not upgrade answers as to any request, whatever its size', async t => {
  const rig = await buildPreviewRig(t)
  const body = 'x'.repeat(5_000_000)
  const { port } = await rig.serve((_request, response) => response.setHeader('set-cookie', 'a=b').end(body))
  const text = await upgrade(rig, rig.pathTo(port), rig.asAdmin)
  assert.match(text, /^HTTP\/1\.1 200 OK\r\n/)
  assert.doesNotMatch(text.slice(0, 1000), /set-cookie/i)
  assert.match(text.slice(0, 1000), /Content-Security-Policy: sandbox/)
  assert.equal((text.match(/x{1000}/g) ?? []).length, 5000)
})

test('what a 101 says for a whole origin is taken out of it', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await serveEcho(rig, true)
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), headers: { ...rig.asAdmin, connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-key': 'x' } }).end()
  const [answer, socket] = await once(request, 'upgrade') as [http.IncomingMessage, Duplex]
  assert.equal(answer.headers['set-cookie'], undefined)
  assert.ok(answer.headers['sec-websocket-accept'])
  socket.destroy()
  // The program does not care that its client has gone; the proxy does.
  await until(() => rig.forwarder.open.count() === 0)
})

test('upgraded connections end when either side breaks, when the sandbox ends, and when the daemon does', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await serveEcho(rig)
  const ends: Array<(socket: Duplex) => void> = [
    socket => socket.destroy(),
    () => { for (const socket of sockets) socket.resetAndDestroy() },
    () => rig.forwarder.open.endAllOf(rig.sandbox.id),
    () => rig.closing.abort(),
  ]
  for (const end of ends) {
    const socket = await openRaw(rig, rig.pathTo(port), rig.asAdmin)
    const closed = once(socket, 'close')
    end(socket)
    await closed
    await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
  }
})

test('bytes that follow a request at once reach the program once it has agreed, and what it says last reaches a slow client', async t => {
  const rig = await buildPreviewRig(t)
  const farewell = Buffer.alloc(3_000_000, 'z')
  const { port } = await rig.serveRaw(socket => {
    let text = ''
    socket.on('data', chunk => {
      if (text === '') {
        assert.doesNotMatch(String(chunk), /early/)
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nfirst')
      }
      text += chunk
      if (text.endsWith('early')) socket.end(farewell)
    })
  })
  const text = await upgradeWith(rig, rig.pathTo(port), 'early')
  assert.ok(text.includes('\r\n\r\nfirst'))
  assert.equal(text.length - text.indexOf('first') - 5, farewell.length)
})

async function upgradeWith (rig: PreviewRig, path: string, early: string): Promise<string> {
  const socket = net.connect(rig.port, '127.0.0.1')
  socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\nAuthorization: ${rig.asAdmin.authorization}\r\n\r\n${early}`)
  await new Promise(resolve => setTimeout(resolve, 100))
  return Buffer.concat(await socket.toArray() as Buffer[]).toString('latin1')
}
