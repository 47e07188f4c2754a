/** The one port of a test's S2 server: HTTP/1.1 and HTTP/2 on it, and all that can happen to its connections. */
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

export class S2StreamFront {
  /** Connections so far. */
  connections = 0
  readonly #backs: { http1: Server, http2: Server }
  readonly #sockets = new Set<Socket>()
  #server: Server | undefined
  #port = 0
  #isSilent = false

  /** Both listen already, each on a port of its own. */
  constructor (backs: { http1: Server, http2: Server }) {
    this.#backs = backs
  }

  get endpoint (): string { return `http://127.0.0.1:${this.#port}` }

  /** Listens: on a free port the first time, on the same one after that. */
  async comeBack (): Promise<void> {
    const server = createServer(socket => this.#admit(socket))
    this.#server = server
    await once(server.listen(this.#port, '127.0.0.1'), 'listening')
    this.#port = (server.address() as AddressInfo).port
  }

  /** Connections are refused and the open ones cut. */
  async goAway (): Promise<void> {
    const server = this.#server
    if (server === undefined) return
    this.#server = undefined
    const closed = once(server, 'close')
    server.close()
    this.cut()
    await closed
  }

  /** Connections, open and new ones, stay open, and not one byte is read or written. */
  fallSilent (): void {
    this.#isSilent = true
    this.silenceOpen()
  }

  /** The same for the open ones alone, as where a router has forgotten them. */
  silenceOpen (): void {
    for (const socket of this.#sockets) {
      socket.unpipe()
      socket.pause()
    }
  }

  /** Ends the silence, and the connections that it was on. */
  speak (): void {
    this.#isSilent = false
    this.cut()
  }

  /** Cuts all connections, as the death of a server does. */
  cut (): void {
    for (const socket of this.#sockets) socket.resetAndDestroy()
  }

  /** The first bytes tell which of the two servers behind is meant. */
  #admit (socket: Socket): void {
    this.connections++
    this.#keep(socket)
    if (this.#isSilent) {
      socket.pause()
      return
    }
    socket.once('data', (first: Buffer) => {
      const { http1, http2 } = this.#backs
      const inner = first.toString('latin1', 0, 3) === 'PRI' ? http2 : http1
      const back = connect((inner.address() as AddressInfo).port, '127.0.0.1')
      this.#keep(back)
      socket.once('close', () => back.destroy())
      back.once('close', () => socket.destroy())
      back.write(first)
      if (this.#isSilent) socket.pause()
      else socket.pipe(back).pipe(socket)
    })
  }

  #keep (socket: Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('close', () => this.#sockets.delete(socket))
  }
}
