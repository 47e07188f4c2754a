/** The sockets of a name server: datagrams, and connections on which messages follow one another (RFC 7766). */
import { createSocket, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer, isIPv6, type Server, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { framed } from './dns-exchange.ts'

export type DnsTransport = 'udp' | 'tcp'

export interface DnsListenerOptions {
  /** The answer to a query, undefined when there is to be none. Never rejects. */
  answer: (query: Buffer, source: string, transport: DnsTransport) => Promise<Buffer | undefined>
  /** What to call when a connection of this source ends; undefined: it may have no further one. */
  admit: (source: string) => (() => void) | undefined
  logger: Logger
  /** A connection on which nothing happens is ended, in milliseconds. */
  idleMs?: number
  /** Queries of one connection that are answered at once; the others wait in the network. */
  maximumPipelined?: number
}

/** Longer ones are no questions. */
export const maximumQueryBytes = 4_096
/** Answers that a client does not take pile up to here; then no more of its questions are read. */
const maximumUnsentBytes = 128 * 1_024
// What bursts fit in; the kernel gives less where its own limit is lower.
const receiveBufferBytes = 1_024 * 1_024

export class DnsListener {
  readonly #options: Required<DnsListenerOptions>
  readonly #udp: UdpSocket[] = []
  readonly #servers: Server[] = []
  readonly #connections = new Set<Socket>()

  constructor (options: DnsListenerOptions) {
    this.#options = { idleMs: 10_000, maximumPipelined: 16, ...options }
  }

  /** Listens on all these addresses or, rejecting, on none. */
  async listen (addresses: readonly string[], port: number): Promise<void> {
    try {
      for (const address of addresses) {
        await this.#listenUdp(address, port)
        await this.#listenTcp(address, port)
      }
    } catch (error) {
      await this.close()
      throw error
    }
  }

  async close (): Promise<void> {
    const ends = [...this.#udp.splice(0).map(async socket => await new Promise<void>(resolve => socket.close(() => resolve()))),
      ...this.#servers.splice(0).map(async server => await new Promise<void>(resolve => server.close(() => resolve())))]
    for (const connection of this.#connections) connection.destroy()
    await Promise.all(ends)
  }

  async #listenUdp (address: string, port: number): Promise<void> {
    const { answer, logger } = this.#options
    const socket = createSocket({ type: isIPv6(address) ? 'udp6' : 'udp4', recvBufferSize: receiveBufferBytes, ...isIPv6(address) && { ipv6Only: true } })
    let isOpen = true
    socket.on('message', (query, { address: source, port: sourcePort }) => {
      void answer(query, source, 'udp').then(response => {
        // Whether it arrives is the client's concern: it asks again.
        if (response !== undefined && isOpen) socket.send(response, sourcePort, source, () => undefined)
      })
    })
    socket.once('close', () => { isOpen = false })
    socket.bind({ address, port, exclusive: true })
    try {
      await once(socket, 'listening')
    } catch (error) {
      socket.close()
      throw error
    }
    socket.on('error', error => logger.warn({ err: error }, 'a socket of the name server failed'))
    this.#udp.push(socket)
  }

  async #listenTcp (address: string, port: number): Promise<void> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, socket => this.#serve(socket))
    server.listen({ host: address, port, exclusive: true })
    await once(server, 'listening')
    server.on('error', error => this.#options.logger.warn({ err: error }, 'a socket of the name server failed'))
    this.#servers.push(server)
  }

  #serve (socket: Socket): void {
    const { admit, idleMs } = this.#options
    const source = socket.remoteAddress
    const release = source === undefined ? undefined : admit(source)
    socket.on('error', () => socket.destroy())
    if (source === undefined || release === undefined) {
      socket.resetAndDestroy()
      return
    }
    this.#connections.add(socket)
    socket.once('close', () => {
      this.#connections.delete(socket)
      release()
    })
    socket.setTimeout(idleMs, () => socket.destroy())
    this.#answerAll(socket, source)
  }

  #answerAll (socket: Socket, source: string): void {
    const { answer, maximumPipelined } = this.#options
    let received: Buffer = Buffer.alloc(0)
    let running = 0
    let hasEnded = false
    const proceed = (): void => {
      while (running < maximumPipelined && socket.writableLength < maximumUnsentBytes && received.length >= 2) {
        const size = received.readUInt16BE(0)
        if (size > maximumQueryBytes) return void socket.destroy()
        if (received.length < 2 + size) break
        const query = received.subarray(2, 2 + size)
        received = received.subarray(2 + size)
        running++
        void answer(query, source, 'tcp').then(response => {
          running--
          if (socket.destroyed) return
          if (response !== undefined) socket.write(framed(response))
          proceed()
        })
      }
      const isBusy = running >= maximumPipelined || socket.writableLength >= maximumUnsentBytes
      if (isBusy) socket.pause()
      else if (socket.isPaused()) socket.resume()
      if (hasEnded && running === 0 && !isBusy) socket.end()
    }
    socket.on('drain', proceed)
    socket.on('end', () => {
      hasEnded = true
      proceed()
    })
    socket.on('data', chunk => {
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
      proceed()
    })
  }
}
