import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { buildPreviewRig, mirror, until } from '../../support/preview-rig.ts'

const megabyte = 1024 ** 2

test('a program gets method, path, query and body as they were sent, and no secret of Berth', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  const reply = await rig.ask(rig.pathTo(port, '/a%2Fb/../c?x=%zz&berth_ticket=secret&y='), {
    method: 'PATCH',
    headers: {
      ...rig.asAdmin, 'content-type': 'application/json', 'x-forwarded-for': '6.6.6.6', forwarded: 'for=6.6.6.6', 'x-real-ip': '6.6.6.6', cookie: 'berth_preview=abc; a=1', 'X-Own': 'kept', connection: 'x-hop', 'x-hop': '1', 'idempotency-key': 'k k',
    },
    body: '{"a":1,"a":2',
  })
  assert.equal(reply.status, 200)
  const seen = JSON.parse(reply.text)
  assert.equal(seen.method, 'PATCH')
  assert.equal(seen.url, '/a%2Fb/../c?x=%zz&y=')
  assert.equal(seen.body, '{"a":1,"a":2')
  assert.equal(seen.headers['x-forwarded-for'], '127.0.0.1')
  assert.equal(seen.headers['x-forwarded-prefix'], rig.pathTo(port, ''))
  assert.equal(seen.headers['x-forwarded-host'], `127.0.0.1:${rig.port}`)
  assert.equal(seen.headers['x-forwarded-proto'], 'http')
  assert.equal(seen.headers['idempotency-key'], 'k k')
  assert.ok(seen.rawHeaders.includes('X-Own'), 'the case of a header is kept')
  for (const name of ['authorization', 'cookie', 'forwarded', 'x-real-ip', 'x-hop']) assert.equal(seen.headers[name], undefined, name)
  assert.doesNotMatch(reply.text, /secret|6\.6\.6\.6|berth_/)
})

test('any method reaches the program, without a body as with one', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve(mirror)
  for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PROPFIND', 'QUERY', 'PURGE']) {
    const reply = await rig.ask(rig.pathTo(port), { method, headers: rig.asAdmin })
    assert.equal(JSON.parse(reply.text).method, method)
    const written = await rig.ask(rig.pathTo(port), { method, headers: { ...rig.asAdmin, 'transfer-encoding': 'chunked' }, body: 'body' })
    assert.equal(JSON.parse(written.text).body, 'body', method)
  }
})

test('a preview without its slash leads to the one with it, before it asks who is there', async t => {
  const rig = await buildPreviewRig(t)
  const { status, headers } = await rig.ask(`${rig.pathTo(3000, '')}?a=b`, { method: 'POST' })
  assert.equal(status, 307)
  assert.equal(headers.location, `${rig.pathTo(3000, '/')}?a=b`)
})

test('chunks arrive one by one, as they are written', async t => {
  const rig = await buildPreviewRig(t)
  const steps = [Promise.withResolvers<void>(), Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const { port } = await rig.serve(async (_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    for (const [n, step] of steps.entries()) {
      await step.promise
      response.write(`data: ${n}\n\n`)
    }
    response.end()
  })
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  const chunks = answer[Symbol.asyncIterator]()
  for (const [n, step] of steps.entries()) {
    step.resolve()
    const { value } = await chunks.next() as { value: Buffer }
    assert.equal(value.toString(), `data: ${n}\n\n`)
  }
  assert.equal((await chunks.next()).done, true)
})

test('200 MB go up and come back unchanged, and a side that does not read holds up the other', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((request, response) => void pipeline(request, response).catch(() => {}))
  const block = Buffer.alloc(megabyte, 'berth')
  const sent = createHash('sha256')
  let written = 0
  const source = Readable.from((function * () {
    for (; written < 200; written++) {
      block.writeUInt32BE(written)
      const chunk = Buffer.from(block)
      sent.update(chunk)
      yield chunk
    }
  })(), { objectMode: false })
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), method: 'POST', headers: rig.asAdmin })
  const uploaded = pipeline(source, request)
  const [answer] = await once(request, 'response') as [http.IncomingMessage]
  // Nobody reads the answer: what is under way fills the buffers on the way, and then no more is taken.
  let before = -1
  while (before !== written) {
    before = written
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  assert.ok(written < 100, `${written} MB were taken with nobody reading`)
  const got = createHash('sha256')
  let bytes = 0
  for await (const chunk of answer) {
    got.update(chunk as Buffer)
    bytes += (chunk as Buffer).length
  }
  await uploaded
  assert.equal(bytes, 200 * megabyte)
  assert.equal(got.digest('hex'), sent.digest('hex'))
})

test('trailers, repeated headers and the status line come through, both ways', async t => {
  const rig = await buildPreviewRig(t)
  const seen: http.IncomingMessage[] = []
  const { port } = await rig.serve((request, response) => {
    seen.push(request)
    request.resume().on('end', () => {
      response.writeHead(418, 'Short And Stout', ['X-Two', '1', 'X-Two', '2', 'Trailer', 'X-Sum', 'Content-Encoding', 'gzip'])
      response.write('not really gzip')
      response.addTrailers({ 'X-Sum': 'abc' })
      response.end()
    })
  })
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), method: 'POST', headers: { ...rig.asAdmin, trailer: 'X-Up' } })
  request.write('x')
  request.addTrailers({ 'X-Up': 'sum' })
  request.end()
  const [answer] = await once(request, 'response') as [http.IncomingMessage]
  let text = ''
  for await (const chunk of answer) text += chunk
  assert.equal(answer.statusMessage, 'Short And Stout')
  assert.equal(answer.statusCode, 418)
  assert.equal(answer.headers['x-two'], '1, 2')
  assert.equal(answer.headers['content-encoding'], 'gzip')
  assert.equal(text, 'not really gzip')
  assert.deepEqual({ ...answer.trailers }, { 'x-sum': 'abc' })
  assert.deepEqual({ ...seen[0]!.trailers }, { 'x-up': 'sum' })
})

test('Expect: 100-continue is for the program to answer, and early hints come through', async t => {
  const rig = await buildPreviewRig(t)
  const server = http.createServer((_request, response) => {
    response.writeEarlyHints({ link: '</a.css>; rel=preload' })
    response.end('hinted')
  })
  server.on('checkContinue', (request, response) => {
    if (request.headers['x-want'] === 'no') return response.writeHead(413, { connection: 'close' }).end('too much')
    response.writeContinue()
    mirror(request, response)
  })
  const { port } = await rig.listen(server)
  const start = (want: string) => http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), method: 'PUT', headers: { ...rig.asAdmin, expect: '100-continue', 'x-want': want, 'content-length': '4' } })

  const welcome = start('yes')
  welcome.flushHeaders()
  await once(welcome, 'continue')
  welcome.end('body')
  const [taken] = await once(welcome, 'response') as [http.IncomingMessage]
  assert.equal(JSON.parse(Buffer.concat(await taken.toArray() as Buffer[]).toString()).body, 'body')

  const unwelcome = start('no')
  let wasTold = false
  unwelcome.on('continue', () => { wasTold = true })
  unwelcome.on('error', () => {})
  unwelcome.flushHeaders()
  const [refused] = await once(unwelcome, 'response') as [http.IncomingMessage]
  assert.equal(refused.statusCode, 413)
  assert.equal(refused.headers.connection, 'close')
  assert.equal(wasTold, false)
  unwelcome.destroy()

  const hinted = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), headers: rig.asAdmin }).end()
  const [[information], [answer]] = await Promise.all([once(hinted, 'information'), once(hinted, 'response')]) as [[{ statusCode: number, headers: Record<string, string> }], [http.IncomingMessage]]
  assert.equal(information.statusCode, 103)
  assert.equal(information.headers['link'], '</a.css>; rel=preload')
  await answer.toArray()
})

test('the API itself still answers Expect: 100-continue, and refuses methods it has no use for', async t => {
  const rig = await buildPreviewRig(t)
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: '/v1/sandboxes', method: 'POST', headers: { ...rig.asAdmin, expect: '100-continue', 'content-type': 'application/json' } })
  request.flushHeaders()
  await once(request, 'continue')
  request.end('{"image":"berth/base"}')
  const [answer] = await once(request, 'response') as [http.IncomingMessage]
  assert.equal(answer.statusCode, 201)
  await answer.toArray()
  assert.equal((await rig.ask('/v1/sandboxes', { method: 'PROPFIND', headers: rig.asAdmin })).status, 405)
  assert.equal((await rig.ask('/-/preview', { headers: rig.asAdmin })).status, 404)
})

test('a client that goes away ends the program\'s work, and a program that breaks off ends the client\'s answer', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serve((_request, response) => {
    response.writeHead(200, { 'content-length': '1000' })
    response.write('some')
  })
  for (let n = 0; n < 20; n++) {
    const { answer, request } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
    await once(answer, 'data')
    assert.equal(sockets.size, 1)
    request.destroy()
    await until(() => sockets.size === 0)
  }
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  answer.resume()
  for (const socket of sockets) socket.destroy()
  await assert.rejects(once(answer, 'end'), { code: 'ECONNRESET' })
  await until(() => rig.forwarder.open.count() === 0)
})

test('a client that goes away before the answer ends the program\'s work too', async t => {
  const rig = await buildPreviewRig(t)
  const asked = Promise.withResolvers<void>()
  const { port, sockets } = await rig.serve(() => asked.resolve())
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), headers: rig.asAdmin }).end()
  request.on('error', () => {})
  await asked.promise
  request.destroy()
  await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
})

test('a program answers before it has read the body, and the client gets to read it', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serve((_request, response) => response.writeHead(413).end('too much'))
  const request = http.request({ host: '127.0.0.1', port: rig.port, path: rig.pathTo(port), method: 'POST', headers: rig.asAdmin })
  request.on('error', () => {})
  const body = Readable.from((function * () { for (let n = 0; n < 20; n++) yield Buffer.alloc(megabyte) })(), { objectMode: false })
  body.pipe(request)
  const [answer] = await once(request, 'response') as [http.IncomingMessage]
  assert.equal(answer.statusCode, 413)
  assert.equal(Buffer.concat(await answer.toArray() as Buffer[]).toString(), 'too much')
  request.destroy()
})

test('connections to the program are kept, and one that it closed meanwhile is no fault of the next request', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serve(mirror)
  let connections = 0
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const seen = new Set<object>()
  for (let n = 0; n < 10; n++) {
    assert.equal((await rig.ask(rig.pathTo(port), { headers: rig.asAdmin, agent })).status, 200)
    for (const socket of sockets) seen.add(socket)
  }
  assert.equal(seen.size, 1)
  const { port: rude } = await rig.serveRaw(socket => {
    connections++
    let asked = 0
    // The second request on a connection is answered by its end.
    socket.on('data', () => ++asked === 1 ? socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok') : socket.resetAndDestroy())
  })
  for (let n = 0; n < 4; n++) assert.equal((await rig.ask(rig.pathTo(rude), { headers: rig.asAdmin, agent })).text, 'ok')
  assert.ok(connections >= 2)
})

test('a body is sent once, on a connection of its own', async t => {
  const rig = await buildPreviewRig(t)
  let asked = 0
  const { port } = await rig.serveRaw(socket => socket.on('data', () => { asked++; socket.resetAndDestroy() }))
  const reply = await rig.ask(rig.pathTo(port), { method: 'POST', headers: { ...rig.asAdmin, 'content-length': '1' }, body: 'x' })
  assert.equal(reply.status, 502)
  assert.equal(asked, 1)
})

test('nothing listening is 502 with advice, for a browser as a page that looks again', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.listen(net.createServer())
  const gone = net.createServer().listen(0, '127.0.0.1')
  await once(gone, 'listening')
  const { port: free } = gone.address() as net.AddressInfo
  gone.close()
  await once(gone, 'close')
  assert.notEqual(port, free)
  const reply = await rig.ask(rig.pathTo(free), { headers: rig.asAdmin })
  assert.equal(reply.status, 502)
  const problem = JSON.parse(reply.text)
  assert.equal(problem.code, 'port_not_listening')
  assert.match(problem.message, /nothing listens on port \d+ .* 0\.0\.0\.0, not 127\.0\.0\.1/)
  const page = await rig.ask(rig.pathTo(free), { headers: { ...rig.asAdmin, accept: 'text/html,*/*' } })
  assert.equal(page.status, 502)
  assert.match(page.headers['content-type']!, /^text\/html/)
  assert.match(page.text, /http-equiv="refresh" content="2"/)
  assert.match(String(page.headers['content-security-policy']), /default-src 'none'/)
  const posted = await rig.ask(rig.pathTo(free), { method: 'POST', headers: { ...rig.asAdmin, accept: 'text/html' }, body: 'x'.repeat(megabyte) })
  assert.equal(posted.status, 502)
  assert.equal(JSON.parse(posted.text).code, 'port_not_listening')
})

test('a sandbox that is not there, does not run, or a port that is none, is said as everywhere', async t => {
  const rig = await buildPreviewRig(t)
  const rows: Array<[path: string, status: number, code: string]> = [
    [`/v1/sandboxes/sbx_${'0'.repeat(20)}/ports/3000/`, 404, 'sandbox_not_found'],
    [rig.pathTo(0), 400, 'invalid_port'],
    [rig.pathTo(65_536), 400, 'invalid_port'],
    [`/v1/sandboxes/${rig.sandbox.id}/ports/x/`, 404, 'route_not_found'],
    [`/v1/sandboxes/${rig.other.id}/ports/3000/`, 409, 'invalid_state'],
  ]
  rig.other.status = 'stopped'
  for (const [path, status, code] of rows) {
    const reply = await rig.ask(path, { headers: rig.asAdmin })
    assert.equal(reply.status, status, path)
    assert.equal(JSON.parse(reply.text).code, code)
  }
})

const hostile: Array<[what: string, answer: string | ((socket: net.Socket) => void)]> = [
  ['no HTTP', 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['an early end', ''],
  ['half a head', 'HTTP/1.1 200 OK\r\nContent-Le'],
  ['a header without a name', 'HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 0\r\n\r\n'],
  ['a header with a control character', 'HTTP/1.1 200 OK\r\nX-A: a\x01b\r\nContent-Length: 0\r\n\r\n'],
  ['a head that is too large', `HTTP/1.1 200 OK\r\nX-A: ${'x'.repeat(100_000)}\r\nContent-Length: 0\r\n\r\n`],
  ['a head without end', socket => {
    socket.write('HTTP/1.1 200 OK\r\n')
    const more = () => { while (socket.writable && socket.write(`X-${'a'.repeat(1000)}: b\r\n`)); }
    socket.on('drain', more)
    more()
  }],
  ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx'],
  ['a length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n'],
  ['another transfer encoding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n'],
  ['a status of no kind', 'HTTP/1.1 007 Bond\r\nContent-Length: 0\r\n\r\n'],
  ['an unasked 101', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGARBAGE'],
  ['interim answers without end', socket => {
    const more = () => { while (socket.writable && socket.write('HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n'.repeat(100))); }
    socket.on('drain', more)
    more()
  }],
]

for (const [what, answer] of hostile) {
  test(`a program that answers with ${what} is a 502, and nothing is left of it`, async t => {
    const rig = await buildPreviewRig(t)
    const { port, sockets } = await rig.serveRaw(socket => socket.once('data', () => typeof answer === 'string' ? socket.end(answer) : answer(socket)))
    const reply = await rig.ask(rig.pathTo(port), { headers: rig.asAdmin })
    assert.equal(reply.status, 502)
    const { code, message } = JSON.parse(reply.text)
    assert.equal(code, 'port_answer_invalid', message)
    assert.doesNotMatch(reply.text, /GARBAGE/)
    await until(() => sockets.size === 0 && rig.forwarder.open.count() === 0)
  })
}

test('a body with chunks that are none breaks the answer off', async t => {
  const rig = await buildPreviewRig(t)
  const { port } = await rig.serveRaw(socket => socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n')))
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  await assert.rejects(answer.toArray(), { code: 'ECONNRESET' })
})

test('a body may take longer than one of the API', async t => {
  const rig = await buildPreviewRig(t, { requestTimeoutMs: 300 })
  const { port } = await rig.serve(mirror)
  const send = async (path: string) => {
    const request = http.request({ host: '127.0.0.1', port: rig.port, path, method: 'POST', headers: { ...rig.asAdmin, 'content-type': 'application/json', 'content-length': '2' } })
    request.on('error', () => {})
    request.write('{')
    setTimeout(() => request.end('}'), 900)
    const [answer] = await once(request, 'response') as [http.IncomingMessage]
    return { status: answer.statusCode, text: Buffer.concat(await answer.toArray() as Buffer[]).toString() }
  }
  const [preview, api] = await Promise.all([send(rig.pathTo(port)), send(`/v1/sandboxes/${rig.sandbox.id}/stop`)])
  assert.equal(preview.status, 200)
  assert.equal(JSON.parse(preview.text).body, '{}')
  assert.equal(api.status, 408)
  assert.equal(JSON.parse(api.text).code, 'request_too_slow')
})

test('an open preview is activity, and ends with its sandbox and with the daemon', async t => {
  const rig = await buildPreviewRig(t)
  const { port, sockets } = await rig.serve((_request, response) => void response.writeHead(200).write('open'))
  const { answer } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  await once(answer, 'data')
  assert.deepEqual(rig.activity, [`${rig.sandbox.id} begins`])
  rig.forwarder.open.endAllOf(rig.other.id)
  assert.equal(rig.forwarder.open.count(rig.sandbox.id), 1)
  rig.forwarder.open.endAllOf(rig.sandbox.id)
  await assert.rejects(answer.toArray(), { code: 'ECONNRESET' })
  await until(() => sockets.size === 0)
  assert.deepEqual(rig.activity, [`${rig.sandbox.id} begins`, `${rig.sandbox.id} ends`])
  const { answer: last } = await rig.open(rig.pathTo(port), { headers: rig.asAdmin })
  rig.closing.abort()
  await assert.rejects(last.toArray(), { code: 'ECONNRESET' })
})
