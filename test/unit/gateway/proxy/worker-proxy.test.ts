import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable, pipeline } from 'node:stream'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { fetch } from 'undici'
import { pollUntil } from '../../../../src/lib/poll.ts'
import { makeCertificate } from '../../worker/gateway-rig.ts'
import { as, FakeHost, hostToken, startGateway } from './proxy-rig.ts'

const api = '/v1/workers/w1/api'
const echo = (request: IncomingMessage) => JSON.stringify({ method: request.method, url: request.url, headers: request.headers })

test('a request goes to the host with the host\'s own token, and nothing of who the client is to the gateway', async t => {
  const host = await FakeHost.start(t, (request, response) => {
    response.writeHead(201, { location: '/v1/sandboxes/sbx_1', 'set-cookie': 'a=1', 'clear-site-data': '"*"', 'x-own': 'yes', connection: 'x-hop, keep-alive', 'x-hop': 'no' }).end(echo(request))
  })
  const { url, port } = await startGateway(t, host)
  const answer = await fetch(`${url}${api}/v1/sandboxes/a%2Fb/files?x=%20y`, {
    method: 'POST',
    body: '{"not": json',
    headers: as('client', { cookie: 'berth=1', 'x-berth-admin': 'me', 'x-forwarded-for': '9.9.9.9', 'idempotency-key': 'k1', 'content-type': 'application/json' }),
  })
  const { url: path, headers } = await answer.json() as { url: string, headers: Record<string, string> }
  assert.equal(answer.status, 201)
  assert.equal(path, '/v1/sandboxes/a%2Fb/files?x=%20y')
  assert.equal(headers['authorization'], `Bearer ${hostToken}`)
  assert.deepEqual([headers['cookie'], headers['x-berth-admin'], headers['content-type'], headers['content-length']], [undefined, undefined, 'application/json', '12'])
  assert.deepEqual([headers['x-forwarded-for'], headers['x-forwarded-proto'], headers['x-forwarded-host']], ['127.0.0.1', 'http', `127.0.0.1:${port}`])
  assert.match(headers['idempotency-key']!, /^fleet-/)
  assert.equal(answer.headers.get('location'), `${api}/v1/sandboxes/sbx_1`)
  assert.deepEqual(['set-cookie', 'clear-site-data', 'x-hop', 'x-own', 'x-berth-worker'].map(name => answer.headers.get(name)), [null, null, null, 'yes', 'w1'])
})

test('a host sends a client nowhere but to itself', async t => {
  let location = ''
  const host = await FakeHost.start(t, (_request, response) => { response.writeHead(307, { location }).end() })
  const { url } = await startGateway(t, host)
  const sentTo = async (place: string) => {
    location = place
    return (await fetch(`${url}${api}/v1/sandboxes/sbx_1`, { headers: as('client'), redirect: 'manual' })).headers.get('location')
  }
  assert.equal(await sentTo('/v1/sandboxes/sbx_2?x=1'), `${api}/v1/sandboxes/sbx_2?x=1`)
  const elsewhere = ['/../../tokens', '/%2e%2e/%2E./../tokens', '/..\\..\\..\\tokens', '//evil.example/', '/\\evil.example', `${url}/v1/tokens`, 'https://evil.example/', '../../../tokens', '']
  for (const place of elsewhere) assert.ok([null, ''].includes(await sentTo(place)) || (await sentTo(place))!.startsWith(`${api}//`) || (await sentTo(place))!.startsWith(`${api}/\\`), place)
})

test('two clients with one Idempotency-Key have two at the host', async t => {
  const host = await FakeHost.start(t, (request, response) => response.end(request.headers['idempotency-key']))
  const { url } = await startGateway(t, host)
  const keyOf = async (who: string) => await (await fetch(`${url}${api}/v1/sandboxes`, { method: 'POST', headers: as(who, { 'idempotency-key': 'same' }) })).text()
  assert.equal(await keyOf('client'), await keyOf('client'))
  assert.notEqual(await keyOf('client'), await keyOf('admin'))
})

test('who may not is told so by the gateway', async t => {
  const host = await FakeHost.start(t, (_, response) => response.end('ok'))
  const { url } = await startGateway(t, host)
  const cases: [who: string | undefined, method: string, path: string, status: number][] = [
    [undefined, 'GET', `${api}/v1/host`, 401],
    ['nobody', 'GET', `${api}/v1/host`, 401],
    ['worker', 'GET', `${api}/v1/host`, 403],
    ['other', 'GET', `${api}/v1/host`, 403],
    ['read', 'GET', `${api}/v1/host`, 200],
    ['read', 'POST', `${api}/v1/sandboxes`, 403],
    ['client', 'POST', `${api}/v1/host/drain`, 403],
    ['client', 'POST', `${api}/v1/sandboxes/x/tokens`, 403],
    ['client', 'POST', `${api}/v1/sandboxes/x/t%6Fkens`, 403],
    ['client', 'DELETE', `${api}/v1/images/x`, 403],
    ['client', 'POST', `${api}/v1/images/pull`, 200],
    ['admin', 'POST', `${api}/v1/host/drain`, 200],
    ['admin', 'GET', '/v1/workers/nobody/api/v1/host', 404],
    [undefined, 'GET', `${api}/console`, 401],
    [undefined, 'GET', `${api}/console/a/b.js`, 401],
    [undefined, 'GET', `${api}/console%2Fa.js`, 401],
    [undefined, 'GET', `${api}//`, 401],
    [undefined, 'GET', `${api}/docs`, 401],
    [undefined, 'GET', `${api}/healthz`, 401],
    [undefined, 'GET', `${api}/console/../v1/host`, 401],
    [undefined, 'POST', `${api}/`, 401],
    [undefined, 'GET', `${api}/v1/host?ticket=x`, 401],
  ]
  for (const [who, method, path, status] of cases) {
    const answer = await fetch(url + path, { method, headers: who === undefined ? {} : as(who) })
    assert.equal(answer.status, status, `${who} ${method} ${path}: ${await answer.text()}`)
  }
  assert.ok(host.requests.every(({ headers }) => headers.authorization === `Bearer ${hostToken}`), 'nothing goes to a host of which the gateway does not know who asks')
})

test('the console is the gateway\'s own, whatever a host would show in its place, and whoever asks', async t => {
  const host = await FakeHost.start(t, (_, response) => response.setHeader('content-type', 'text/html').end('<script src="https://evil.example"></script>'))
  const directory = await mkdtemp(join(tmpdir(), 'berth-console-'))
  t.after(() => rm(directory, { recursive: true }))
  await Promise.all([writeFile(join(directory, 'index.html'), '<title>Berth</title>'), writeFile(join(directory, 'app-A1.js'), 'ours()')])
  const { url, workers } = await startGateway(t, host, undefined, directory)
  workers.add('odd', 'ftp://elsewhere')
  for (const headers of [{}, as('admin'), as('nobody')]) {
    for (const id of ['w1', 'odd']) {
      const page = await fetch(`${url}/v1/workers/${id}/api/`, { headers })
      assert.deepEqual([page.status, await page.text()], [200, '<title>Berth</title>'])
      assert.match(page.headers.get('content-security-policy')!, /^default-src 'none'; script-src 'self';/)
    }
    assert.equal(await (await fetch(`${url}${api}/console/app-A1.js`, { headers })).text(), 'ours()')
    assert.equal((await fetch(`${url}${api}/`, { method: 'HEAD', headers })).headers.get('content-length'), '20')
    for (const path of [`${api}/console/index.html`, `${api}/console/other.js`, '/v1/workers/nobody/api/']) assert.equal((await fetch(url + path, { headers })).status, 404)
  }
  assert.equal((await fetch(`${url}${api}`, { redirect: 'manual' })).headers.get('location'), 'api/')
  assert.equal(host.requests.length, 0)
})

test('what a host answers is nothing that could act as a page of the gateway', async t => {
  const types = ['text/html', 'image/svg+xml', 'application/xhtml+xml', 'multipart/x-mixed-replace', undefined]
  const host = await FakeHost.start(t, (request, response) => {
    const type = types[Number(request.url!.at(-1))]
    if (type !== undefined) response.setHeader('content-type', type)
    response.setHeader('x-content-type-options', 'sniff').setHeader('content-security-policy', "default-src 'self'").end('<script>steal()</script>')
  })
  const { url } = await startGateway(t, host)
  for (const [index, type] of types.entries()) {
    const { headers } = await fetch(`${url}${api}/v1/sandboxes/x/files/${index}`, { headers: as('client') })
    const facts = ['content-type', 'content-security-policy', 'x-content-type-options'].map(name => headers.get(name))
    assert.deepEqual(facts, [type ?? null, "default-src 'self', sandbox", 'nosniff'])
  }
})

/** What `fetch` would tidy up before it is sent. */
async function rawGet (port: number, path: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.end(`GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nConnection: close\r\n\r\n`)
  return (await text(socket)).split('\r\n', 1)[0]!
}

test('no path leads out of its prefix', async t => {
  const host = await FakeHost.start(t, (_, response) => response.end('ok'))
  const { port } = await startGateway(t, host)
  for (const path of [`${api}/../w2/api/v1/host`, `${api}/..%2fw2`, `${api}/v1/%2e%2e/x`, `${api}/.`, `${api}/a\\..\\b`, `${api}/%5c..%5c`, `${api}/%00`, `${api}/%zz`]) {
    assert.match(await rawGet(port, path), / 40[04] /, path)
  }
  assert.match(await rawGet(port, `http://elsewhere${api}/v1/host`), / 404 /)
  assert.equal(host.requests.length, 0)
})

test('bodies go both ways as they come, and are never held', async t => {
  const received = createHash('sha256')
  const host = await FakeHost.start(t, (request, response) => {
    if (request.method === 'GET') return pipeline(Readable.from(pieces()), response, () => {})
    request.on('data', chunk => received.update(chunk)).once('end', () => response.end('taken'))
  })
  const block = randomBytes(1024 ** 2)
  const sent = createHash('sha256')
  function * pieces () { for (let count = 0; count < 48; count++) yield block }
  for (const piece of pieces()) sent.update(piece)
  const { url } = await startGateway(t, host)
  const up = await fetch(`${url}${api}/v1/sandboxes/x/files`, { method: 'PUT', headers: as('client'), body: Readable.from(pieces()), duplex: 'half' })
  assert.equal(await up.text(), 'taken')
  const expected = sent.digest('hex')
  assert.equal(received.digest('hex'), expected)
  const down = createHash('sha256')
  for await (const chunk of (await fetch(`${url}${api}/v1/sandboxes/x/files`, { headers: as('client') })).body!) down.update(chunk)
  assert.equal(down.digest('hex'), expected)
})

test('a client that reads slowly holds the host back', async t => {
  let written = 0
  const host = await FakeHost.start(t, (_, response) => {
    const block = Buffer.alloc(1024 ** 2)
    const go = () => {
      while (!response.destroyed) {
        written += block.length
        if (!response.write(block)) return void response.once('drain', go)
      }
    }
    go()
  })
  const { port } = await startGateway(t, host)
  const request = httpRequest({ port, path: `${api}/v1/sandboxes/x/files`, headers: as('client') }).end()
  const [answer] = await once(request, 'response') as [IncomingMessage]
  answer.pause()
  let before = -1
  assert.ok(await pollUntil(async () => {
    const isStill = written === before
    before = written
    return isStill && written > 0
  }, 10_000))
  assert.ok(written < 64 * 1024 ** 2, `${written} bytes were taken of the host`)
  request.destroy()
  assert.ok(await pollUntil(async () => host.sockets.size === 0, 5000), 'the host\'s connection ends with the client\'s')
})

test('what comes piece by piece is passed on piece by piece', async t => {
  const parts: (() => void)[] = []
  const host = await FakeHost.start(t, (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.flushHeaders()
    parts.push(() => response.write('data: 1\n\n'), () => response.end('data: 2\n\n'))
  })
  const { url } = await startGateway(t, host)
  const answer = await fetch(`${url}${api}/v1/events`, { headers: as('read') })
  assert.equal(answer.headers.get('content-type'), 'text/event-stream')
  const reader = answer.body!.getReader()
  for (const [index, part] of parts.entries()) {
    part()
    assert.equal(Buffer.from((await reader.read()).value!).toString(), `data: ${index + 1}\n\n`)
  }
  assert.equal((await reader.read()).done, true)
})

test('trailers pass in both directions', async t => {
  const host = await FakeHost.start(t, (request, response) => {
    request.resume().once('end', () => {
      response.writeHead(200, { trailer: 'X-Sum', 'x-got': request.trailers['x-mine'] ?? 'none' })
      response.write('a')
      response.addTrailers({ 'X-Sum': 'abc' })
      response.end()
    })
  })
  const { port } = await startGateway(t, host)
  const request = httpRequest({ port, method: 'PUT', path: `${api}/v1/sandboxes/x/files`, headers: as('client', { trailer: 'X-Mine', 'transfer-encoding': 'chunked' }) })
  request.write('a')
  request.addTrailers({ 'X-Mine': 'yes' })
  request.end()
  const [answer] = await once(request, 'response') as [IncomingMessage]
  await text(answer)
  assert.deepEqual([answer.headers['x-got'], answer.trailers['x-sum']], ['yes', 'abc'])
})

test('leave to send a body is the host\'s to give', async t => {
  const host = await FakeHost.start(t, () => {})
  host.server.on('checkContinue', (request, response) => {
    if (request.url?.includes('refused')) return response.writeHead(413).end('too much')
    response.writeContinue()
    request.resume().once('end', () => response.end('taken'))
  })
  const { port } = await startGateway(t, host)
  const put = async (path: string) => {
    const request = httpRequest({ port, method: 'PUT', path: `${api}/v1/sandboxes/${path}/files`, headers: as('client', { expect: '100-continue', 'content-length': '3' }) })
    request.flushHeaders()
    let hasLeave = false
    request.once('continue', () => { hasLeave = true; request.end('abc') })
    const [answer] = await once(request, 'response') as [IncomingMessage]
    const body = await text(answer)
    request.on('error', () => {}).destroy()
    return [hasLeave, answer.statusCode, body]
  }
  assert.deepEqual(await put('x'), [true, 200, 'taken'])
  assert.deepEqual(await put('refused'), [false, 413, 'too much'])
})

test('HEAD, 204 and 304 come without a body, and connections are used again', async t => {
  const host = await FakeHost.start(t, (request, response) => {
    const status = Number(new URL(request.url!, 'http://x').searchParams.get('status'))
    response.writeHead(status, status === 200 ? { 'content-length': 5 } : {}).end()
  })
  const { url } = await startGateway(t, host)
  const head = await fetch(`${url}${api}/v1/host?status=200`, { method: 'HEAD', headers: as('read') })
  assert.deepEqual([head.status, head.headers.get('content-length'), await head.text()], [200, '5', ''])
  for (const status of [204, 304]) assert.equal((await fetch(`${url}${api}/v1/host?status=${status}`, { headers: as('read') })).status, status)
  assert.equal(host.sockets.size, 1)
})

test('a host that breaks off has its client\'s connection broken off', async t => {
  const host = await FakeHost.start(t, (request, response) => {
    response.writeHead(200, { 'content-length': 100 })
    response.write('half')
    setImmediate(() => request.socket.destroy())
  })
  const { url } = await startGateway(t, host)
  const answer = await fetch(`${url}${api}/v1/host`, { headers: as('read') })
  await assert.rejects(answer.text())
})

test('a client that goes has its host told, while it sends and while it waits', async t => {
  const gone: string[] = []
  const host = await FakeHost.start(t, request => { request.on('error', () => {}).resume().socket.once('close', () => gone.push(request.method!)) })
  const { port } = await startGateway(t, host)
  for (const method of ['GET', 'PUT']) {
    const request = httpRequest({ port, method, path: `${api}/v1/sandboxes/x/files`, headers: as('client', method === 'PUT' ? { 'content-length': '1000' } : {}) }).on('error', () => {})
    if (method === 'PUT') request.write('abc')
    else request.end()
    assert.ok(await pollUntil(async () => host.requests.some(seen => seen.method === method), 5000))
    request.destroy()
    assert.ok(await pollUntil(async () => gone.includes(method), 5000), `${method} ended at the host`)
  }
})

test('a host that cannot be reached is answered for, with what to do', async t => {
  const { url, workers } = await startGateway(t)
  workers.add('closed', 'http://127.0.0.1:1')
  workers.add('none', 'nonsense')
  const speechless = createTcpServer(socket => socket.on('error', () => {}).end('hello\r\n'))
  speechless.listen(0, '127.0.0.1')
  await once(speechless, 'listening')
  t.after(async () => { speechless.close() })
  workers.add('speechless', `http://127.0.0.1:${(speechless.address() as AddressInfo).port}`)
  for (const [id, advice] of [['closed', /daemon runs/], ['none', /--advertise/], ['speechless', /not HTTP/]] as const) {
    const answer = await fetch(`${url}/v1/workers/${id}/api/v1/host`, { headers: as('admin') })
    const { code, message } = await answer.json() as { code: string, message: string }
    assert.deepEqual([answer.status, code, answer.headers.get('retry-after')], [503, 'worker_unreachable', '1'], id)
    assert.match(message, advice)
  }
})

test('a connection that the host has closed meanwhile costs a reader nothing', async t => {
  const host = await FakeHost.start(t, (request, response) => {
    response.end('ok')
    // The next request on it finds it closed.
    if (host.requests.length === 1) response.once('finish', () => request.socket.once('data', () => request.socket.destroy()))
  })
  const { url } = await startGateway(t, host)
  for (let count = 0; count < 3; count++) assert.equal(await (await fetch(`${url}${api}/v1/host`, { headers: as('read') })).text(), 'ok')
})

test('a worker that moves, or has another token, is found again', async t => {
  const refusing = await FakeHost.start(t, (_, response) => response.writeHead(401).end())
  const there = await FakeHost.start(t, (_, response) => response.end('there'))
  const { url, workers } = await startGateway(t, refusing)
  const get = async () => await fetch(`${url}${api}/v1/host`, { headers: as('read') })
  const refused = await get()
  // Who asks is known to the gateway: it is not for them to bring another token.
  assert.deepEqual([refused.status, (await refused.json() as { code: string }).code], [503, 'worker_unreachable'])
  await get()
  workers.add('w1', there.url)
  assert.equal(await (await get()).text(), 'there')
  const looks = workers.looks
  for (let count = 0; count < 5; count++) await (await get()).text()
  assert.equal(workers.looks, looks)
})

test('a host with authorities of its own is believed by them alone, for requests and for sockets', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-proxy-'))
  t.after(() => rm(dir, { recursive: true, force: true }))
  const [own, strange] = ['own', 'strange'].map(name => {
    const { cert, key } = makeCertificate(dir, name)
    return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') }
  }) as [{ cert: string, key: string }, { cert: string }]
  const server = createTlsServer(own)
  server.on('upgrade', (_, socket) => socket.on('error', () => {}).end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nsecret'))
  const host = await FakeHost.start(t, (_, response) => response.end('secret'), server)
  const { url, port, workers } = await startGateway(t)
  const address = host.url.replace('http://127.0.0.1', 'https://localhost')
  workers.add('right', address, { ca: own.cert })
  workers.add('wrong', address, { ca: strange.cert })
  workers.add('none', address)
  for (const [id, expected] of [['right', 200], ['right', 200], ['wrong', 503], ['none', 503]] as const) {
    const answer = await fetch(`${url}/v1/workers/${id}/api/v1/host`, { headers: as('read') })
    const body = await answer.text()
    assert.equal(answer.status, expected, `${id} ${body}`)
    assert.match(body, expected === 200 ? /^secret$/ : /certificate/)
  }
  assert.equal(host.requests.length, 2)
  const request = httpRequest({ port, path: '/v1/workers/right/api/v1/x', headers: as('admin', { connection: 'Upgrade', upgrade: 'raw' }) }).end()
  const [, socket, head] = await once(request, 'upgrade') as [IncomingMessage, Socket, Buffer]
  assert.equal(head.toString() + await text(socket), 'secret')
})
