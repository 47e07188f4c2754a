/** Networks of sandboxes over REST: what they may reach, what was decided about it, what listens inside. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import {
  DecisionAction, DecisionGap, DecisionKind, DecisionPage, ListeningPorts, Network, NetworkDecision, NetworkRequest, NetworkStatus,
  type DecisionAction as Action, type DecisionKind as Kind, type Traffic,
} from '../schemas/network.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { SandboxId, Words } from '../schemas/wire.ts'
import { SeqCursor, startingSeq } from './events.ts'
import { errorResponses } from './http-errors.ts'
import { Limit } from './sandboxes.ts'
import { chosenFormat, recordEncoder, sendStream, type StreamContext } from './streaming.ts'

export interface DecisionFilter {
  sandboxId: string
  /** Only decisions with a greater seq. */
  after?: number
  action?: Action
  kind?: Kind
}

/** What these routes need of the sandbox service. All throw not_found. */
export interface NetworkedSandboxes {
  get: (id: string) => Sandbox
  /** Answers when the rules are in force. */
  setNetwork: (id: string, request: NetworkRequest) => Promise<Sandbox>
}

/** What these routes need of the decision log. */
export interface Decisions {
  /** Of the newest decision, 0 before the first. */
  readonly lastSeq: number
  list: (filter: DecisionFilter & { limit: number }) => NetworkDecision[]
  /** Says that decisions behind `after` are gone. */
  gap: (sandboxId: string, after?: number) => DecisionGap | undefined
  follow: (filter: DecisionFilter & { signal: AbortSignal }) => AsyncIterable<NetworkDecision | DecisionGap>
}

/** What these routes need to say what listens inside. */
export interface Ports {
  list: (sandboxId: string) => Promise<Array<{ port: number, address: string, isLoopback: boolean }>>
}

export interface NetworkRouteOptions {
  sandboxes: NetworkedSandboxes
  decisions: Decisions
  ports: Ports
  /** Bytes that have passed; undefined while the sandbox has no network. */
  traffic: { traffic: (sandboxId: string) => Promise<Traffic | undefined> }
  streams: StreamContext
}

const Params = Type.Object({ id: SandboxId }, { additionalProperties: false })

const DecisionQuery = Type.Object({
  cursor: SeqCursor,
  limit: Limit,
  action: Type.Optional(DecisionAction),
  kind: Type.Optional(DecisionKind),
  follow: Type.Boolean({ default: false, description: 'Stream decisions as they are made, without a cursor from this moment on; with cursor=0 all that are kept come first' }),
  format: Type.Optional(Words(['json', 'ndjson', 'sse'], { description: 'ndjson and sse stream; an Accept header says the same' })),
}, { additionalProperties: false })

const tags = ['network']

export const networkRoutes: FastifyPluginAsyncTypebox<NetworkRouteOptions> = async (app, { sandboxes, decisions, ports, traffic, streams }) => {
  app.get('/sandboxes/:id/network', {
    schema: {
      operationId: 'getNetwork',
      summary: 'Get the network of a sandbox, and what has passed through it',
      tags,
      params: Params,
      response: { 200: ref(NetworkStatus, { description: 'The network; addresses and traffic only while the sandbox has one' }), ...errorResponses(404) },
    },
  }, async request => {
    const { id } = request.params
    const { network } = sandboxes.get(id)
    const passed = await traffic.traffic(id)
    return { ...network, ...passed && { traffic: passed } }
  })

  app.put('/sandboxes/:id/network', {
    schema: {
      operationId: 'setNetwork',
      summary: 'Replace what a sandbox may reach and publishes',
      description: 'The body is the whole wish: what it leaves out falls back to its default, not to what was. Answers when it is in force; connections that it forbids are cut at once. When it cannot be put in force, what was stays.',
      tags,
      params: Params,
      body: ref(NetworkRequest),
      response: { 200: ref(Network, { description: 'The network as it is from here on' }), ...errorResponses(404, 409, 413, 415, 429, 504) },
    },
  }, async request => (await sandboxes.setNetwork(request.params.id, request.body)).network)

  app.get('/sandboxes/:id/network/decisions', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'readNetworkDecisions',
      summary: 'Read or follow what was decided about the network of a sandbox',
      description: 'Names that were asked for, connections that were denied or went through the proxy, packets that the filter dropped. Each sandbox keeps so many; where some are gone, `gap` (in streams a record of type gap) says so.',
      tags,
      params: Params,
      querystring: DecisionQuery,
      response: {
        200: {
          description: 'A page of decisions, or decisions while they are made',
          content: {
            'application/json': { schema: ref(DecisionPage) },
            'application/x-ndjson': { schema: Type.Union([ref(NetworkDecision), ref(DecisionGap)]) },
            'text/event-stream': { schema: Type.String({ description: 'Messages whose id is the seq, whose event is decision or gap, and whose data is the NetworkDecision or DecisionGap' }) },
          },
        },
        ...errorResponses(404),
      },
    },
  }, async (request, reply) => {
    const sandboxId = sandboxes.get(request.params.id).id
    const { action, kind, limit, follow, cursor, format: asked } = request.query
    const after = startingSeq(request, cursor)
    const filter = { sandboxId, ...after !== undefined && { after }, ...action && { action }, ...kind && { kind } }
    const chosen = chosenFormat(request, asked)
    if (!follow && chosen !== 'sse' && chosen !== 'ndjson') return page(decisions.list({ ...filter, limit }), limit, decisions.gap(sandboxId, after))
    const format = chosen === 'sse' ? 'sse' : 'ndjson'
    return sendStream<NetworkDecision | DecisionGap>(reply, {
      ...recordEncoder(format, one => ({ id: String(one.seq), event: 'type' in one ? 'gap' : 'decision' })),
      format,
      context: streams,
      open: signal => decisions.follow({ ...filter, after: after ?? decisions.lastSeq, signal }),
    })
  })

  app.get('/sandboxes/:id/ports', {
    schema: {
      operationId: 'listPorts',
      summary: 'List the TCP ports that programs inside a sandbox listen on',
      description: 'As the sandbox says it: a helper inside reads its socket tables.',
      tags,
      params: Params,
      response: { 200: ref(ListeningPorts, { description: 'By port and address' }), ...errorResponses(404, 409, 429, 504) },
    },
  }, async request => {
    const { id, network } = sandboxes.get(request.params.id)
    const listening = await ports.list(id)
    const hostPorts = new Map(network.publish.filter(({ protocol }) => protocol === 'tcp').map(({ port, hostPort }) => [port, hostPort]))
    const items = listening.map(({ port, address, isLoopback }) => {
      const hostPort = hostPorts.get(port)
      return { port, protocol: 'tcp' as const, address, isLoopback, ...hostPort !== undefined && { hostPort }, path: `/v1/sandboxes/${id}/ports/${port}/` }
    })
    return { items }
  })
}

function page (items: NetworkDecision[], limit: number, gap: DecisionGap | undefined): DecisionPage {
  const last = items.at(-1)
  return { items, ...last !== undefined && items.length === limit && { nextCursor: String(last.seq) }, ...gap && { gap } }
}
