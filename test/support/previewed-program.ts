/**
 * What a test looks at through previews: runs in a sandbox, needs nothing but Node, and listens on a port.
 *
 *     POST /listen/PORT   listens there as well      POST /step     sends one more event to all who watch
 *     GET  /seen          its own request            GET  /steps    events, one after the other
 *     POST /mirror        the body, as it comes      GET  /bytes/N  N MiB of known length
 *     upgrades            a WebSocket that sends short frames back; the first subprotocol asked for is taken
 */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'

const block = Buffer.alloc(1024 ** 2, 'berth')
const watchers = new Set<ServerResponse>()
let steps = 0

function answer (request: IncomingMessage, response: ServerResponse): void {
  const [, what, argument] = request.url?.split('/') ?? []
  if (what === 'mirror') return void request.pipe(response)
  if (what === 'bytes') return sendBlocks(response, Number(argument))
  if (what === 'listen') return void listen(Number(argument), () => response.end())
  if (what === 'steps') {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    watchers.add(response)
    return void response.on('close', () => watchers.delete(response))
  }
  if (what === 'step') {
    steps++
    for (const watcher of watchers) watcher.write(`data: ${steps}\n\n`)
    return void response.end(String(watchers.size))
  }
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ url: request.url, headers: request.headers }))
}

function sendBlocks (response: ServerResponse, count: number): void {
  response.setHeader('content-length', count * block.length)
  let left = count
  const send = () => {
    while (left > 0) {
      left--
      if (!response.write(block)) return void response.once('drain', send)
    }
    response.end()
  }
  send()
}

/** RFC 6455, with frames of up to 125 bytes. */
function echo (request: IncomingMessage, socket: Duplex): void {
  const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  const protocol = request.headers['sec-websocket-protocol']?.split(',')[0]
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n${protocol ? `Sec-WebSocket-Protocol: ${protocol}\r\n` : ''}\r\n`)
  let pending = Buffer.alloc(0)
  socket.on('error', () => {})
  socket.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk])
    for (;;) {
      const [first = 0, second = 0] = pending
      const length = second & 0x7f
      if (pending.length < 6 + length) return
      const payload = pending.subarray(6, 6 + length).map((byte, at) => byte ^ (pending[2 + (at & 3)] ?? 0))
      socket.write(Buffer.concat([Buffer.from([first, length]), payload]))
      if ((first & 0x0f) === 8) socket.end()
      pending = pending.subarray(6 + length)
    }
  })
}

function listen (port: number, onListening?: () => void): void {
  createServer(answer).on('upgrade', echo).listen(port, '0.0.0.0', onListening)
}

listen(Number(process.argv[2]))
