/** Tickets on the wire: they let in once, for who cannot send a header. */
import { Type, type Static } from '@sinclair/typebox'
import { SandboxId, Timestamp, Words } from './wire.ts'

export const TicketPurpose = Words(['preview'], { description: 'What it opens. preview: a port of the sandbox, as ?berth_ticket=<ticket>' })
export type TicketPurpose = Static<typeof TicketPurpose>

export const TicketCreate = Type.Object({
  sandboxId: SandboxId,
  purpose: TicketPurpose,
  port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535, description: 'The port that it opens; any of the sandbox when absent' })),
}, { $id: 'TicketCreate', additionalProperties: false })
export type TicketCreate = Static<typeof TicketCreate>

export const Ticket = Type.Object({
  ticket: Type.String({ description: 'Good once, until expiresAt' }),
  expiresAt: Timestamp,
  path: Type.Optional(Type.String({ description: 'Where it leads on this host, the ticket included; there when a port was given' })),
}, { $id: 'Ticket', additionalProperties: false })
export type Ticket = Static<typeof Ticket>
