/** The transparent proxy for ports 80 and 443 of sandboxes whose rules name domains: who connects is known by the source address. */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Logger } from 'pino'
import type { Destination } from '../../../host/original-destination.ts'
import type { Pools } from '../address-classes.ts'
import { EgressClient } from './egress-client.ts'
import { EgressRouter, readOwnAddresses } from './egress-route.ts'
import { createHttpEgress } from './http-egress.ts'
import type { Decision, ServerPolicy } from './network-protocol.ts'
import { carrierOptions, cut, dial, type Dial } from './socket-pair.ts'
import { carryTls } from './tls-egress.ts'

export interface EgressProxyOptions {
  /** By the source address of a packet, in its usual form. */
  policyOf: (sourceAddress: string) => ServerPolicy | undefined
  /** Rejects when no name server answers. */
  resolve: (name: string, family: 4 | 6) => Promise<{ addresses: string[], ttlSeconds: number }>
  pools: Pools
  originalDestination: (socket: Socket) => Destination | undefined
  hostAddresses?: () => ReadonlySet<string>
  record: (decision: Decision) => void
  logger: Logger
  dial?: Dial
  helloTimeoutMs?: number
  connectTimeoutMs?: number
  maximumConnections?: number
}

type Kind = 'http' | 'tls'

const standardPorts: Readonly<Record<Kind, number>> = { http: 80, tls: 443 }

export class EgressProxy {
  readonly #options: Required<EgressProxyOptions>
  readonly #router: EgressRouter
  readonly #servers: Server[] = []
  readonly #clients = new Map<Socket, EgressClient>()
  readonly #bySandbox = new Map<string, Set<EgressClient>>()

  constructor (options: EgressProxyOptions) {
    this.#options = { hostAddresses: readOwnAddresses(), dial, helloTimeoutMs: 5_000, connectTimeoutMs: 10_000, maximumConnections: 1_024, ...options }
    this.#router = new EgressRouter(this.#options)
  }

  /** Connections of sandboxes that are open. */
  get connections (): number {
    return this.#clients.size
  }

  /** Listens on both ports of every address, or on none: throws the error of the one that fails. Answers where. */
  async listen (addresses: readonly string[], ports: Readonly<Record<Kind, number>> = standardPorts): Promise<Record<Kind, AddressInfo[]>> {
    const bound: Record<Kind, AddressInfo[]> = { http: [], tls: [] }
    try {
      for (const address of addresses) {
        for (const kind of ['http', 'tls'] as const) {
          const server = kind === 'http' ? this.#httpServer() : this.#tlsServer()
          this.#servers.push(server)
          server.on('error', error => this.#options.logger.warn({ err: error, address }, 'connections cannot be taken'))
          bound[kind].push(await listening(server, address, ports[kind]))
        }
      }
      return bound
    } catch (error) {
      await this.close()
      throw error
    }
  }

  /** Judges every connection of a sandbox again; those that its policy does not allow any more are cut at once. */
  policyChanged (sandboxId: string): void {
    for (const client of [...this.#bySandbox.get(sandboxId) ?? []]) client.policyChanged()
  }

  /** Cuts every connection of a sandbox. */
  forget (sandboxId: string): void {
    for (const client of [...this.#bySandbox.get(sandboxId) ?? []]) client.cut()
  }

  /** Stops listening and cuts every connection. */
  async close (): Promise<void> {
    const servers = this.#servers.splice(0)
    const closed = servers.map(async server => { if (server.listening) await new Promise(resolve => server.close(resolve)) })
    for (const client of [...this.#clients.values()]) client.cut()
    await Promise.all(closed)
  }

  #httpServer (): Server {
    const { helloTimeoutMs, connectTimeoutMs } = this.#options
    const server = createHttpEgress({ clientOf: socket => this.#clients.get(socket), headTimeoutMs: 2 * helloTimeoutMs, connectTimeoutMs, port: standardPorts.http })
    // Before Node reads from it.
    return server.prependListener('connection', (socket: Socket) => { this.#accept(socket, 'http') })
  }

  #tlsServer (): Server {
    const { helloTimeoutMs, connectTimeoutMs } = this.#options
    return createServer(carrierOptions, socket => {
      const client = this.#accept(socket, 'tls')
      if (client === undefined) return
      carryTls(client, { helloTimeoutMs, connectTimeoutMs, port: standardPorts.tls }).catch((error: unknown) => {
        this.#options.logger.error({ err: error, sandboxId: client.sandboxId }, 'a connection could not be carried')
        client.cut()
      })
    })
  }

  /** Knows whose connection it is, or resets it. */
  #accept (socket: Socket, kind: Kind): EgressClient | undefined {
    const { policyOf, originalDestination, dial, record, maximumConnections } = this.#options
    socket.on('error', () => {})
    socket.setKeepAlive(true, carrierOptions.keepAliveInitialDelay)
    const source = unmapped(socket.remoteAddress)
    const policy = policyOf(source)
    if (policy?.egress.isProxied !== true) {
      cut(socket)
      return undefined
    }
    const { sandboxId } = policy
    const clients = this.#bySandbox.get(sandboxId) ?? new Set()
    const original = originalDestination(socket)
    if (clients.size >= maximumConnections) {
      const port = original?.port ?? standardPorts[kind]
      record({ sandboxId, kind, action: 'denied', reason: 'too_many_connections', protocol: 'tcp', ...original && { address: original.address }, port })
      cut(socket)
      return undefined
    }
    const client = new EgressClient({ socket, sandboxId, original, policyOf: () => policyOf(source), router: this.#router, dial, record })
    this.#clients.set(socket, client)
    this.#bySandbox.set(sandboxId, clients.add(client))
    socket.once('close', () => {
      this.#clients.delete(socket)
      clients.delete(client)
      if (clients.size === 0 && this.#bySandbox.get(sandboxId) === clients) this.#bySandbox.delete(sandboxId)
    })
    return client
  }
}

/** A server of both families has IPv4 addresses as `::ffff:10.0.0.1`. */
const unmapped = (address = ''): string => address.replace(/^::ffff:(?=\d+\.)/i, '')

async function listening (server: Server, host: string, port: number): Promise<AddressInfo> {
  await new Promise<void>((resolve, reject) => { server.once('error', reject).listen({ host, port, backlog: 1_024 }, resolve) })
  return server.address() as AddressInfo
}
