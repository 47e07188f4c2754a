import type { Server } from 'node:http'
import { isIPv6, type Socket } from 'node:net'
import { createDoor, type DoorOptions } from './door.ts'

export interface GatewayDoorOptions extends DoorOptions {
  /** Whether a connection from this address is let in. Its requests need a token all the same. */
  isWelcome: (address: string) => boolean
}

/**
 * The door of sandboxes that may reach the API: the addresses by which they know the host. The packet filter keeps the others away;
 * this one also refuses machines beside the host, to which a route may lead.
 */
export class GatewayDoor {
  readonly #options: GatewayDoorOptions
  readonly #servers: Server[] = []

  constructor (options: GatewayDoorOptions) {
    this.#options = options
  }

  /** Listens on each of these addresses, at one port. @throws EADDRINUSE and its kin. */
  async open (addresses: readonly string[], port: number): Promise<void> {
    for (const address of addresses) await this.#listen(address, port)
  }

  async close (): Promise<void> {
    await Promise.all(this.#servers.splice(0).map(async server => {
      const closed = new Promise<void>(resolve => server.close(() => resolve()))
      server.closeIdleConnections()
      await closed
    }))
  }

  async #listen (host: string, port: number): Promise<void> {
    const server = createDoor(this.#options)
    server.on('connection', (socket: Socket) => { if (!this.#options.isWelcome(socket.remoteAddress ?? '')) socket.destroy() })
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ host, port, ipv6Only: isIPv6(host) }, resolve)
    })
    this.#servers.push(server)
  }
}
