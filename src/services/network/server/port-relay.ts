/** Holds the published ports of sandboxes on the host, and carries what comes there inside. */
import { createServer, type Server, type Socket } from 'node:net'
import { Mutex } from 'async-mutex'
import type { Logger } from 'pino'
import type { ServerPublishedPort } from './network-protocol.ts'
import { onEveryFamily, type Relay, type RelayOptions } from './relay-options.ts'
import { carrierOptions, cut, dial, join } from './socket-pair.ts'
import { openUdpRelay } from './udp-relay.ts'

export interface RelayTarget {
  ipv4: string
  ipv6: string
}

export interface PortRelaysOptions {
  /** `0.0.0.0`: every address of both families. */
  publishAddress: string
  logger: Logger
}

interface HeldPort extends ServerPublishedPort {
  address: string
  relay: Relay
}

export class PortRelays {
  readonly #options: PortRelaysOptions
  readonly #held = new Map<string, HeldPort[]>()
  readonly #mutex = new Mutex()

  constructor (options: PortRelaysOptions) {
    this.#options = options
  }

  /**
   * Has exactly these ports of a sandbox held; those that stay as they are keep their connections. Throws an Error with `code` and `port`
   * where one cannot be had (EADDRINUSE, EACCES): nothing is changed then.
   */
  async set (sandboxId: string, target: RelayTarget, ports: readonly ServerPublishedPort[]): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      const held = this.#held.get(sandboxId) ?? []
      const kept = held.filter(old => old.address === target.ipv4 && ports.some(port => isSame(old, port)))
      const wanted = ports.filter(port => !kept.some(old => isSame(old, port)))
      const gone = held.filter(old => !kept.includes(old))
      // The same port of the host for another one inside: it has to be free first.
      const moved = gone.filter(old => wanted.some(port => port.hostPort === old.hostPort && port.protocol === old.protocol))
      await closeAll(moved)
      const opened: HeldPort[] = []
      try {
        for (const port of wanted) opened.push(await this.#open(port, target.ipv4))
      } catch (error) {
        await closeAll(opened)
        this.#remember(sandboxId, [...held.filter(old => !moved.includes(old)), ...await this.#reopen(moved)])
        throw error
      }
      this.#remember(sandboxId, [...kept, ...opened])
      await closeAll(gone.filter(old => !moved.includes(old)))
    })
  }

  async remove (sandboxId: string): Promise<void> {
    await this.#mutex.runExclusive(async () => {
      const held = this.#held.get(sandboxId) ?? []
      this.#held.delete(sandboxId)
      await closeAll(held)
    })
  }

  async close (): Promise<void> {
    for (const sandboxId of [...this.#held.keys()]) await this.remove(sandboxId)
  }

  #remember (sandboxId: string, ports: HeldPort[]): void {
    if (ports.length === 0) this.#held.delete(sandboxId)
    else this.#held.set(sandboxId, ports)
  }

  async #open ({ port, hostPort, protocol }: ServerPublishedPort, address: string): Promise<HeldPort> {
    const { publishAddress, logger } = this.#options
    const openRelay = protocol === 'tcp' ? openTcpRelay : openUdpRelay
    try {
      const relay = await openRelay({ publishAddress, hostPort, target: { address, port }, logger })
      return { port, hostPort, protocol, address, relay }
    } catch (error) {
      throw Object.assign(new Error(`port ${hostPort}/${protocol} of ${publishAddress} cannot be held: ${(error as Error).message}`, { cause: error }), { code: (error as { code?: unknown }).code, port: hostPort })
    }
  }

  /** Best effort: they were ours a moment ago. */
  async #reopen (ports: HeldPort[]): Promise<HeldPort[]> {
    const tried = await Promise.allSettled(ports.map(async port => await this.#open(port, port.address)))
    return tried.flatMap(result => result.status === 'fulfilled' ? [result.value] : [])
  }
}

const isSame = (one: ServerPublishedPort, other: ServerPublishedPort): boolean =>
  one.hostPort === other.hostPort && one.port === other.port && one.protocol === other.protocol

const closeAll = async (ports: HeldPort[]): Promise<void> => { await Promise.all(ports.map(async ({ relay }) => await relay.close())) }

const connectTimeoutMs = 10_000
// So that one port cannot use up the descriptors of all.
const maximumConnections = 4_096

async function openTcpRelay ({ publishAddress, hostPort, target, logger }: RelayOptions): Promise<Relay> {
  const open = new Set<Socket>()
  const server = createServer({ ...carrierOptions, pauseOnConnect: true }, socket => {
    open.add(socket)
    socket.on('error', () => {}).once('close', () => open.delete(socket))
    carry(socket, target).catch(() => socket.destroy())
  })
  server.maxConnections = maximumConnections
  await onEveryFamily(publishAddress, async host => await listen(server, host, hostPort))
  server.on('error', error => logger.warn({ err: error, hostPort }, 'connections cannot be taken'))
  return {
    async close () {
      const closed = new Promise(resolve => server.close(resolve))
      for (const socket of open) cut(socket)
      await closed
    },
  }
}

async function carry (socket: Socket, { address, port }: RelayOptions['target']): Promise<void> {
  const { socket: inner, connected } = dial({ addresses: [address], port, timeoutMs: connectTimeoutMs, receiver: socket })
  socket.once('close', () => { if (inner.connecting) inner.destroy() })
  await connected
  join(socket, inner, { hasReceiver: true })
}

async function listen (server: Server, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen({ host, port, backlog: 1_024, ipv6Only: false }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
