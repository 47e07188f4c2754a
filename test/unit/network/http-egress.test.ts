import { test } from 'node:test'
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import type { TestContext } from 'node:test'
import type { Egress } from '../../../src/schemas/network.ts'
import { buildEgressWorld, ending, until, type EgressWorld } from '../../support/egress-world.ts'

const meant = { address: '203.0.113.250', port: 80 }

async function build (t: TestContext, egress: Egress = { allow: ['a.example', 'b.example'] }): Promise<EgressWorld> {
  const world = await buildEgressWorld(t, egress)
  world.meant = meant
  Object.assign(world.names, { 'a.example': ['203.0.113.10'], 'b.example': ['203.0.113.11'] })
  return world
}

/** Sends bytes as they are; what comes back until the end. */
async function say (world: EgressWorld, text: string): Promise<string> {
  const socket = world.connect('http')
  socket.write(text, 'latin1')
  return await ending(socket)
}

/** A request by Node's client through the proxy. */
function ask (world: EgressWorld, options: http.RequestOptions, agent?: http.Agent): http.ClientRequest {
  return http.request({ ...options, ...agent === undefined ? { createConnection: () => world.connect('http') } : { agent } })
}

async function answered (request: http.ClientRequest): Promise<{ status: number | undefined, text: string, response: http.IncomingMessage }> {
  const [response] = await once(request, 'response') as [http.IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return { status: response.statusCode, text: Buffer.concat(chunks).toString(), response }
}

const outcomes = (world: EgressWorld): string[] => world.decisions.map(({ action, reason, name, address }) => `${action} ${reason} ${name} ${address}`)

/** A server that speaks bytes: it answers each of its connections with this once it has read as much as matches. */
const rawServer = (pattern: RegExp, answer: string, seen: string[] = []): net.Server => net.createServer(socket => {
  let text = ''
  socket.on('error', () => {}).on('data', (chunk: Buffer) => {
    text += chunk.toString('latin1')
    if (!pattern.test(text)) return
    seen.push(text)
    text = ''
    socket.write(answer, 'latin1')
  })
})

test('each request of a connection is judged by its own host', async t => {
  const world = await build(t)
  let connections = 0
  const server = http.createServer((request, response) => response.end(`${request.headers.host}${request.url}`)).on('connection', () => connections++)
  await world.place('203.0.113.10', 80, server)
  await world.place('203.0.113.11', 80, http.createServer((_request, response) => response.end('other')))
  const get = (host: string): string => `GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`
  const all = await say(world, get('a.example') + get('A.Example:80') + get('b.example') + get('c.example') + get('a.example'))
  assert.match(all, /a\.example\/x.*A\.Example:80\/x.*other.*HTTP\/1\.1 403 /s)
  assert.match(all, /berth: c\.example is not allowed for this sandbox: nothing in its egress rules allows it\.\n$/)
  assert.deepEqual(outcomes(world), [
    'allowed rule a.example 203.0.113.10', 'allowed rule a.example 203.0.113.10', 'allowed rule b.example 203.0.113.11', 'denied no_rule c.example 203.0.113.250',
  ])
  assert.equal(connections, 1)
})

test('a request goes on as it came, and so does its answer', async t => {
  const world = await build(t)
  const seen: string[] = []
  await world.place('203.0.113.10', 80, rawServer(/\r\n\r\n/, 'HTTP/1.1 299 Fine Enough\r\nX-b: 1\r\nx-A: \xe9\r\nX-b: 2\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok', seen))
  const request = 'GET /%7e?q=1#f HTTP/1.1\r\nhOst: a.example\r\nX-z: 1\r\nx-Y: \xe9\r\nX-Z: 2\r\nX-Secret: 1\r\nProxy-Connection: close\r\nConnection: x-secret, host, close\r\nUpgrade: h2c\r\n\r\n'
  const answer = await say(world, request)
  assert.deepEqual(seen, ['GET /%7e?q=1#f HTTP/1.1\r\nhOst: a.example\r\nX-z: 1\r\nx-Y: \xe9\r\nX-Z: 2\r\nConnection: close\r\n\r\n'])
  assert.equal(answer, 'ended HTTP/1.1 299 Fine Enough\r\nX-b: 1\r\nx-A: \xe9\r\nX-b: 2\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok')
})

test('what could be understood in two ways is refused', async t => {
  const world = await build(t, { allow: ['*'] })
  await world.place('203.0.113.10', 80, rawServer(/./, 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'))
  const cases = [
    'GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n',
    'GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n',
    'GET http://a.example@b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n',
    'GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a.example/b\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n',
    'GET / HTTP/1.1\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc',
    'POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n',
    'GET / HTTP/1.1\r\nHost : a.example\r\n\r\n',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'nonsense\r\n\r\n',
  ]
  for (const text of cases) assert.match(await say(world, text), /^ended (HTTP\/1\.1 400 |$)/, text)
  assert.match(await say(world, 'CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n'), /^ended HTTP\/1\.1 405 /)
  assert.match(await say(world, `GET / HTTP/1.1\r\nHost: a.example\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`), /^(ended HTTP\/1\.1 431 |ECONNRESET)/)
  assert.deepEqual(world.dialled, [])
})

test('an absolute target that agrees with the host, and HTTP/1.0, are served', async t => {
  const world = await build(t, { allow: ['a.example', meant.address] })
  await world.place('203.0.113.10', 80, http.createServer((request, response) => { response.write(request.url); response.end() }))
  await world.place(meant.address, 80, http.createServer((_request, response) => response.end('by address')))
  assert.match(await say(world, 'GET http://A.example:80/p HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n'), /http:\/\/A\.example:80\/p/)
  assert.match(await say(world, 'GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n'), /^ended HTTP\/1\.1 200 OK\r\n(?!.*chunked).*\r\n\r\n\/old$/s)
  assert.match(await say(world, 'GET /old HTTP/1.0\r\n\r\n'), /by address$/)
  assert.match(await say(world, 'GET / HTTP/1.1\r\nHost: 203.0.113.250\r\nConnection: close\r\n\r\n'), /by address/)
  assert.deepEqual(outcomes(world).slice(2), Array(2).fill(`allowed rule undefined ${meant.address}`))
})

test('a host that leads inside or nowhere is answered in words', async t => {
  const world = await build(t, { allow: ['*'], deny: ['evil.example'] })
  Object.assign(world.names, { 'inside.example': ['10.1.2.3'], 'meta.example': ['169.254.169.254'], 'own.example': ['198.51.100.1'] })
  const get = async (host: string): Promise<string> => (await say(world, `GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`)).replace(/^ended HTTP\/1\.1 (\d+) .*berth: (.*)\n$/s, '$1 $2')
  assert.match(await get('evil.example'), /^403 evil\.example is not allowed for this sandbox: its egress rules deny evil\.example\.$/)
  assert.match(await get('inside.example'), /^403 .* a private address/)
  assert.match(await get('meta.example'), /^403 .* no sandbox may reach/)
  assert.match(await get('own.example'), /^403 .* an address of the host/)
  assert.equal(await get('nowhere.example'), '502 nowhere.example could not be resolved.')
  assert.equal(await get('a.example'), '502 a.example could not be reached.')
  assert.deepEqual(outcomes(world).slice(1), [
    'denied private_address inside.example 10.1.2.3', 'denied forbidden_address meta.example 169.254.169.254', 'denied host_port own.example 198.51.100.1',
    'denied unresolvable nowhere.example 203.0.113.250', 'allowed rule a.example 203.0.113.10',
  ])
})

test('large bodies stream both ways at once', async t => {
  const world = await build(t)
  const body = randomBytes(8 * 1024 * 1024)
  await world.place('203.0.113.10', 80, http.createServer((request, response) => { request.pipe(response) }))
  for (const headers of [{ Host: 'a.example', 'Content-Length': body.length }, { Host: 'a.example', 'Transfer-Encoding': 'chunked' }]) {
    const request = ask(world, { method: 'POST', headers })
    const hash = createHash('sha256')
    request.end(body)
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    for await (const chunk of response) hash.update(chunk as Buffer)
    assert.equal(hash.digest('hex'), createHash('sha256').update(body).digest('hex'))
  }
})

test('an answer arrives as it is made, its head before its body', async t => {
  const world = await build(t)
  const made = Promise.withResolvers<http.ServerResponse>()
  await world.place('203.0.113.10', 80, http.createServer((_request, response) => { response.flushHeaders(); made.resolve(response) }))
  const request = ask(world, { headers: { Host: 'a.example' } })
  request.end()
  const [response] = await once(request, 'response') as [http.IncomingMessage]
  const server = await made.promise
  for (const word of ['one', 'two']) {
    server.write(word)
    const [chunk] = await once(response, 'data') as [Buffer]
    assert.equal(chunk.toString(), word)
  }
  // The client leaves: the server must hear of it.
  const left = once(server, 'close')
  request.destroy()
  await left
})

test('continue, early hints, trailers, HEAD and empty bodies pass', async t => {
  const world = await build(t)
  const seen: string[] = []
  const server = http.createServer((request, response) => {
    seen.push(`${request.method} ${request.headers['content-length']} ${request.headers['transfer-encoding']}`)
    response.writeEarlyHints({ link: '</x.css>; rel=preload' })
    response.writeHead(request.url === '/none' ? 204 : 200, request.method === 'HEAD' ? { 'Content-Length': 7 } : request.url === '/none' ? {} : { Trailer: 'X-Sum' })
    request.resume().on('end', () => {
      if (request.trailers['x-up'] !== undefined) response.addTrailers({ 'X-Sum': String(request.trailers['x-up']) })
      response.end(request.method === 'HEAD' || request.url === '/none' ? undefined : 'body')
    })
  })
  await world.place('203.0.113.10', 80, server)
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  Object.assign(agent, { createConnection: () => world.connect('http') })
  t.after(() => agent.destroy())

  const request = ask(world, { method: 'PUT', headers: { Host: 'a.example', Expect: '100-continue', 'Transfer-Encoding': 'chunked', Trailer: 'X-Up' } }, agent)
  const informed: http.InformationEvent[] = []
  request.on('information', information => informed.push(information))
  await once(request, 'continue')
  request.addTrailers({ 'X-Up': 'sum' })
  request.end('data')
  const put = await answered(request)
  assert.deepEqual([put.status, put.text, put.response.trailers], [200, 'body', { 'x-sum': 'sum' }])
  assert.deepEqual(informed.map(({ statusCode, headers }) => [statusCode, headers.link]), [[100, undefined], [103, '</x.css>; rel=preload']])

  const head = ask(world, { method: 'HEAD', headers: { Host: 'a.example' } }, agent)
  head.end()
  assert.equal((await answered(head)).response.headers['content-length'], '7')
  const none = ask(world, { method: 'DELETE', path: '/none', headers: { Host: 'a.example' } }, agent)
  none.end()
  assert.equal((await answered(none)).status, 204)
  const post = ask(world, { method: 'POST', headers: ['Host', 'a.example', 'Content-Length', '0'] }, agent)
  post.end()
  assert.equal((await answered(post)).text, 'body')
  assert.deepEqual(seen, ['PUT undefined chunked', 'HEAD undefined undefined', 'DELETE undefined undefined', 'POST 0 undefined'])
  assert.equal(world.dialled.length, 1)
})

test('a refused upload reads why it is refused', async t => {
  const world = await build(t)
  const request = ask(world, { method: 'POST', headers: { Host: 'c.example', 'Content-Length': 3_000_000 } })
  request.on('error', () => {})
  request.end(Buffer.alloc(3_000_000))
  assert.equal((await answered(request)).status, 403)
})

test('a WebSocket is carried, and one that is not allowed refused', async t => {
  const world = await build(t)
  const server = http.createServer((_request, response) => { response.writeHead(426); response.end('no') })
  server.on('upgrade', (request, socket, head) => {
    if (request.url === '/refuse') return socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nnever')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Extensions: ${request.headers['sec-websocket-extensions']}\r\n\r\nhello `)
    socket.write(head)
    socket.on('error', () => {}).pipe(socket)
  })
  await world.place('203.0.113.10', 80, server)
  const upgrade = (host: string, path = '/'): string =>
    `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: x\r\n\r\n`
  const socket = world.connect('http')
  socket.write(upgrade('a.example') + 'early ')
  let text = ''
  socket.on('data', (chunk: Buffer) => { text += chunk.toString() })
  await until(() => text.includes('early'))
  socket.write('late')
  await until(() => text.endsWith('late'))
  assert.match(text, /^HTTP\/1\.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Extensions: x\r\n\r\nhello early late$/)
  assert.match(await say(world, upgrade('a.example', '/refuse')), /^ended HTTP\/1\.1 403 .*never$/s)
  assert.match(await say(world, upgrade('c.example')), /^ended HTTP\/1\.1 403 .*c\.example is not allowed/s)
  assert.deepEqual(outcomes(world).map(line => line.split(' ')[0]), ['allowed', 'allowed', 'denied'])
  // It is under its name for as long as it lasts.
  const cut = ending(socket)
  world.setEgress({ allow: ['b.example'] })
  assert.equal(await cut, 'ECONNRESET')
})

test('a changed policy cuts a download, and drops what is kept for later', async t => {
  const world = await build(t)
  await world.place('203.0.113.10', 80, http.createServer((_request, response) => { response.write('endless') }))
  let gone = 0
  const server = http.createServer((_request, response) => response.end('b')).on('connection', (socket: net.Socket) => socket.once('close', () => gone++))
  await world.place('203.0.113.11', 80, server)
  const idle = world.connect('http')
  idle.write('GET / HTTP/1.1\r\nHost: b.example\r\n\r\n')
  await once(idle, 'data')
  const socket = world.connect('http')
  socket.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
  await once(socket, 'data')
  const cut = ending(socket)
  world.setEgress({ allow: ['b.example'] })
  assert.equal(await cut, 'ECONNRESET')
  await until(() => gone === 1)
  idle.write('GET / HTTP/1.1\r\nHost: b.example\r\n\r\n')
  await once(idle, 'data')
  assert.equal(world.dialled.length, 3)
})

test('an answer that breaks off is broken off inside', async t => {
  const world = await build(t)
  await world.place('203.0.113.10', 80, net.createServer(socket => socket.once('data', () => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', () => setTimeout(() => socket.resetAndDestroy(), 20))
  })))
  assert.equal(await say(world, 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'), 'ECONNRESET')
})

test('HTTP/2 in the clear is not changed to', async t => {
  const world = await build(t)
  const seen: string[] = []
  await world.place('203.0.113.10', 80, rawServer(/\r\n\r\n/, 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok', seen))
  const socket = world.connect('http')
  socket.write('GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n')
  assert.match(String(await once(socket, 'data')), /ok$/)
  assert.deepEqual(seen, ['GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n'])
  socket.write('GET / HTTP/1.1\r\nHost: c.example\r\n\r\n')
  assert.match(await ending(socket), /^ended HTTP\/1\.1 403 /)
})

test('a kept connection that breaks when it is used again breaks inside, too', async t => {
  const world = await build(t)
  await world.place('203.0.113.10', 80, net.createServer(socket => {
    let requests = 0
    socket.on('error', () => {}).on('data', () => { if (++requests === 1) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'); else socket.resetAndDestroy() })
  }))
  const socket = world.connect('http')
  socket.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
  await once(socket, 'data')
  // An answer is through before its connection is free again.
  await new Promise(resolve => setTimeout(resolve, 10))
  const broken = ending(socket)
  socket.write('POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n')
  assert.equal(await broken, 'ECONNRESET')
  assert.equal(world.dialled.length, 1)
})

test('answers that no one can make sense of are 502', async t => {
  const world = await build(t)
  const answers = [
    'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n',
    'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n',
    `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(70_000)}\r\n\r\n`,
    'nonsense\r\n\r\n',
  ]
  for (const [index, answer] of answers.entries()) {
    world.names['a.example'] = [`203.0.113.${20 + index}`]
    await world.place(`203.0.113.${20 + index}`, 80, rawServer(/\r\n\r\n/, answer))
    assert.match(await say(world, 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'), /^ended HTTP\/1\.1 502 .*a\.example could not be reached/s, answer.slice(0, 80))
  }
  assert.equal(world.decisions.length, answers.length)
})

test('a kept connection that the server ends between requests is made again', async t => {
  const world = await build(t)
  await world.place('203.0.113.10', 80, http.createServer((_request, response) => response.end('fine')).on('connection', (socket: net.Socket) => {
    socket.once('data', () => setTimeout(() => socket.end(), 5))
  }))
  const socket = world.connect('http')
  for (let round = 1; round <= 2; round++) {
    socket.write('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
    const [chunk] = await once(socket, 'data') as [Buffer]
    assert.match(chunk.toString(), /fine$/)
    await new Promise(resolve => setTimeout(resolve, 30))
  }
  assert.equal(world.dialled.length, 2)
})

test('a client that ends its side still gets its answer, and one that floods is cut', async t => {
  const world = await build(t)
  const server = http.createServer((_request, response) => { setTimeout(() => response.end('fine'), 20) })
  await world.place('203.0.113.10', 80, Object.assign(server, { httpAllowHalfOpen: true }))
  const socket = world.connect('http')
  socket.end('GET / HTTP/1.1\r\nHost: a.example\r\n\r\n')
  assert.match(await ending(socket), /fine$/)
  assert.equal(await say(world, 'GET / HTTP/1.1\r\nHost: a.example\r\n\r\n'.repeat(100)), 'ECONNRESET')
})
