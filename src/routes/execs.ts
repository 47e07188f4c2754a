/** Execs over REST: processes started in a running sandbox, attached or detached. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { BerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import { Exec, ExecCreate, ExecEvent, ExecPage, ExecResult, ExecSignal, ExecStatus, type ExecStatus as Status } from '../schemas/exec.ts'
import { ExecId, SandboxId, Words, type SignalName } from '../schemas/wire.ts'
import { errorResponses } from './http-errors.ts'
import { Cursor, Limit, WaitTimeout } from './sandboxes.ts'
import { chosenFormat, clientSignal, recordEncoder, sendStream, type StreamContext } from './streaming.ts'

/** What these routes need of the exec service. */
export interface Execs {
  run: (sandboxId: string, input: ExecCreate, options: { signal: AbortSignal }) => Promise<ExecResult>
  /** Rejects when the exec is refused, before anything is sent. */
  stream: (sandboxId: string, input: ExecCreate, options: { signal: AbortSignal }) => Promise<AsyncIterable<ExecEvent>>
  startDetached: (sandboxId: string, input: ExecCreate, options: { idempotencyKey?: string | undefined }) => Promise<Exec>
  list: (sandboxId: string, filter: { limit: number, cursor?: string, status?: Status[] }) => ExecPage
  get: (sandboxId: string, execId: string) => Exec
  wait: (sandboxId: string, execId: string, options: { timeoutMs: number, signal: AbortSignal }) => Promise<Exec>
  signal: (sandboxId: string, execId: string, signal: SignalName) => Promise<void>
  result: (sandboxId: string, execId: string, options: { maxOutputBytes: number, encoding: 'utf8' | 'base64' }) => Promise<ExecResult>
}

export interface ExecRouteOptions {
  execs: Execs
  streams: StreamContext
  /** For attached execs: they may come to their end while the daemon ends, until its grace is over. */
  attached: StreamContext
}

const defaultMaxOutputBytes = 4 * 1024 ** 2

const Params = Type.Object({ id: SandboxId }, { additionalProperties: false })
const ExecParams = Type.Object({ id: SandboxId, eid: ExecId }, { additionalProperties: false })

const CreateQuery = Type.Object({
  wait: Type.Boolean({ default: false, description: 'For a detached exec: answer with its result when it has ended. An attached one is always waited for' }),
  timeoutMs: WaitTimeout,
  format: Type.Optional(Words(['json', 'sse', 'ndjson'], { description: 'sse or ndjson: stream the output while the process runs; an Accept header says the same' })),
}, { additionalProperties: false })

const tags = ['execs']

export const execRoutes: FastifyPluginAsyncTypebox<ExecRouteOptions> = async (app, { execs, streams, attached }) => {
  app.post('/sandboxes/:id/execs', {
    preValidation: async request => refuseKeyOnStream(request),
    schema: {
      operationId: 'createExec',
      summary: 'Run a process in a running sandbox',
      description: 'Attached (the default): answers with the result, or streams while it runs, and the process ends when the client goes away. Detached: answers at once with a resource that survives the daemon.',
      tags,
      params: Params,
      querystring: CreateQuery,
      body: ref(ExecCreate),
      response: {
        200: {
          description: 'How the process ended, or its events while it runs',
          content: {
            'application/json': { schema: ref(ExecResult) },
            'application/x-ndjson': { schema: ref(ExecEvent) },
            'text/event-stream': { schema: Type.String({ description: 'Messages whose event is the type of an ExecEvent and whose data is that ExecEvent' }) },
          },
        },
        201: { ...ref(Exec, { description: 'The detached exec' }), headers: { Location: { type: 'string', description: 'Path of the exec' } } },
        ...errorResponses(404, 409, 413, 415, 429, 499, 504),
      },
    },
  }, async (request, reply) => {
    const { id } = request.params
    if (request.body.detach) return answerDetached(request, id, request.body, request.query, reply)
    const format = chosenFormat(request, request.query.format)
    if (format === 'sse' || format === 'ndjson') {
      return sendStream<ExecEvent>(reply, {
        ...recordEncoder(format, event => ({ event: event.type })),
        format,
        context: attached,
        open: signal => execs.stream(id, request.body, { signal }),
      })
    }
    // With an Idempotency-Key the process runs on without its client, whose next try gets the result.
    const signal = request.idempotent === undefined ? clientSignal(reply, attached.closing) : attached.closing
    return execs.run(id, request.body, { signal })
  })

  async function answerDetached (request: FastifyRequest, id: string, input: ExecCreate, query: { wait: boolean, timeoutMs: number, format?: string }, reply: FastifyReply) {
    const claim = request.idempotent
    if (query.format !== undefined && query.format !== 'json') {
      throw new BerthError('invalid_argument', 'exec_not_streamable', 'a detached exec is not streamed; leave out format and follow its log', { details: { field: 'format' } })
    }
    const exec = await execs.startDetached(id, input, { idempotencyKey: claim && `${claim.tokenId}/${claim.key}` })
    reply.header('location', `/v1/sandboxes/${id}/execs/${exec.id}`)
    if (!query.wait) return reply.code(201).send(exec)
    await execs.wait(id, exec.id, { timeoutMs: query.timeoutMs, signal: clientSignal(reply, streams.closing) })
    return execs.result(id, exec.id, { maxOutputBytes: input.maxOutputBytes ?? defaultMaxOutputBytes, encoding: input.encoding ?? 'utf8' })
  }

  app.get('/sandboxes/:id/execs', {
    schema: {
      operationId: 'listExecs',
      summary: 'List the detached execs of a sandbox',
      tags,
      params: Params,
      querystring: Type.Object({
        limit: Limit,
        cursor: Cursor,
        status: Type.Optional(Type.Array(ExecStatus, { description: 'One of these; repeat it or separate by commas' })),
      }, { additionalProperties: false }),
      response: { 200: ref(ExecPage, { description: 'A page of execs' }), ...errorResponses(404) },
    },
  }, async request => execs.list(request.params.id, request.query))

  app.get('/sandboxes/:id/execs/:eid', {
    exposeHeadRoute: false,
    schema: {
      operationId: 'getExec',
      summary: 'Get a detached exec, or wait for its end',
      tags,
      params: ExecParams,
      querystring: Type.Object({
        wait: Type.Boolean({ default: false, description: 'Answer when it has ended' }),
        timeoutMs: WaitTimeout,
      }, { additionalProperties: false }),
      response: { 200: ref(Exec, { description: 'The exec' }), ...errorResponses(404, 499, 504) },
    },
  }, async (request, reply) => {
    const { id, eid } = request.params
    const { wait, timeoutMs } = request.query
    return wait ? execs.wait(id, eid, { timeoutMs, signal: clientSignal(reply, streams.closing) }) : execs.get(id, eid)
  })

  app.post('/sandboxes/:id/execs/:eid/signal', {
    schema: {
      operationId: 'signalExec',
      summary: 'Send a signal to the process of a detached exec',
      tags,
      params: ExecParams,
      body: ref(ExecSignal),
      response: { 204: Type.Null({ description: 'The signal was sent' }), ...errorResponses(404, 409, 413, 415) },
    },
  }, async (request, reply) => {
    await execs.signal(request.params.id, request.params.eid, request.body.signal)
    return reply.code(204).send(null)
  })
}

/** A stream cannot be given a second time, so a key would promise what cannot be kept. */
function refuseKeyOnStream (request: FastifyRequest): void {
  if (request.headers['idempotency-key'] === undefined) return
  const { format } = request.query as { format?: string }
  const { detach } = (request.body ?? {}) as { detach?: boolean }
  const chosen = chosenFormat(request, format)
  if (!detach && (chosen === 'sse' || chosen === 'ndjson')) {
    throw new BerthError('invalid_argument', 'idempotency_key_on_stream', 'a streamed exec cannot be repeated, so it takes no Idempotency-Key; use a detached exec and follow its log')
  }
}
