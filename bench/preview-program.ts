/** A program to be previewed, in a process of its own: tells its port on a line, answers /small with a few bytes and /<n> with n MiB. */
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'

const block = Buffer.alloc(1024 ** 2, 'berth')

function * blocks (count: number): Generator<Buffer> {
  for (let n = 0; n < count; n++) yield block
}

const server = http.createServer((request, response) => {
  const count = Number(request.url?.slice(1))
  if (!Number.isInteger(count)) return response.end('hello')
  response.setHeader('content-length', count * block.length)
  pipeline(Readable.from(blocks(count), { objectMode: false }), response).catch(() => {})
})
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port))
process.stdin.resume().once('end', () => process.exit())
