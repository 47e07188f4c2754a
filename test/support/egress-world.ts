/** A proxy on loopback with a sandbox before it and servers behind it, which have addresses of the outside by name only. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import type { Egress } from '../../src/schemas/network.ts'
import { parseEgress } from '../../src/services/network/egress-policy.ts'
import { EgressProxy, type EgressProxyOptions } from '../../src/services/network/server/egress-proxy.ts'
import type { Decision, ServerPolicy } from '../../src/services/network/server/network-protocol.ts'
import { dial, type Dial } from '../../src/services/network/server/socket-pair.ts'

const pools = { pool4: '10.200.0.0/16', pool6: 'fd00:a1b2::/64' }
export const sandboxAddress = '127.77.0.2'

export interface EgressWorld {
  proxy: EgressProxy
  decisions: Decision[]
  /** What was connected to outside, as `address:port`. */
  dialled: string[]
  names: Record<string, string[]>
  /** Where packets of the connections to come were sent to. */
  meant: { address: string, port: number } | undefined
  setEgress: (egress: Egress | undefined) => void
  /** Has a server answer at an address and port of the outside. */
  place: (address: string, port: number, server: net.Server) => Promise<void>
  /** A connection of the sandbox, or of someone else. */
  connect: (kind: 'http' | 'tls', from?: string) => net.Socket
  port: (kind: 'http' | 'tls') => number
}

export async function buildEgressWorld (t: TestContext, egress: Egress, options: Partial<EgressProxyOptions> = {}): Promise<EgressWorld> {
  const places = new Map<string, number>()
  const decisions: Decision[] = []
  const dialled: string[] = []
  const servers = new Set<net.Server>()
  const sockets = new Set<net.Socket>()
  const policyFor = (wanted: Egress): ServerPolicy =>
    ({ sandboxId: 'sbx_test', device: 'bv0', ipv4: sandboxAddress, ipv6: 'fd00:a1b2::2', egress: parseEgress(wanted, pools), hasGateway: false, publish: [] })
  let policy: ServerPolicy | undefined = policyFor(egress)
  const dialHere: Dial = ({ addresses, port, ...rest }) => {
    const [address = ''] = addresses
    dialled.push(`${address}:${port}`)
    // Nobody listens on port 1.
    const { socket, connected } = dial({ addresses: ['127.0.0.1'], port: places.get(`${address}:${port}`) ?? 1, ...rest })
    sockets.add(socket)
    return { socket, connected: connected.then(() => address) }
  }
  const proxy = new EgressProxy({
    policyOf: address => address === policy?.ipv4 ? policy : undefined,
    async resolve (name, family) {
      const all = world.names[name]
      if (all === undefined) throw new Error('no answer')
      return { addresses: all.filter(address => address.includes(':') === (family === 6)), ttlSeconds: 60 }
    },
    pools,
    originalDestination: () => world.meant,
    hostAddresses: () => new Set(['198.51.100.1']),
    record: decision => decisions.push(decision),
    logger: pino({ level: 'silent' }),
    dial: dialHere,
    ...options,
  })
  const bound = await proxy.listen(['127.0.0.1'], { http: 0, tls: 0 })
  const world: EgressWorld = {
    proxy,
    decisions,
    dialled,
    names: {},
    meant: { address: '203.0.113.250', port: 443 },
    port: kind => bound[kind][0]?.port ?? 0,
    setEgress (wanted) {
      policy = wanted === undefined ? undefined : policyFor(wanted)
      proxy.policyChanged('sbx_test')
    },
    async place (address, port, server) {
      servers.add(server)
      server.on('connection', (socket: net.Socket) => sockets.add(socket.on('error', () => {})))
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
      places.set(`${address}:${port}`, (server.address() as net.AddressInfo).port)
    },
    connect (kind, from = sandboxAddress) {
      const socket = net.connect({ port: world.port(kind), host: '127.0.0.1', localAddress: from, allowHalfOpen: true })
      sockets.add(socket.on('error', () => {}))
      return socket
    },
  }
  t.after(async () => {
    await proxy.close()
    for (const server of servers) server.close()
    for (const socket of sockets) socket.destroy()
    await until(() => proxy.connections === 0)
  })
  return world
}

/** Waits until something holds; fails after five seconds. */
export async function until (holds: () => boolean): Promise<void> {
  const endMs = performance.now() + 5_000
  while (!holds()) {
    assert.ok(performance.now() < endMs, 'it does not come true')
    await new Promise(resolve => setTimeout(resolve, 2))
  }
}

/** How a socket ends: `ECONNRESET` and the like, or `ended` after this text. */
export async function ending (socket: net.Socket): Promise<string> {
  let text = ''
  let code: string | undefined
  socket.on('data', (chunk: Buffer) => { text += chunk.toString('latin1') })
  socket.on('error', (error: NodeJS.ErrnoException) => { code = error.code })
  if (!socket.closed) await new Promise<void>(resolve => { socket.once('end', resolve).once('close', () => resolve()) })
  return code ?? `ended ${text}`
}
