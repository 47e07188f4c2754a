/** Tickets over REST: what lets in who cannot send a header. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { BerthError } from '../errors.ts'
import { ref } from '../schemas/components.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { Ticket, TicketCreate } from '../schemas/ticket.ts'
import type { Terminals } from '../services/terminals/terminal-types.ts'
import type { TicketFacts, TicketTarget } from '../services/tokens/ticket-store.ts'
import { errorResponses } from './http-errors.ts'
import { presentId } from './sandbox-tokens.ts'
import { checkTicket } from './token-scopes.ts'

/** What these routes need of the ticket service. */
export interface Tickets {
  create: (facts: TicketFacts, options: { ttlMs: number }) => { ticket: string, expiresAt: string }
}

export interface TicketRouteOptions {
  tickets: Tickets
  sandboxes: { get: (id: string) => Sandbox }
  /** Rejects with not_found. */
  tasks: { get: (id: string) => Promise<unknown> }
  terminals: Pick<Terminals, 'get'>
}

const description = `For browsers, which cannot send a token with a navigation or a WebSocket. scope decides which other fields it takes. No Idempotency-Key is honoured here.

A ticket opens no more than the token that makes it: one of a sandbox makes tickets for that sandbox, one that may only read for logs, and for terminals with role read.`

type Wanted = TicketTarget & Pick<TicketFacts, 'role'>

export const ticketRoutes: FastifyPluginAsyncTypebox<TicketRouteOptions> = async (app, { tickets, sandboxes, tasks, terminals }) => {
  app.post('/tickets', {
    config: { answersSecret: true },
    schema: {
      operationId: 'createTicket',
      summary: 'Make a ticket: it lets in once, within seconds',
      description,
      tags: ['tokens'],
      body: ref(TicketCreate),
      response: { 201: ref(Ticket, { description: 'The ticket' }), ...errorResponses(404, 413, 415, 429) },
    },
  }, async (request, reply) => {
    const wanted = wantedBy(request.body)
    const principal = request.principal!
    checkTicket(principal, wanted)
    if ('taskId' in wanted) await tasks.get(wanted.taskId)
    else presentId(sandboxes, wanted.sandboxId)
    if (wanted.scope === 'terminal') terminals.get(wanted.sandboxId, wanted.terminalId)
    const made = tickets.create({ ...wanted, tokenId: principal.id }, { ttlMs: request.body.ttlMs })
    const place = placeOf(wanted)
    return reply.code(201).send({ ...made, ...(place === undefined ? {} : { path: `${place}=${made.ticket}` }) })
  })
}

const fieldsOf = Object.freeze({
  preview: ['sandboxId', 'port'],
  logs: ['sandboxId', 'taskId'],
  terminal: ['sandboxId', 'terminalId', 'role'],
})

/** Which fields belong to which scope. @throws BerthError invalid_argument. */
function wantedBy ({ ttlMs: _, ...asked }: TicketCreate): Wanted {
  const { scope, sandboxId, taskId, port, terminalId, role = 'read' } = asked
  const misplaced = Object.keys(asked).find(field => field !== 'scope' && !fieldsOf[scope].includes(field))
  if (misplaced !== undefined) throw invalidField(misplaced, `a ticket of scope ${scope} takes ${fieldsOf[scope].join(', ')} and ttlMs`)
  if (scope === 'logs') {
    if (sandboxId !== undefined && taskId !== undefined) throw invalidField('taskId', 'a ticket is for the logs of a sandbox or of a task, not of both')
    if (taskId !== undefined) return { scope, taskId }
    if (sandboxId !== undefined) return { scope, sandboxId }
    throw missingField('sandboxId', 'sandboxId or taskId is required: whose logs the ticket opens')
  }
  if (sandboxId === undefined) throw missingField('sandboxId', 'sandboxId is required')
  if (scope === 'preview') return { scope, sandboxId, ...(port === undefined ? {} : { port }) }
  if (terminalId === undefined) throw missingField('terminalId', 'terminalId is required')
  return { scope, sandboxId, terminalId, role }
}

function invalidField (field: string, why: string): BerthError {
  return new BerthError('invalid_argument', 'invalid_field', `${field} must not be given here: ${why}`, { details: { field } })
}

function missingField (field: string, message: string): BerthError {
  return new BerthError('invalid_argument', 'missing_field', message, { details: { field } })
}

/** Where a ticket leads, up to the name of its parameter, if to one place. What a program in a sandbox is asked has parameters of its own. */
function placeOf (wanted: Wanted): string | undefined {
  if ('taskId' in wanted) return `/v1/tasks/${wanted.taskId}/logs/ws?ticket`
  const sandbox = `/v1/sandboxes/${wanted.sandboxId}`
  if (wanted.scope === 'logs') return `${sandbox}/logs/ws?ticket`
  if (wanted.scope === 'terminal') return `${sandbox}/terminals/${wanted.terminalId}/attach?ticket`
  return wanted.port === undefined ? undefined : `${sandbox}/ports/${wanted.port}/?berth_ticket`
}
