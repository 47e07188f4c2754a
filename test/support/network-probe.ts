/**
 * Tries what a hostile or an ordinary program would: runs inside a sandbox or in a network namespace, told what to do by lines of JSON,
 * `{"id": 1, "op": "tcp", "options": {…}}` → `{"id": 1, "value": …}`. Needs nothing but Node.
 *
 *     network-probe.ts                 lines come on standard input
 *     network-probe.ts serve PORT      lines come by TCP
 *     network-probe.ts dial HOST PORT  passes its standard input on to one that serves, and waits until it does
 */
import { createSocket } from 'node:dgram'
import { lookup, Resolver } from 'node:dns/promises'
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect, createServer, isIPv6, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import type { Duplex, Readable, Writable } from 'node:stream'

/** open: something came back; refused: a reset or an ICMP error; silent: nothing at all came back. */
export type Outcome = 'open' | 'refused' | 'silent'
export interface Target {
  address: string
  port: number
  /** What is sent at once. */
  text?: string
  localAddress?: string
  /** For how long an answer is waited for; 1500 when not given. */
  waitMs?: number
}
export interface Reached {
  outcome: Outcome
  /** What came first. */
  text: string
  /** The flow stays open under this number. */
  flow: number
}
export interface HttpAttempt { address: string, host: string, path?: string, port?: number, method?: string, body?: string, token?: string }
/** status 0: the connection was reset, or nothing came. `connection` tells apart on which of them it went. */
export interface HttpAnswer { status: number, text: string, connection: number }

export interface ProbeOps {
  tcp: (options: Target) => Promise<Reached>
  udp: (options: Target) => Promise<Reached>
  /** Requests one after the other, on one connection for as long as the other side keeps it. */
  http: (options: { requests: HttpAttempt[] }) => Promise<HttpAnswer[]>
  /** GET / over TLS; `name`: the SNI, and the Host unless that is given. */
  tls: (options: { address: string, name?: string, host?: string, path?: string, port?: number }) => Promise<HttpAnswer>
  /** As a program would: /etc/hosts, /etc/resolv.conf. The error's code where there is no answer. */
  lookup: (options: { name: string }) => Promise<{ addresses: string[], code?: string }>
  /** Asks a name server itself. */
  dns: (options: { name: string, server?: string, type?: 'A' | 'AAAA' }) => Promise<{ addresses: string[], code?: string }>
  /** So many connections at once, all held: how many of them are open. */
  many: (options: Target & { count: number }) => Promise<Record<Outcome, number>>
  /** What came by a flow since the last question for it, and whether it has ended. */
  flow: (options: { flow: number }) => Promise<{ received: number, isClosed: boolean }>
  send: (options: { flow: number, text: string }) => Promise<null>
  /** Bytes that come within a time, once the first has come. */
  download: (options: { address: string, ms: number }) => Promise<number>
  /** Bytes that the other side has got within half a second, as it says. */
  upload: (options: { address: string }) => Promise<number>
  /** Greets who comes with its address, then sends back what comes. */
  listen: (options: { protocol: 'tcp' | 'udp', port: number }) => Promise<null>
  ping: () => Promise<'pong'>
}
export type ProbeOp = keyof ProbeOps
export type ProbeOptions<Op extends ProbeOp> = Parameters<ProbeOps[Op]>[0]
export type ProbeValue<Op extends ProbeOp> = Awaited<ReturnType<ProbeOps[Op]>>

interface Held { received: number, isClosed: boolean, send: (text: string) => void, end: () => void }

const usualWaitMs = 1500
const flows: Held[] = []

function attempt (waitMs: number, begin: (settle: (outcome: Outcome, text?: string) => void) => Held): Promise<Reached> {
  return new Promise(resolve => {
    const held = begin((outcome, text = '') => {
      clearTimeout(timer)
      if (outcome !== 'open') held.end()
      resolve({ outcome, text: text.trim(), flow: flows.indexOf(held) })
    })
    flows.push(held)
    const timer = setTimeout(() => {
      held.end()
      resolve({ outcome: 'silent', text: '', flow: flows.indexOf(held) })
    }, waitMs)
  })
}

function tcp ({ address, port, text, localAddress, waitMs = usualWaitMs }: Target): Promise<Reached> {
  return attempt(waitMs, settle => {
    const socket = connect({ host: address, port, ...localAddress !== undefined && { localAddress } }, () => { if (text !== undefined) socket.write(text) })
    const held: Held = { received: 0, isClosed: false, send: more => socket.write(more), end: () => socket.destroy() }
    socket.on('data', data => {
      held.received += data.length
      settle('open', data.toString('latin1'))
    })
    socket.on('error', () => settle('refused'))
    socket.on('end', () => settle('refused'))
    socket.on('close', () => { held.isClosed = true })
    return held
  })
}

function udp ({ address, port, text = 'hello', localAddress, waitMs = usualWaitMs }: Target): Promise<Reached> {
  return attempt(waitMs, settle => {
    const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
    const held: Held = { received: 0, isClosed: false, send: more => socket.send(more, () => {}), end: () => { if (!held.isClosed) socket.close() } }
    socket.on('message', message => {
      held.received += message.length
      settle('open', message.toString('latin1'))
    })
    socket.on('error', () => settle('refused'))
    socket.on('close', () => { held.isClosed = true })
    socket.bind({ ...localAddress !== undefined && { address: localAddress } }, () => {
      socket.connect(port, address, () => socket.send(text, error => { if (error) settle('refused') }))
    })
    return held
  })
}

async function textOf (response: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of response) text += String(chunk)
  return text.trim()
}

async function http ({ requests }: { requests: HttpAttempt[] }): Promise<HttpAnswer[]> {
  const agent = new HttpAgent({ keepAlive: true, maxSockets: 1 })
  const sockets: Duplex[] = []
  const answers: HttpAnswer[] = []
  for (const { address, host, path = '/hello', port = 80, method = 'GET', body, token } of requests) {
    answers.push(await new Promise<HttpAnswer>(resolve => {
      let connection = -1
      const fail = () => resolve({ status: 0, text: '', connection })
      const request = httpRequest({ agent, host: address, port, path, method, headers: { host, ...token !== undefined && { authorization: `Bearer ${token}` } }, timeout: usualWaitMs }, response => {
        textOf(response).then(text => resolve({ status: response.statusCode ?? 0, text, connection }), fail)
      })
      request.on('socket', socket => { connection = sockets.includes(socket) ? sockets.indexOf(socket) : sockets.push(socket) - 1 })
      request.on('error', fail).on('timeout', () => request.destroy()).end(body)
    }))
  }
  agent.destroy()
  return answers
}

function tls ({ address, name, host = name ?? address, path = '/hello', port = 443 }: Parameters<ProbeOps['tls']>[0]): Promise<HttpAnswer> {
  return new Promise(resolve => {
    const fail = () => resolve({ status: 0, text: '', connection: 0 })
    const request = httpsRequest({ agent: false, host: address, port, path, servername: name ?? '', rejectUnauthorized: false, headers: { host }, timeout: usualWaitMs }, response => {
      textOf(response).then(text => resolve({ status: response.statusCode ?? 0, text, connection: 0 }), fail)
    })
    request.on('error', fail).on('timeout', () => request.destroy()).end()
  })
}

async function named (addresses: Promise<string[]>): Promise<{ addresses: string[], code?: string }> {
  return await addresses.then(found => ({ addresses: found.toSorted() }), (error: { code: string }) => ({ addresses: [], code: error.code }))
}

async function dns ({ name, server, type = 'A' }: Parameters<ProbeOps['dns']>[0]): Promise<{ addresses: string[], code?: string }> {
  const resolver = new Resolver({ timeout: usualWaitMs, tries: 1 })
  if (server !== undefined) resolver.setServers([server])
  return await named(type === 'A' ? resolver.resolve4(name) : resolver.resolve6(name))
}

async function download ({ address, ms }: { address: string, ms: number }): Promise<number> {
  const { outcome, flow } = await tcp({ address, port: 80, text: 'GET /stream HTTP/1.1\r\nHost: stream\r\n\r\n' })
  const held = flows[flow]
  if (outcome !== 'open' || held === undefined) return 0
  const before = held.received
  await delay(ms)
  held.end()
  return held.received - before
}

async function upload ({ address }: { address: string }): Promise<number> {
  return await new Promise(resolve => {
    const socket: Socket = connect({ host: address, port: 9 }, () => {
      const chunk = Buffer.alloc(64 * 1024, 'x')
      const push = () => { while (!socket.destroyed && socket.write(chunk)) { /* until it is full */ } }
      socket.on('drain', push)
      push()
    })
    socket.on('data', data => {
      resolve(Number(data.toString()))
      socket.destroy()
    })
    socket.on('error', () => resolve(0))
  })
}

function listen ({ protocol, port }: { protocol: 'tcp' | 'udp', port: number }): Promise<null> {
  return new Promise(resolve => {
    if (protocol === 'tcp') {
      const server = createServer(socket => {
        socket.on('error', () => {})
        socket.write(`${socket.remoteAddress?.replace('::ffff:', '')}\n`)
        socket.pipe(socket)
      })
      return void server.listen({ host: '::', port, backlog: 2000 }, () => resolve(null))
    }
    const sockets = (['udp4', 'udp6'] as const).map(type => createSocket({ type, ipv6Only: type === 'udp6' }))
    for (const socket of sockets) socket.on('message', (_message, peer) => socket.send(`${peer.address}\n`, peer.port, peer.address))
    void Promise.all(sockets.map(socket => new Promise<void>(resolve => socket.bind(port, resolve)))).then(() => resolve(null))
  })
}

const ops: ProbeOps = {
  tcp,
  udp,
  http,
  tls,
  dns,
  download,
  upload,
  listen,
  lookup: async ({ name }) => await named(lookup(name, { all: true }).then(found => found.map(({ address }) => address))),
  async many ({ count, ...target }) {
    const outcomes = { open: 0, refused: 0, silent: 0 }
    for (const { outcome } of await Promise.all(Array.from({ length: count }, () => tcp(target)))) outcomes[outcome]++
    return outcomes
  },
  async flow ({ flow }) {
    const held = flows[flow]
    const { received = 0, isClosed = true } = held ?? {}
    if (held) held.received = 0
    return { received, isClosed }
  },
  async send ({ flow, text }) {
    flows[flow]?.send(text)
    return null
  },
  ping: async () => 'pong',
}

function obey (input: Readable, output: Writable): void {
  createInterface({ input }).on('line', async line => {
    const { id, op, options } = JSON.parse(line) as { id: number, op: ProbeOp, options: never }
    const value = await ops[op](options)
    output.write(`${JSON.stringify({ id, value })}\n`)
  })
}

async function dialUntilServed (host: string, port: number): Promise<Socket> {
  for (;;) {
    const socket = connect({ host, port })
    if (await new Promise(resolve => socket.once('connect', () => resolve(true)).on('error', () => resolve(false)))) return socket
    await delay(20)
  }
}

// A write to a flow that has just been cut is what some of them are for.
process.on('uncaughtException', error => process.stderr.write(`${error.stack}\n`))
const [mode, ...args] = process.argv.slice(2)
if (mode === 'serve') {
  createServer(socket => obey(socket.on('error', () => {}), socket)).listen({ host: '::', port: Number(args[0]) })
} else if (mode === 'dial') {
  const socket = await dialUntilServed(args[0] ?? '', Number(args[1]))
  process.stdin.on('end', () => process.exit(0)).pipe(socket)
  socket.on('close', () => process.exit(0)).pipe(process.stdout)
} else {
  process.stdin.on('end', () => process.exit(0))
  obey(process.stdin, process.stdout)
}
