/** A client of a name server with an address of its own: datagrams and connections of dns-packet's messages. */
import dnsPacket, { type DecodedPacket, type Packet } from 'dns-packet'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, isIPv6, type Socket } from 'node:net'

/** What a client talks from and to. */
export interface DnsClientOptions {
  /** Its own address, of 127.0.0.0/8, or ::1. */
  from: string
  server: { address: string, port: number }
}

const patienceMs = 2_000

/** A query as dns-packet writes it; with `ednsBytes` there is an OPT record. */
export function queryOf (name: string, type: string, { ednsBytes, ...packet }: Packet & { ednsBytes?: number } = {}): Buffer {
  const additionals = ednsBytes === undefined ? [] : [{ type: 'OPT', name: '.', udpPayloadSize: ednsBytes, extendedRcode: 0, ednsVersion: 0, flags: 0, flag_do: false, options: [] }]
  return dnsPacket.encode({ type: 'query', id: 0x1234, flags: dnsPacket.RECURSION_DESIRED, questions: [{ name, type }], additionals, ...packet } as Packet)
}

/** Sends datagrams from one socket; so many answers, or those up to a last one, fewer when they do not come in time. */
export async function datagrams (
  { from, server }: DnsClientOptions, queries: readonly Buffer[], until: number | ((answer: Buffer) => boolean) = queries.length, waitMs = patienceMs
): Promise<Buffer[]> {
  const socket = createSocket(isIPv6(from) ? 'udp6' : 'udp4').bind(0, from)
  const answers: Buffer[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, waitMs)
  try {
    await once(socket, 'listening')
    socket.on('message', bytes => {
      answers.push(bytes)
      if (typeof until === 'number' ? answers.length === until : until(bytes)) resolve()
    })
    for (const query of queries) socket.send(query, server.port, server.address)
    await promise
    return answers
  } finally {
    clearTimeout(timer)
    socket.close()
  }
}

/** Asks by one datagram and decodes the answer; throws when none comes. */
export async function askOverUdp (options: DnsClientOptions, query: Buffer): Promise<DecodedPacket & { rcode: string }> {
  const [answer] = await datagrams(options, [query])
  if (answer === undefined) throw new Error('no answer came')
  return decoded(answer)
}

/** dns-packet's types leave out the response code. */
export const decoded = (answer: Buffer): DecodedPacket & { rcode: string } => dnsPacket.decode(answer) as DecodedPacket & { rcode: string }

export async function connection ({ from, server }: DnsClientOptions): Promise<Socket> {
  const socket = connect({ host: server.address, port: server.port, localAddress: from })
  await once(socket, 'connect')
  return socket
}

/** Writes bytes as they are and reads messages until there are `count`, or until the server ends the connection. */
export async function messagesOver (socket: Socket, bytes: Buffer, count: number): Promise<Buffer[]> {
  const answers: Buffer[] = []
  let received: Buffer = Buffer.alloc(0)
  const { promise, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, patienceMs)
  const onData = (chunk: Buffer): void => {
    received = Buffer.concat([received, chunk])
    while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
      answers.push(received.subarray(2, 2 + received.readUInt16BE(0)))
      received = received.subarray(2 + received.readUInt16BE(0))
    }
    if (answers.length >= count) resolve()
  }
  socket.on('data', onData).on('close', resolve).on('error', () => resolve()).resume()
  socket.write(bytes)
  await promise
  clearTimeout(timer)
  // What comes later waits for the next call.
  socket.off('data', onData).pause()
  return answers
}

export const framedQuery = (query: Buffer): Buffer => Buffer.concat([Buffer.of(query.length >> 8, query.length & 0xff), query])

/** An address of 127.0.0.0/8 that nothing else uses, and a port that is free there. */
export async function freeEndpoint (): Promise<{ address: string, port: number }> {
  const address = `127.${[1, 2, 3].map(() => 1 + Math.floor(Math.random() * 254)).join('.')}`
  const server = createServer().listen(0, address)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return { address, port }
}
