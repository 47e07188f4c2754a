/** Messages that two programs could understand in two ways, from clients and from hosts: none passes, and none passes for another. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { fetch } from 'undici'
import { pollUntil } from '../../../../src/lib/poll.ts'
import { as, FakeHost, startGateway, type Rig } from '../proxy/proxy-rig.ts'

type Teardown = Parameters<typeof FakeHost.start>[0]

/** Bytes as they are; answers the statuses that came until the connection was closed, or was silent behind the last of them. */
async function send ({ port }: Pick<Rig, 'port'>, bytes: string, count = 1): Promise<string[]> {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  let isOver = false
  socket.on('data', (chunk: Buffer) => { text += chunk.toString('latin1') }).on('close', () => { isOver = true }).on('error', () => {})
  socket.write(bytes, 'latin1')
  const statuses = () => [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, status]) => status!)
  assert.ok(await pollUntil(async () => isOver || statuses().length >= count, 10_000), `${JSON.stringify(bytes.slice(0, 200))}: ${text}`)
  socket.destroy()
  return statuses()
}

const head = (target: string, fields = '', method = 'GET') => `${method} ${target} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer client\r\n${fields}\r\n`

test('no path leads to what its token is not for', async t => {
  const host = await FakeHost.start(t, (_request, response) => response.end('here'))
  const rig = await startGateway(t, host)
  const api = '/v1/workers/w1/api'
  const refused = [
    '/../v1/tokens', '/v1/sandboxes/../tokens', '/v1/sandboxes/%2e%2e/tokens', '/v1/sandboxes/%2E./tokens', '/v1/sandboxes/x%2f..%2f..%2ftokens', '/v1/sandboxes/..%5ctokens', '/v1/sandboxes\\..\\tokens',
    '//v1/tokens', '/v1//tokens', '/v1%2ftokens', '/v1/%74okens', '/v1/tokens;x', '/V1/tokens', '/v1/sandboxes%00/x', '/v1/sandboxes/%00', '/v1/sandboxes/%zz', '/v1/sandboxes/%c0%ae%c0%ae/x', '/v1/%2574okens',
    '/v1/sandboxes/x/tokens', '/v1/sandboxes/x/%74okens', '/v1/sandboxes/x/tokens/', '/v1/sandboxes/x#/../tokens', `/${'a'.repeat(20_000)}`, '/v1/sandboxes/\x7f', '/v1/sandboxes/\xff',
  ]
  for (const path of refused) {
    const [status = 'closed'] = await send(rig, head(api + path, '', 'GET'))
    assert.match(status, /^(4\d\d|closed)$/, path)
  }
  for (const target of [`http://gateway${api}/v1/host`, 'http://127.0.0.1:1/v1/workers/w1/api/v1/host', 'file:///etc/passwd', '*', 'w1', `${api}@127.0.0.1/`, '/v1/workers/w1%2fapi/v1/host', '/v1/workers//api/v1/host', '/v1/workers/%2e%2e/api/v1/host']) {
    const [status = 'closed'] = await send(rig, head(target))
    assert.match(status, /^(4\d\d|closed)$/, target)
  }
  assert.deepEqual(host.requests.map(({ url }) => url), [], 'nothing has reached the host')
  await send(rig, head(`${api}/v1/sandboxes/x%2520y?to=http://127.0.0.1:1/%0d%0aX-A:%20b`))
  assert.equal(host.requests[0]?.url, '/v1/sandboxes/x%2520y?to=http://127.0.0.1:1/%0d%0aX-A:%20b', 'nothing is decoded on the way')
})

test('no request hides another', async t => {
  const seen: string[] = []
  const host = await FakeHost.start(t, (request, response) => {
    seen.push(`${request.method} ${request.url}`)
    request.resume().on('end', () => response.end())
  })
  const rig = await startGateway(t, host)
  const target = '/v1/workers/w1/api/v1/sandboxes'
  const inner = 'GET /v1/tokens HTTP/1.1\r\nHost: a\r\n\r\n'
  const refused = [
    'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', 'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n', 'Content-Length: 5\r\nContent-Length: 6\r\n', 'Content-Length: 5, 6\r\n', 'Content-Length: +5\r\n', 'Content-Length: -1\r\n',
    'Content-Length: 0x5\r\n', 'Transfer-Encoding: chunked, identity\r\n', 'Transfer-Encoding: xchunked\r\n', 'Transfer-Encoding: gzip, chunked\r\n', 'Transfer-Encoding : chunked\r\n', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n',
    'X: a\nTransfer-Encoding: chunked\r\n', 'X: a\rTransfer-Encoding: chunked\r\n', 'X: a\0b\r\n', ' X: a\r\n', 'X\x0b: a\r\n', 'Content-Length: 5\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n',
  ]
  for (const fields of refused) {
    const statuses = await send(rig, head(target, fields, 'POST') + inner)
    assert.match(statuses[0] ?? 'closed', /^(4\d\d|501|closed)$/, JSON.stringify(fields))
    assert.ok(statuses.length <= 1 || statuses[1] !== '200', JSON.stringify(fields))
  }
  // What is well formed arrives as one, whatever it holds.
  for (const fields of [`Content-Length: ${inner.length}\r\nConnection: content-length, authorization, transfer-encoding, host\r\n`, `Content-Length: ${inner.length}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n`]) {
    const before = seen.length
    assert.deepEqual(await send(rig, head(target, fields, 'POST') + inner), ['200'], fields)
    assert.deepEqual(seen.slice(before), ['POST /v1/sandboxes'])
    const { headers } = host.requests.at(-1)!
    assert.deepEqual([headers.authorization, headers['upgrade'], headers['content-length']], ['Bearer token-of-the-host', undefined, String(inner.length)])
  }
  assert.ok(seen.every(line => line === 'POST /v1/sandboxes'), seen.join())
})

/** A host that answers each connection with the same bytes; `more` without end. */
async function rawHost (t: Teardown, bytes: string | Buffer, more?: string): Promise<string> {
  const server = createServer(socket => {
    socket.on('error', () => {}).once('data', () => {
      socket.write(bytes)
      const goOn = () => { while (more !== undefined && !socket.destroyed && socket.write(more)); }
      socket.on('drain', goOn)
      goOn()
    })
    t.after(async () => { socket.destroy() })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => { server.close() })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('what a host answers is one answer, or none', async t => {
  const rig = await startGateway(t)
  const answers: ReadonlyArray<[name: string, bytes: string, more?: string]> = [
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['an unknown encoding', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\na'],
    ['another protocol', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'],
    ['a line feed in a field', 'HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: a=b\r\n\r\n'],
    ['a null byte in a field', 'HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n'],
    ['interim answers without end', '', 'HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n'],
    ['a head without end', 'HTTP/1.1 200 OK\r\n', `X: ${'a'.repeat(1000)}\r\n`],
    ['no HTTP at all', 'SSH-2.0-OpenSSH_9.6\r\n'],
    ['nothing', ''],
  ]
  for (const [index, [name, bytes, more]] of answers.entries()) {
    const url = await rawHost(t, name === 'nothing' ? 'HTTP/1.1 ' : bytes, more)
    rig.workers.add(`raw${index}`, url)
    if (name === 'nothing') continue // It ends with the client's patience alone.
    const answer = await fetch(`${rig.url}/v1/workers/raw${index}/api/v1/host`, { headers: as('admin'), signal: AbortSignal.timeout(10_000) })
    assert.deepEqual([answer.status, answer.headers.get('set-cookie')], [503, null], name)
    assert.equal((await answer.json() as { code: string }).code, 'worker_unreachable', name)
  }
})

test('what a host answers is passed on, neither followed nor unpacked', async t => {
  const bomb = gzipSync(Buffer.alloc(16 * 1024 ** 2))
  const host = await FakeHost.start(t, (request, response) => {
    if (request.url === '/v1/usage') return response.writeHead(200, { 'content-encoding': 'gzip' }).end(bomb)
    response.writeHead(302, { location: 'http://169.254.169.254/latest' }).end()
  })
  const rig = await startGateway(t, host)
  const ask = (path: string) => fetch(`${rig.url}/v1/workers/w1/api${path}`, { headers: as('client', { 'accept-encoding': 'identity' }), redirect: 'manual' })
  const led = await ask('/v1/host')
  assert.deepEqual([led.status, led.headers.get('location')], [302, null], 'nor does it lead the client anywhere')
  const packed = await ask('/v1/usage')
  assert.equal(packed.headers.get('content-length') ?? String(bomb.length), String(bomb.length))
  assert.equal(host.requests.length, 2)
  await packed.body?.cancel()
})

test('who a client says that it is for, is not believed', async t => {
  const host = await FakeHost.start(t, (_request, response) => response.end())
  const rig = await startGateway(t, host)
  const spoofed = { 'x-forwarded-for': '10.9.9.9', forwarded: 'for=10.9.9.9', 'x-real-ip': '10.9.9.9', 'x-forwarded-host': 'evil', 'x-berth-worker': 'other', cookie: 'a=b', 'proxy-authorization': 'Basic a' }
  await fetch(`${rig.url}/v1/workers/w1/api/v1/host`, { headers: as('client', spoofed) })
  const { headers } = host.requests[0]!
  assert.equal(headers['x-forwarded-for'], '127.0.0.1')
  assert.doesNotMatch(JSON.stringify(headers), /10\.9\.9\.9|evil|other|a=b|Basic/)
})
