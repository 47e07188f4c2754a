/** Terminals over REST: processes of a sandbox at a pseudo-terminal, which outlive who looks at them. */
import { Type, type FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import { Terminal, TerminalCreate, TerminalId, TerminalPage, TerminalStatus, TerminalUpdate } from '../schemas/terminal.ts'
import { SandboxId } from '../schemas/wire.ts'
import type { Terminals } from '../services/terminals/terminal-types.ts'
import { errorResponses } from './http-errors.ts'
import { Cursor, Limit } from './sandboxes.ts'

export interface TerminalRouteOptions {
  terminals: Omit<Terminals, 'attach'>
}

const Params = Type.Object({ id: SandboxId }, { additionalProperties: false })
export const TerminalParams = Type.Object({ id: SandboxId, tid: TerminalId }, { additionalProperties: false })

const tags = ['terminals']

export const terminalRoutes: FastifyPluginAsyncTypebox<TerminalRouteOptions> = async (app, { terminals }) => {
  app.post('/sandboxes/:id/terminals', {
    config: { hasOptionalBody: true },
    schema: {
      operationId: 'createTerminal',
      summary: 'Open a terminal in a running sandbox',
      description: 'Its process runs on, and what it shows is kept, whether anybody is attached or not, and without the daemon too. It ends by itself, by DELETE, and with its sandbox.',
      tags,
      params: Params,
      body: ref(TerminalCreate),
      response: {
        201: { ...ref(Terminal, { description: 'The terminal, whose process runs' }), headers: { Location: { type: 'string', description: 'Path of the terminal' } } },
        ...errorResponses(404, 409, 413, 415, 429, 504),
      },
    },
  }, async (request, reply) => {
    const { id } = request.params
    const claim = request.idempotent
    const terminal = await terminals.create(id, request.body, { idempotencyKey: claim && `${claim.tokenId}/${claim.key}` })
    return reply.code(201).header('location', `/v1/sandboxes/${id}/terminals/${terminal.id}`).send(terminal)
  })

  app.get('/sandboxes/:id/terminals', {
    schema: {
      operationId: 'listTerminals',
      summary: 'List the terminals of a sandbox',
      tags,
      params: Params,
      querystring: Type.Object({
        limit: Limit,
        cursor: Cursor,
        status: Type.Optional(Type.Array(TerminalStatus, { description: 'One of these; repeat it or separate by commas' })),
      }, { additionalProperties: false }),
      response: { 200: ref(TerminalPage, { description: 'A page of terminals, the newest first' }), ...errorResponses(404) },
    },
  }, async request => terminals.list(request.params.id, request.query))

  app.get('/sandboxes/:id/terminals/:tid', {
    schema: {
      operationId: 'getTerminal',
      summary: 'Get a terminal',
      tags,
      params: TerminalParams,
      response: { 200: ref(Terminal, { description: 'The terminal' }), ...errorResponses(404) },
    },
  }, async request => terminals.get(request.params.id, request.params.tid))

  app.patch('/sandboxes/:id/terminals/:tid', {
    schema: {
      operationId: 'updateTerminal',
      summary: 'Resize or rename a terminal',
      description: 'A terminal has one size, whoever looks at it: the last one that was given, here or by an attached client. All that are attached are told.',
      tags,
      params: TerminalParams,
      body: ref(TerminalUpdate),
      response: { 200: ref(Terminal, { description: 'The terminal as it is then' }), ...errorResponses(404, 409, 413, 415) },
    },
  }, async request => await terminals.update(request.params.id, request.params.tid, request.body))

  app.delete('/sandboxes/:id/terminals/:tid', {
    schema: {
      operationId: 'deleteTerminal',
      summary: 'End a terminal, and forget it with its output',
      description: 'Its process gets SIGHUP, and SIGKILL if it does not end by that. Who is attached is told that it was deleted.',
      tags,
      params: TerminalParams,
      response: { 204: Type.Null({ description: 'It is gone' }), ...errorResponses(404) },
    },
  }, async (request, reply) => {
    await terminals.remove(request.params.id, request.params.tid)
    return reply.code(204).send(null)
  })
}
