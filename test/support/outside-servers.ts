/**
 * Servers outside of a host, for tests: run in a namespace that has their addresses, `outside-servers.ts {"outside": …, "names": …}`.
 * Writes `ready`, then a line for all that reaches one (`tcp 203.0.113.10:22 from 198.51.100.2`, `udp …`, `text …`, `dns allowed.test A`,
 * `http allowed.test /path`, `tls allowed.test`), and what comes on standard input. On each address:
 *
 *     tcp 22, 5432   a banner, then an echo
 *     tcp 9          takes what comes for half a second, then says how many bytes that were
 *     udp 7          an echo; 9000: after one packet a packet every 20 ms for 30 s
 *     tcp 80         HTTP: /hello, /stream (without end), /echo (the body), everything else 404
 *     tcp 443        the same over TLS, for every name
 *     53             the names given (udp, tcp)
 */
import { execFileSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createServer, isIPv6, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as dns from 'dns-packet'

const { outside, names } = JSON.parse(process.argv[2] ?? '{}') as { outside: Record<string, string>, names: Record<string, string[]> }
const ttlSeconds = 60

function say (line: string): void {
  process.stdout.write(`${line}\n`)
}

function makeCertificate (): { key: Buffer, cert: Buffer } {
  const dir = mkdtempSync(join(tmpdir(), 'berth-outside-'))
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=outside.test'], { stdio: 'ignore' })
  const made = { key: readFileSync(key), cert: readFileSync(cert) }
  rmSync(dir, { recursive: true })
  return made
}

const answer: RequestListener = (request, response) => {
  say(`http ${request.headers.host} ${request.url}`)
  if (request.url === '/hello') return void response.end(`hello from ${request.socket.localAddress} to ${request.socket.remoteAddress}\n`)
  if (request.url === '/echo') return void request.pipe(response)
  if (request.url === '/stream') {
    const chunk = Buffer.alloc(64 * 1024, 'x')
    const push = () => { while (!response.destroyed && response.write(chunk)) { /* until it is full */ } }
    response.on('drain', push)
    return push()
  }
  response.writeHead(404).end('nothing here\n')
}

function echo (): Server {
  return createServer(socket => {
    say(`tcp ${socket.localAddress}:${socket.localPort} from ${socket.remoteAddress}`)
    socket.on('error', () => {})
    socket.write('welcome\n')
    socket.pipe(socket)
  })
}

const sinkMs = 500

function sink (): Server {
  return createServer(socket => {
    let received = 0
    socket.on('error', () => {})
    socket.on('data', data => { received += data.length })
    setTimeout(() => { if (!socket.destroyed) socket.write(String(received)) }, sinkMs)
  })
}

function answerQuestion (query: dns.DecodedPacket): dns.Packet {
  const [question] = query.questions ?? []
  const name = question?.name.toLowerCase() ?? ''
  say(`dns ${name} ${question?.type}`)
  const addresses = names[name]
  const answers = (addresses ?? []).filter(address => question?.type === (isIPv6(address) ? 'AAAA' : 'A'))
    .map(address => ({ type: question?.type as 'A' | 'AAAA', name: question?.name ?? '', ttl: ttlSeconds, data: address }))
  const notFound = 3
  return { type: 'response', id: query.id ?? 0, flags: dns.RECURSION_DESIRED | dns.RECURSION_AVAILABLE | (addresses ? 0 : notFound), questions: query.questions ?? [], answers }
}

async function listen (server: Server, address: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host: address, port, ipv6Only: true }, resolve)
  })
}

async function serveDatagrams (address: string, port: number, onMessage: (message: Buffer, reply: (data: Uint8Array) => void) => void): Promise<void> {
  const socket = createSocket({ type: isIPv6(address) ? 'udp6' : 'udp4' })
  socket.on('message', (message, peer) => {
    say(`udp ${address}:${port} from ${peer.address}`)
    onMessage(message, data => socket.send(data, peer.port, peer.address, () => {}))
  })
  socket.on('error', () => {})
  await new Promise<void>(resolve => socket.bind({ address, port }, resolve))
}

const certificate = makeCertificate()
for (const address of Object.values(outside)) {
  for (const port of [22, 5432]) await listen(echo(), address, port)
  await listen(sink(), address, 9)
  await listen(createHttpServer(answer), address, 80)
  await listen(createHttpsServer({
    ...certificate,
    SNICallback: (name, done) => {
      say(`tls ${name}`)
      done(null)
    },
  }, answer), address, 443)
  await listen(createServer(socket => {
    socket.on('error', () => {})
    socket.on('data', data => {
      const encoded = dns.encode(answerQuestion(dns.decode(data.subarray(2))))
      const length = Buffer.alloc(2)
      length.writeUInt16BE(encoded.length)
      socket.end(Buffer.concat([length, encoded]))
    })
  }), address, 53)
  await serveDatagrams(address, 53, (message, reply) => reply(dns.encode(answerQuestion(dns.decode(message)))))
  await serveDatagrams(address, 7, (message, reply) => {
    say(`text ${message.toString()}`)
    reply(message)
  })
  await serveDatagrams(address, 9000, (_message, reply) => {
    const timer = setInterval(() => reply(Buffer.from('more\n')), 20)
    setTimeout(() => clearInterval(timer), 30_000)
  })
}
process.stdin.on('end', () => process.exit(0)).pipe(process.stdout)
say('ready')
