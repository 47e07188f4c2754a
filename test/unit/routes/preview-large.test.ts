/** Answers so large that they are not parsed but poured. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { buildPreviewRig, until } from '../../support/preview-rig.ts'

const megabyte = 1024 ** 2
const block = randomBytes(megabyte)

/** Different from block to block. */
function * blocks (count: number): Generator<Buffer> {
  for (let n = 0; n < count; n++) {
    const made = Buffer.from(block)
    made.writeUInt32BE(n)
    yield made
  }
}

function hashOf (count: number): string {
  const hash = createHash('sha256')
  for (const made of blocks(count)) hash.update(made)
  return hash.digest('hex')
}

async function hashBody (answer: http.IncomingMessage): Promise<{ bytes: number, hash: string }> {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const chunk of answer) {
    hash.update(chunk as Buffer)
    bytes += (chunk as Buffer).length
  }
  return { bytes, hash: hash.digest('hex') }
}

/** A head that says how much comes, then whatever the test sends. */
function head (bytes: number, more = ''): string {
  return `HTTP/1.1 200 OK\r\nContent-Length: ${bytes}\r\n${more}\r\n`
}

test('large bodies of known length arrive whole, one after the other on a kept connection, together with small ones', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((request, response) => {
    const count = Number(request.url?.slice(1))
    response.setHeader('content-length', count * megabyte)
    pipeline(Readable.from(blocks(count), { objectMode: false }), response).catch(() => {})
  })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const clients = new Set<Socket>()
  for (const count of [30, 0, 1, 2, 0, 5]) {
    const { request, answer } = await rig.open(rig.pathTo(port, `/${count}`), { headers: rig.asAdmin, agent })
    clients.add(request.socket!)
    assert.equal(answer.headers['content-length'], String(count * megabyte))
    assert.deepEqual(await hashBody(answer), { bytes: count * megabyte, hash: hashOf(count) })
  }
  assert.equal(clients.size, 1, 'the client keeps its connection')
  const all = await Promise.all([3, 4, 5, 6].map(async count => await hashBody((await rig.open(rig.pathTo(port, `/${count}`), { headers: rig.asAdmin })).answer)))
  assert.deepEqual(all.map(({ hash }) => hash), [3, 4, 5, 6].map(hashOf))
  assert.equal(rig.forwarder.open.count(), 0)
})

test('a client that does not read holds up the program, and gets all of it when it reads', async t => {
  const rig = await buildPreviewRig(t)
  let written = 0
  const { port } = await rig.serve((_request, response) => {
    response.setHeader('content-length', 200 * megabyte)
    const counted = function * () {
      for (const made of blocks(200)) {
        written++
        yield made
      }
    }
    pipeline(Readable.from(counted(), { objectMode: false }), response).catch(() => {})
  })
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  let before = -1
  while (before !== written) {
    before = written
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  assert.ok(written < 60, `${written} MB were taken with nobody reading`)
  assert.deepEqual(await hashBody(answer), { bytes: 200 * megabyte, hash: hashOf(200) })
})

test('the first bytes of a large body do not wait for those that come later', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serveRaw(socket => socket.once('data', () => socket.write(`${head(2 * megabyte)}first`)))
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  const chunks = answer[Symbol.asyncIterator]()
  assert.equal(String((await chunks.next()).value), 'first')
  for (const word of ['second', 'third']) {
    for (const socket of sockets) socket.write(word)
    assert.equal(String((await chunks.next()).value), word)
  }
  await chunks.return?.()
  await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
})

test('what a program sends beyond the length that it said reaches nobody', async t => {
  const rig = await buildPreviewRig(t)
  const body = Buffer.alloc(2 * megabyte, 'a')
  const { port, sockets } = await rig.serveRaw(socket => socket.once('data', () => {
    socket.write(head(body.length))
    socket.write(Buffer.concat([body, Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nGARBAGE'.repeat(1000))]))
  }))
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  for (let n = 0; n < 3; n++) {
    const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin, agent })
    const got = Buffer.concat(await answer.toArray() as Buffer[])
    assert.ok(got.equals(body))
    await until(() => sockets.size === 0)
  }
})

test('a large body that the program breaks off, or that its sandbox takes along, breaks off for the client', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serveRaw(socket => socket.once('data', () => socket.write(Buffer.concat([Buffer.from(head(8 * megabyte)), block, block]))))
  const breaks: Array<() => void> = [
    () => { for (const socket of sockets) socket.end() },
    () => { for (const socket of sockets) socket.resetAndDestroy() },
    () => rig.forwarder.open.endAllOf(rig.sandbox.id),
  ]
  for (const breakOff of breaks) {
    const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
    let bytes = 0
    answer.on('data', (chunk: Buffer) => { bytes += chunk.length })
    await until(() => bytes === 2 * megabyte)
    breakOff()
    await assert.rejects(once(answer, 'end'), { code: 'ECONNRESET' })
    await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
  }
})

test('a client that goes away in the middle of a large body ends the program\'s work, whether it was reading or not', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serve((_request, response) => {
    response.setHeader('content-length', 100 * megabyte)
    pipeline(Readable.from(blocks(100), { objectMode: false }), response).catch(() => {})
  })
  for (const isReading of [true, false]) {
    const { request, answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
    if (isReading) await once(answer, 'data')
    else await new Promise(resolve => setTimeout(resolve, 50))
    request.destroy()
    await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
  }
})

test('a large length without a body is a length', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serveRaw(socket => socket.on('data', data => {
    socket.write(String(data).startsWith('HEAD') ? head(5 * megabyte) : `HTTP/1.1 304 Not Modified\r\nContent-Length: ${5 * megabyte}\r\nETag: "x"\r\n\r\n`)
  }))
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  for (const [method, status] of [['HEAD', 200], ['GET', 304], ['HEAD', 200]] as const) {
    const reply = await rig.ask(rig.pathTo(port), { method, headers: rig.asAdmin, agent })
    assert.deepEqual([reply.status, reply.text, reply.headers['content-length']], [status, '', String(5 * megabyte)])
  }
})

test('a large answer may come before the body of the request was read', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((_request, response) => response.writeHead(413, { 'content-length': 2 * megabyte }).end(Buffer.concat([block, block])))
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), method: 'POST', headers: rig.asAdmin })
  request.on('error', () => {})
  Readable.from(blocks(20), { objectMode: false }).pipe(request)
  const [answer] = await once(request, 'response') as [http.IncomingMessage]
  assert.equal(answer.statusCode, 413)
  assert.equal((await hashBody(answer)).bytes, 2 * megabyte)
  request.destroy()
})

test('what a program sends on a connection that waits for its next request answers nothing', async t => {
  const rig = await buildPreviewRig(t)
  let connections = 0
  const { port, sockets } = await rig.serveRaw(socket => {
    connections++
    socket.on('data', () => socket.write(head(2).concat('ok')))
  })
  for (let n = 1; n <= 3; n++) {
    const reply = await rig.ask(rig.pathTo(port), { headers: rig.asAdmin })
    assert.equal(reply.text, 'ok')
    for (const socket of sockets) socket.write(head(7).concat('GARBAGE'))
    await until(() => sockets.size === 0)
    assert.equal(connections, n)
  }
})

test('chunks of several programs at once do not mix, though they are read into the same memory', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((request, response) => {
    const block = Buffer.alloc(50_000, request.url)
    pipeline(Readable.from((function * () { for (let n = 0; n < 200; n++) yield block })(), { objectMode: false }), response).catch(() => {})
  })
  await Promise.all(['/one', '/two', '/three', '/four'].map(async path => {
    const { answer } = await rig.open(rig.pathTo(port, path), { headers: rig.asAdmin })
    assert.equal(answer.headers['content-length'], undefined)
    const got = Buffer.concat(await answer.toArray() as Buffer[])
    const block = Buffer.alloc(50_000, path)
    assert.ok(got.equals(Buffer.concat(Array.from({ length: 200 }, () => block))), path)
  }))
})

test('upgraded connections carry much both ways at once, unchanged, also behind the 101, and do not mix', async t => {
  const rig = await buildPreviewRig(t)
  const early = randomBytes(20_000)
  const server = http.createServer().on('upgrade', (_request, socket: Socket) => {
    socket.on('error', () => {})
    socket.write(Buffer.concat([Buffer.from('HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n'), early]))
    socket.pipe(socket)
  })
  const { port, sockets } = await rig.listen(server)
  await Promise.all([1, 2, 3].map(async () => {
    const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), headers: { ...rig.asAdmin, connection: 'Upgrade', upgrade: 'raw' } }).end()
    const [, socket, head] = await once(request, 'upgrade') as [http.IncomingMessage, Socket, Buffer]
    const sent = createHash('sha256').update(early)
    const source = Readable.from((function * () { for (let n = 0; n < 20; n++) yield randomBytes(megabyte) })(), { objectMode: false }).on('data', chunk => sent.update(chunk as Buffer))
    const got = createHash('sha256').update(head)
    let bytes = head.length
    const sending = pipeline(source, socket, { end: false })
    for await (const chunk of socket) {
      got.update(chunk as Buffer)
      bytes += (chunk as Buffer).length
      if (bytes === early.length + 20 * megabyte) break
    }
    await sending
    assert.equal(got.digest('hex'), sent.digest('hex'))
  }))
  await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
})
