/** Tickets over REST: what lets in who cannot send a header. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { BerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { Ticket, TicketCreate } from '../schemas/ticket.ts'
import type { TicketScope } from '../services/tokens/ticket-store.ts'
import { errorResponses } from './http-errors.ts'
import { presentId } from './sandbox-tokens.ts'
import { denied } from './token-scopes.ts'

/** What these routes need of the ticket service. */
export interface Tickets {
  create: (facts: TicketScope & { tokenId: string }) => { ticket: string, expiresAt: string }
}

export interface TicketRouteOptions {
  tickets: Tickets
  sandboxes: { get: (id: string) => Sandbox }
  /** Rejects with not_found. */
  tasks: { get: (id: string) => Promise<unknown> }
}

export const ticketRoutes: FastifyPluginAsyncTypebox<TicketRouteOptions> = async (app, { tickets, sandboxes, tasks }) => {
  app.post('/tickets', {
    config: { answersSecret: true },
    schema: {
      operationId: 'createTicket',
      summary: 'Make a ticket: it lets in once, within 30 seconds',
      description: 'For browsers, which cannot send a token with a navigation or a WebSocket. An admin token may make one for any sandbox or task, the token of a sandbox for that one. purpose decides which other fields it takes. No Idempotency-Key is honoured here.',
      tags: ['tokens'],
      body: ref(TicketCreate),
      response: { 201: ref(Ticket, { description: 'The ticket' }), ...errorResponses(404, 413, 415, 429) },
    },
  }, async (request, reply) => {
    const scope = scopeOf(request.body)
    const principal = request.principal!
    const isOwn = 'sandboxId' in scope && scope.sandboxId === principal.sandboxId
    if (principal.scope === 'sandbox' && !isOwn) throw denied('this token makes tickets for its own sandbox alone')
    if ('taskId' in scope) await tasks.get(scope.taskId)
    else presentId(sandboxes, scope.sandboxId)
    const made = tickets.create({ ...scope, tokenId: principal.id })
    const path = pathOf(scope)
    return reply.code(201).send({ ...made, ...(path === undefined ? {} : { path: `${path}?berth_ticket=${made.ticket}` }) })
  })
}

/** Which fields belong to which purpose. @throws BerthError invalid_argument. */
function scopeOf ({ purpose, sandboxId, taskId, port }: TicketCreate): TicketScope {
  if (purpose === 'preview') {
    if (taskId !== undefined) throw misplaced('taskId', 'a preview is of a sandbox, which sandboxId names')
    if (sandboxId === undefined) throw new BerthError('invalid_argument', 'missing_field', 'sandboxId is required', { details: { field: 'sandboxId' } })
    return { purpose, sandboxId, ...(port === undefined ? {} : { port }) }
  }
  if (port !== undefined) throw misplaced('port', 'logs have no port')
  if (sandboxId !== undefined && taskId !== undefined) throw misplaced('taskId', 'a ticket is for the logs of a sandbox or of a task, not of both')
  if (taskId !== undefined) return { purpose, taskId }
  if (sandboxId !== undefined) return { purpose, sandboxId }
  throw new BerthError('invalid_argument', 'missing_field', 'sandboxId or taskId is required: whose logs the ticket opens', { details: { field: 'sandboxId' } })
}

function misplaced (field: string, why: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_field', `${field} must not be given here: ${why}`, { details: { field } })
}

/** Where a ticket leads, if to one place. */
function pathOf (scope: TicketScope): string | undefined {
  if (scope.purpose === 'logs') return 'taskId' in scope ? `/v1/tasks/${scope.taskId}/logs/ws` : `/v1/sandboxes/${scope.sandboxId}/logs/ws`
  return scope.port === undefined ? undefined : `/v1/sandboxes/${scope.sandboxId}/ports/${scope.port}/`
}
