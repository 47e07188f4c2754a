/** The HTTP side of the proxy: every request is judged by its own Host, also those that share a connection. */
import { createServer, type IncomingMessage, type Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { PolicyDecision } from '../egress-policy.ts'
import type { EgressClient, EgressUse } from './egress-client.ts'
import { EgressRefusal, type EgressTarget, type EgressRuling } from './egress-route.ts'
import { forwardRequest, type UpstreamAgent, makeUpstreamAgent } from './http-forwarding.ts'
import { askedHost } from './http-heads.ts'
import { cut } from './socket-pair.ts'

export interface HttpEgressOptions {
  /** Whose connection it is; undefined for one that has been refused. */
  clientOf: (socket: Socket) => EgressClient | undefined
  headTimeoutMs: number
  connectTimeoutMs: number
  port: number
}

const maximumHeadBytes = 64 * 1024
const checkIntervalMs = 2_000
const idleTimeoutMs = 65_000
// Clients that send requests without waiting for answers are rare; apt sends ten.
const maximumWaiting = 32
// A client that still sends its body when it is refused gets this long to read why.
const refusalLingerMs = 1_000

/** What a connection is at: its requests are served one after the other. */
interface Conversation {
  client: EgressClient
  agent: UpstreamAgent
  waiting: number
  last: Promise<void>
}

export function createHttpEgress (options: HttpEgressOptions): Server {
  const conversations = new WeakMap<Socket, Conversation>()
  const server = createServer({
    insecureHTTPParser: false,
    maxHeaderSize: maximumHeadBytes,
    headersTimeout: options.headTimeoutMs,
    requestTimeout: 0,
    // HTTP/1.0 has none; askedHost looks.
    requireHostHeader: false,
    connectionsCheckingInterval: Math.min(checkIntervalMs, options.headTimeoutMs),
    keepAliveTimeout: idleTimeoutMs,
    // To HTTP/2 in the clear, for one, nothing changes: its requests could not be judged one by one.
    shouldUpgradeCallback: request => request.headers.upgrade?.toLowerCase() === 'websocket',
  })
  // The size of a head is bounded; fields beyond a number would be dropped in silence.
  server.maxHeadersCount = 0
  // A client that has sent its last request and said so still gets its answers.
  Object.assign(server, { httpAllowHalfOpen: true })
  const take = (request: IncomingMessage, response?: ServerResponse, head?: Buffer): void => {
    const { socket } = request
    const conversation = conversations.get(socket) ?? open(socket)
    if (conversation === undefined) return
    // What Node lets go of in the midst of other answers cannot be put in order.
    if (conversation.waiting >= (response === undefined ? 1 : maximumWaiting)) return conversation.client.cut()
    conversation.waiting++
    const given = response ?? detached(request)
    conversation.last = conversation.last
      .then(async () => { if (socket.writable) await serve(conversation, request, given, head, options) })
      .catch(conversation.client.cut)
      .finally(() => {
        conversation.waiting--
        endIfIdle(conversation)
      })
  }
  const endIfIdle = ({ client, waiting }: Conversation): void => {
    if (waiting === 0 && client.socket.readableEnded) client.socket.end()
  }
  const open = (socket: Socket): Conversation | undefined => {
    const client = options.clientOf(socket)
    if (client === undefined) {
      cut(socket)
      return undefined
    }
    const agent = makeUpstreamAgent()
    client.dropIdle = () => agent.dropIdle()
    const conversation = { client, agent, waiting: 0, last: Promise.resolve() }
    socket.once('end', () => endIfIdle(conversation)).once('close', () => agent.close())
    conversations.set(socket, conversation)
    return conversation
  }
  /** Node has let go of the connection; nothing but the answer is written by its rules. */
  const detached = (request: IncomingMessage): ServerResponse => {
    const response = new ServerResponse(request)
    response.shouldKeepAlive = false
    response.assignSocket(request.socket)
    response.once('finish', () => request.socket.destroySoon())
    return response
  }
  server.on('request', take)
  server.on('checkContinue', take)
  server.on('upgrade', (request, _socket, head) => take(request, undefined, head))
  server.on('connect', request => take(request))
  return server
}

/** Serves one request; resolves when its connection is free for the next one. */
async function serve (conversation: Conversation, request: IncomingMessage, response: ServerResponse, head: Buffer | undefined, options: HttpEgressOptions): Promise<void> {
  const { client, agent } = conversation
  const { original } = client
  const isTunnel = request.method === 'CONNECT'
  const asked = isTunnel ? { problem: 'CONNECT is not for this place' } : askedHost(request)
  const name = asked.problem === undefined ? asked.name : undefined
  const target: EgressTarget = { kind: 'http', port: original?.port ?? options.port, ...name !== undefined && { name }, ...original !== undefined && { original } }
  const policy = client.policy()
  if (policy === undefined) return client.cut()
  if (asked.problem !== undefined) {
    client.record(target, { action: 'denied', reason: 'no_name' })
    return await answer(request, response, isTunnel ? 405 : 400, `The request is not understood: ${asked.problem}.`)
  }
  const ruling = client.router.rule(policy, target)
  if (ruling.by === undefined) {
    client.record(target, ruling)
    return await refuse(request, response, target, ruling)
  }
  const use = client.begin(target)
  try {
    await forward({ client, agent, request, response, use, ruling, by: ruling.by, connectTimeoutMs: options.connectTimeoutMs, ...head !== undefined && { head } })
  } finally {
    client.end(use)
  }
}

interface Forwarding {
  client: EgressClient
  agent: UpstreamAgent
  request: IncomingMessage
  response: ServerResponse
  use: EgressUse
  ruling: EgressRuling
  by: 'name' | 'address'
  connectTimeoutMs: number
  /** With a change of protocol: what came after the request. */
  head?: Buffer
}

async function forward ({ client, agent, request, response, use, ruling, by, connectTimeoutMs, head }: Forwarding): Promise<void> {
  const { target } = use
  let meant = target.original?.address
  let isRecorded = false
  const open = async (): Promise<Socket> => {
    const route = await client.router.route(target, by, client.policy)
    if (route === undefined || client.socket.destroyed) throw new Error('the sandbox is gone')
    meant = route.addresses[0]
    const { socket: upstream, connected } = client.dial({ ...route, timeoutMs: connectTimeoutMs })
    use.upstream = upstream
    use.address = await connected
    agent.addresses.set(upstream, use.address)
    if (!client.mayGoOn(use)) {
      client.record(target, { action: 'denied', reason: 'no_rule' }, use.address)
      cut(upstream)
      client.cut()
    }
    return upstream
  }
  const outcome = await forwardRequest({
    request,
    response,
    agent,
    open,
    host: hostOf(target),
    key: `${by} ${by === 'name' ? target.name : target.original?.address} ${target.port}`,
    ...head !== undefined && { head },
    onUpstream: upstream => {
      use.upstream = upstream
      use.address = agent.addresses.get(upstream) ?? meant
      isRecorded = true
      client.record(target, ruling, use.address)
    },
  })
  if (outcome.state === 'done' || client.socket.destroyed) return
  if (outcome.state === 'broken') return client.cut()
  const { error } = outcome
  if (error instanceof EgressRefusal) {
    client.record(target, error.decision, error.address)
    if (error.decision.reason === 'unresolvable') return await answer(request, response, 502, `${target.name} could not be resolved.`)
    return await refuse(request, response, target, error.decision)
  }
  if (!isRecorded) client.record(target, ruling, meant)
  await answer(request, response, 502, `${hostOf(target)} could not be reached.`)
}

const hostOf = ({ name, original }: EgressTarget): string => name ?? original?.address ?? 'the address'

const explanations: Partial<Record<PolicyDecision['reason'], string>> = {
  private_address: 'it is, or resolves to, a private address, which needs an entry of its own',
  forbidden_address: 'it is, or resolves to, an address that no sandbox may reach',
  host_port: 'it is, or resolves to, an address of the host',
}

/** For whoever is inside: people and programs that read it know at once that it is not the server that refuses. */
async function refuse (request: IncomingMessage, response: ServerResponse, target: EgressTarget, { reason, entry }: PolicyDecision): Promise<void> {
  const why = entry === undefined ? explanations[reason] ?? 'nothing in its egress rules allows it' : `its egress rules deny ${entry}`
  await answer(request, response, 403, `${hostOf(target)} is not allowed for this sandbox: ${why}.`)
}

/** Answers by ourselves, and closes. */
async function answer (request: IncomingMessage, response: ServerResponse, status: number, text: string): Promise<void> {
  if (response.headersSent || response.destroyed) return
  const body = Buffer.from(`berth: ${text}\n`)
  response.shouldKeepAlive = false
  const closed = new Promise<void>(resolve => response.once('close', resolve))
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', 'Content-Length': body.length, Connection: 'close' })
  response.write(body)
  // Closing with unread bytes would reset the connection, and the answer with it.
  await drained(request)
  response.end()
  // One that was made for a connection that Node has let go of is never closed by it.
  if (!response.writableFinished) await Promise.race([closed, new Promise(resolve => response.once('finish', resolve))])
}

async function drained (request: IncomingMessage): Promise<void> {
  if (request.complete || request.destroyed) return
  let timer: NodeJS.Timeout | undefined
  await new Promise<void>(resolve => {
    timer = setTimeout(resolve, refusalLingerMs)
    request.once('end', resolve).once('close', resolve).resume()
  })
  clearTimeout(timer)
}
