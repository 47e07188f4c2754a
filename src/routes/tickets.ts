/** Tickets over REST: what lets in who cannot send a header. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { ref } from '../schemas/components.ts'
import type { Sandbox } from '../schemas/sandbox.ts'
import { Ticket, TicketCreate } from '../schemas/ticket.ts'
import { errorResponses } from './http-errors.ts'
import { presentId } from './sandbox-tokens.ts'
import { denied } from './token-scopes.ts'

/** What these routes need of the ticket service. */
export interface Tickets {
  create: (facts: { purpose: 'preview', sandboxId: string, port?: number, tokenId: string }) => { ticket: string, expiresAt: string }
}

export interface TicketRouteOptions {
  tickets: Tickets
  sandboxes: { get: (id: string) => Sandbox }
}

export const ticketRoutes: FastifyPluginAsyncTypebox<TicketRouteOptions> = async (app, { tickets, sandboxes }) => {
  app.post('/tickets', {
    config: { answersSecret: true },
    schema: {
      operationId: 'createTicket',
      summary: 'Make a ticket: it lets in once, within 30 seconds',
      description: 'For browsers, which cannot send a token with a navigation or a WebSocket. An admin token may make one for any sandbox, the token of a sandbox for that one. No Idempotency-Key is honoured here.',
      tags: ['tokens'],
      body: ref(TicketCreate),
      response: { 201: ref(Ticket, { description: 'The ticket' }), ...errorResponses(404, 413, 415, 429) },
    },
  }, async (request, reply) => {
    const { sandboxId, purpose, port } = request.body
    const principal = request.principal!
    if (principal.scope === 'sandbox' && principal.sandboxId !== sandboxId) throw denied('this token makes tickets for its own sandbox alone')
    presentId(sandboxes, sandboxId)
    const made = tickets.create({ purpose, sandboxId, tokenId: principal.id, ...(port === undefined ? {} : { port }) })
    const path = port === undefined ? {} : { path: `/v1/sandboxes/${sandboxId}/ports/${port}/?berth_ticket=${made.ticket}` }
    return reply.code(201).send({ ...made, ...path })
  })
}
