/** Tickets on the wire: they let in once, for who cannot send a header. */
import { Type, type Static } from '@sinclair/typebox'
import { TaskId } from './task.ts'
import { SandboxId, Timestamp, Words } from './wire.ts'

export const TicketPurpose = Words(['preview', 'logs'], {
  description: 'What it opens, as ?berth_ticket=<ticket>. preview: a port of the sandbox; logs: the WebSockets of logs, of the sandbox and its execs or of the task',
})
export type TicketPurpose = Static<typeof TicketPurpose>

export const TicketCreate = Type.Object({
  purpose: TicketPurpose,
  sandboxId: Type.Optional({ ...SandboxId, description: 'The sandbox that it is for; needed by preview' }),
  taskId: Type.Optional({ ...TaskId, description: 'logs: the task that it is for, in the place of a sandbox' }),
  port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535, description: 'preview: the port that it opens; any of the sandbox when absent' })),
}, { $id: 'TicketCreate', additionalProperties: false })
export type TicketCreate = Static<typeof TicketCreate>

export const Ticket = Type.Object({
  ticket: Type.String({ description: 'Good once, until expiresAt' }),
  expiresAt: Timestamp,
  path: Type.Optional(Type.String({ description: 'Where it leads on this host, the ticket included; there where that is one place: a port was given, or purpose is logs' })),
}, { $id: 'Ticket', additionalProperties: false })
export type Ticket = Static<typeof Ticket>
