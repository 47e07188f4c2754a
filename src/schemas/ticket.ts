/** Tickets on the wire: they let in once, for who cannot send a header. */
import { Type, type Static } from '@sinclair/typebox'
import { TaskId } from './task.ts'
import { TerminalId, TerminalRole } from './terminal.ts'
import { SandboxId, Timestamp, Words } from './wire.ts'

export const TicketScope = Words(['preview', 'logs', 'terminal'], {
  description: 'What it opens. preview: a port of the sandbox, as ?berth_ticket=<ticket>. As ?ticket=<ticket>, logs: the WebSockets of logs, of the sandbox and its execs or of the task; terminal: the WebSocket of one terminal',
})
export type TicketScope = Static<typeof TicketScope>

export const TicketCreate = Type.Object({
  scope: TicketScope,
  sandboxId: Type.Optional({ ...SandboxId, description: 'The sandbox that it is for; needed by preview and terminal' }),
  taskId: Type.Optional({ ...TaskId, description: 'logs: the task that it is for, in the place of a sandbox' }),
  port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535, description: 'preview: the port that it opens; any of the sandbox when absent' })),
  terminalId: Type.Optional({ ...TerminalId, description: 'terminal: the one that it opens' }),
  role: Type.Optional({ ...TerminalRole, description: 'terminal: what may be done there; read when absent. One for write opens it to read, too' }),
  ttlMs: Type.Integer({ minimum: 1000, maximum: 60_000, default: 30_000, description: 'How long it is good when it is not used, in milliseconds' }),
}, { $id: 'TicketCreate', additionalProperties: false })
export type TicketCreate = Static<typeof TicketCreate>

export const Ticket = Type.Object({
  ticket: Type.String({ description: 'Good once, until expiresAt' }),
  expiresAt: Timestamp,
  path: Type.Optional(Type.String({ description: 'Where it leads on this host, the ticket included; absent only for a preview without a port, which leads to several places' })),
}, { $id: 'Ticket', additionalProperties: false })
export type Ticket = Static<typeof Ticket>
