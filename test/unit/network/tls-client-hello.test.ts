import { test } from 'node:test'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { canonicalHostName, ClientHelloReader, maximumHelloBytes, type ClientHello } from '../../../src/services/network/server/tls-client-hello.ts'

/** What a real client sends first. */
async function realHello (options: tls.ConnectionOptions): Promise<Buffer> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = tls.connect({ port: (server.address() as net.AddressInfo).port, host: '127.0.0.1', ...options }).on('error', () => {})
  const [socket] = await once(server, 'connection') as [net.Socket]
  const [bytes] = await once(socket, 'data') as [Buffer]
  socket.destroy()
  client.destroy()
  server.close()
  return bytes
}

const vector = (lengthBytes: number, ...parts: Buffer[]): Buffer => {
  const content = Buffer.concat(parts)
  const length = Buffer.alloc(lengthBytes)
  length.writeUIntBE(content.length, 0, lengthBytes)
  return Buffer.concat([length, content])
}

const record = (content: Buffer): Buffer => Buffer.concat([Buffer.from([22, 3, 1]), vector(2, content)])
const extension = (type: number, content: Buffer): Buffer => Buffer.concat([Buffer.from([0, type]), vector(2, content)])
const hostName = (name: string, type = 0): Buffer => Buffer.concat([Buffer.from([type]), vector(2, Buffer.from(name, 'latin1'))])
const serverName = (...names: Buffer[]): Buffer => extension(0, vector(2, ...names))

function message (...extensions: Buffer[]): Buffer {
  const body = Buffer.concat([Buffer.alloc(34), vector(1), vector(2, Buffer.from([0x13, 1])), vector(1, Buffer.from([0])), vector(2, ...extensions)])
  return Buffer.concat([Buffer.from([1]), vector(3, body)])
}

const hello = (...extensions: Buffer[]): Buffer => record(message(...extensions))
const read = (bytes: Buffer): ClientHello => new ClientHelloReader().push(bytes)

test('the name of a real client is found, however its bytes are cut', async () => {
  const bytes = await realHello({ servername: 'API.Example.com' })
  assert.deepEqual(read(bytes), { state: 'complete', serverName: 'api.example.com' })
  for (const size of [1, 2, 7, 100]) {
    const reader = new ClientHelloReader()
    const states: ClientHello[] = []
    for (let at = 0; at < bytes.length; at += size) states.push(reader.push(bytes.subarray(at, at + size)))
    assert.deepEqual(states.at(-1), { state: 'complete', serverName: 'api.example.com' })
    assert.ok(states.slice(0, -1).every(({ state }) => state === 'partial'))
  }
})

test('a message in many records is put together', () => {
  const whole = message(serverName(hostName('example.com')))
  const records = Array.from(whole, byte => record(Buffer.from([byte])))
  assert.deepEqual(read(Buffer.concat(records)), { state: 'complete', serverName: 'example.com' })
})

test('bytes that follow the message do not matter', () => {
  assert.deepEqual(read(Buffer.concat([hello(serverName(hostName('example.com'))), Buffer.alloc(40_000, 0xff)])), { state: 'complete', serverName: 'example.com' })
})

test('a client that names nothing is complete without a name', async () => {
  assert.deepEqual(read(await realHello({})), { state: 'complete' })
  assert.deepEqual(read(hello()), { state: 'complete' })
  assert.deepEqual(read(hello(serverName(hostName('203.0.113.7')))), { state: 'complete' })
  const withoutExtensions = Buffer.concat([Buffer.alloc(34), vector(1), vector(2, Buffer.from([0x13, 1])), vector(1, Buffer.from([0]))])
  assert.deepEqual(read(record(Buffer.concat([Buffer.from([1]), vector(3, withoutExtensions)]))), { state: 'complete' })
})

test('several names, and names that are none, are malformed', () => {
  const cases: Record<string, Buffer> = {
    'two names': hello(serverName(hostName('a.example'), hostName('b.example'))),
    'two extensions': hello(serverName(hostName('a.example')), serverName(hostName('b.example'))),
    'an unknown type': hello(serverName(hostName('a.example', 1))),
    'an empty list': hello(serverName()),
    'an empty name': hello(serverName(hostName(''))),
    'a NUL': hello(serverName(hostName('a.example\0.evil.example'))),
    'a space': hello(serverName(hostName('a.example b'))),
    'an empty label': hello(serverName(hostName('a..example'))),
    'a byte above ASCII': hello(serverName(hostName('ä.example'))),
    'a long label': hello(serverName(hostName(`${'a'.repeat(64)}.example`))),
    'bytes after the list': hello(extension(0, Buffer.concat([vector(2, hostName('a.example')), Buffer.from([0])]))),
    'a list longer than its extension': hello(extension(0, Buffer.from([0, 99, 0]))),
  }
  for (const [what, bytes] of Object.entries(cases)) assert.deepEqual(read(bytes), { state: 'malformed' }, what)
})

test('lengths that do not fit are malformed', () => {
  const good = message(serverName(hostName('a.example')))
  const longerExtensions = Buffer.from(good)
  longerExtensions.writeUInt16BE(longerExtensions.readUInt16BE(4 + 34 + 1 + 4 + 2) + 1, 4 + 34 + 1 + 4 + 2)
  assert.deepEqual(read(record(longerExtensions)), { state: 'malformed' })
  assert.deepEqual(read(record(Buffer.concat([Buffer.from([1]), vector(3, Buffer.alloc(10))]))), { state: 'malformed' })
  assert.deepEqual(read(record(Buffer.from([2, 0, 0, 0]))), { state: 'malformed' })
  assert.deepEqual(read(record(Buffer.alloc(0))), { state: 'malformed' })
  assert.deepEqual(read(Buffer.concat([record(good.subarray(0, 9)), Buffer.from([23, 3, 3, 0, 1, 0])])), { state: 'malformed' })
})

test('every byte of a hello may be wrong without harm', () => {
  const good = hello(serverName(hostName('a.example')), extension(10, Buffer.from([0, 2, 0, 29])))
  for (let at = 0; at < good.length; at++) {
    for (const value of [0, 1, 0x7f, 0xff]) {
      const bytes = Buffer.from(good)
      bytes[at] = value
      const { state } = read(bytes)
      assert.ok(['partial', 'complete', 'malformed', 'not_tls'].includes(state))
    }
  }
})

test('other protocols are told from broken TLS', () => {
  assert.deepEqual(read(Buffer.from('SSH-2.0-OpenSSH_9.9\r\n')), { state: 'not_tls' })
  assert.deepEqual(read(Buffer.from([22, 2, 0])), { state: 'not_tls' })
})

test('what never completes is malformed once it is too long', () => {
  const reader = new ClientHelloReader()
  const endless = record(Buffer.concat([Buffer.from([1, 0, 0x3f, 0xff]), Buffer.alloc(16_000)]))
  assert.deepEqual(reader.push(endless), { state: 'partial' })
  assert.deepEqual(reader.push(record(Buffer.alloc(maximumHelloBytes - 16_000 - 10))), { state: 'malformed' })
  assert.deepEqual(read(record(Buffer.from([1, 1, 0, 0]))), { state: 'malformed' })
})

test('names are brought to one form', () => {
  assert.equal(canonicalHostName('Example.COM.'), 'example.com')
  assert.equal(canonicalHostName('_dmarc.a-b.example'), '_dmarc.a-b.example')
  for (const text of ['', '.', 'a..b', 'a b', 'a/b', 'a:80', '*.example.com']) assert.equal(canonicalHostName(text), undefined, text)
})
