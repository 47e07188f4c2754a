/**
 * Opens connections and serves them, in the network namespace that it runs in, as told by lines of JSON: `{"id": 1, "op": "tcp", …}` →
 * `{"id": 1, "value": …}`. Servers greet with the peer's address, then send back what comes; `stream` has them send without end.
 */
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { connect, createServer, isIPv6, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { Nftables } from '../../src/host/nftables.ts'

export type Outcome = 'open' | 'refused' | 'silent'
export interface Attempt { address: string, port: number, localAddress?: string, waitMs: number }
export interface Flow { outcome: Outcome, greeting: string, flow: number }
export interface FlowStatus { received: number, isClosed: boolean }

interface Held extends FlowStatus { send: (text: string) => void, end: () => void }
interface AgentOps {
  listen: (options: { protocol: 'tcp' | 'udp', address: string, port: number }) => Promise<null>
  tcp: (options: Attempt) => Promise<Flow>
  udp: (options: Attempt) => Promise<Flow>
  many: (options: { attempts: Attempt[] }) => Promise<Record<Outcome, number>>
  status: (options: { flow: number }) => FlowStatus
  send: (options: { flow: number, text: string }) => null
  pour: (options: { flow: number }) => null
  /** Ends all flows from here and to here. */
  end: () => null
  load: (options: { commands: string }) => Promise<string>
  list: (options: { what: string }) => Promise<unknown[]>
}
export type AgentOp = keyof AgentOps
export type AgentOptions<Op extends AgentOp> = Parameters<AgentOps[Op]> extends [infer Options] ? Options : Record<string, never>
export type AgentValue<Op extends AgentOp> = Awaited<ReturnType<AgentOps[Op]>>

const betweenPiecesMs = 5
const streams = new Set<NodeJS.Timeout>()
let nftables: Nftables | undefined
const flows: Held[] = []
const accepted = new Set<Socket>()

function serveTcp (address: string, port: number, onReady: () => void): void {
  const server = createServer(socket => {
    accepted.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => accepted.delete(socket))
    socket.write(`${socket.remoteAddress}\n`)
    socket.on('data', data => {
      if (data.toString() !== 'stream') return void socket.write(data)
      streams.add(setInterval(() => { if (!socket.destroyed) socket.write('more') }, betweenPiecesMs))
    })
  })
  server.listen({ host: address, port, ipv6Only: address !== '::', backlog: 2000 }, onReady)
}

function serveUdp (address: string, port: number, onReady: () => void): void {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
  socket.on('error', () => {})
  socket.on('message', (message, peer) => {
    const reply = (): void => socket.send(`${peer.address}\n`, peer.port, peer.address, () => {})
    reply()
    if (message.toString() === 'stream') streams.add(setInterval(reply, betweenPiecesMs))
  })
  socket.bind({ address, port }, onReady)
}

function hold (send: (text: string) => void, end: () => void): Held {
  const held = { received: 0, isClosed: false, send, end }
  flows.push(held)
  return held
}

type Settle = (outcome: Outcome, greeting?: string) => void

function attempt (waitMs: number, begin: (settle: Settle) => Held): Promise<Flow> {
  return new Promise(resolve => {
    const settle: Settle = (outcome, greeting = '') => {
      clearTimeout(timer)
      if (outcome !== 'open') held.end()
      resolve({ outcome, greeting: greeting.trim().replace('::ffff:', ''), flow: flows.indexOf(held) })
    }
    const timer = setTimeout(settle, waitMs, 'silent')
    const held = begin(settle)
  })
}

function tcp ({ address, port, localAddress, waitMs }: Attempt): Promise<Flow> {
  return attempt(waitMs, settle => {
    const socket: Socket = connect({ host: address, port, ...localAddress !== undefined && { localAddress } })
    const held = hold(text => { if (!held.isClosed) socket.write(text) }, () => socket.destroy())
    socket.on('data', data => {
      held.received += data.length
      settle('open', data.toString())
    })
    socket.on('error', () => settle('refused'))
    socket.on('close', () => { held.isClosed = true })
    return held
  })
}

function udp ({ address, port, localAddress, waitMs }: Attempt): Promise<Flow> {
  return attempt(waitMs, settle => {
    const socket: DatagramSocket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
    const held = hold(text => { if (!held.isClosed) socket.send(text, () => {}) }, () => { if (!held.isClosed) socket.close() })
    socket.on('message', message => {
      held.received += message.length
      settle('open', message.toString())
    })
    socket.on('error', () => settle('refused'))
    socket.on('close', () => { held.isClosed = true })
    socket.bind({ ...localAddress !== undefined && { address: localAddress } }, () => socket.connect(port, address, () => socket.send('hello', error => { if (error) settle('refused') })))
    return held
  })
}

function flowOf (index: number): Held {
  const flow = flows[index]
  if (flow === undefined) throw new Error(`there is no flow ${index}`)
  return flow
}

const operations: AgentOps = {
  listen: ({ protocol, address, port }) => new Promise(resolve => (protocol === 'tcp' ? serveTcp : serveUdp)(address, port, () => resolve(null))),
  tcp,
  udp,
  async many ({ attempts }) {
    const outcomes = { open: 0, refused: 0, silent: 0 }
    for (const { outcome } of await Promise.all(attempts.map(tcp))) outcomes[outcome]++
    return outcomes
  },
  status: ({ flow }) => ({ received: flowOf(flow).received, isClosed: flowOf(flow).isClosed }),
  send ({ flow, text }) {
    flowOf(flow).send(text)
    return null
  },
  pour ({ flow }) {
    streams.add(setInterval(() => flowOf(flow).send('more'), betweenPiecesMs))
    return null
  },
  end () {
    for (const stream of streams) clearInterval(stream)
    streams.clear()
    for (const flow of flows) flow.end()
    // What is not acknowledged would be sent again for a long time.
    for (const socket of accepted) socket.resetAndDestroy()
    return null
  },
  async load ({ commands }) {
    nftables ??= Nftables.open()
    return await nftables.run(commands).then(() => '', (error: unknown) => String(error))
  },
  async list ({ what }) {
    nftables ??= Nftables.open()
    return await nftables.list(`list ${what}`)
  },
}

createInterface({ input: process.stdin }).on('line', async line => {
  const { id, op, ...options } = JSON.parse(line) as { id: number, op: AgentOp }
  const value = await (operations[op] as (options: unknown) => unknown)(options)
  process.stdout.write(`${JSON.stringify({ id, value })}\n`)
}).on('close', () => process.exit(0))
