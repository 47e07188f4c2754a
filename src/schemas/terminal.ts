/** A terminal on the wire: a process of a running sandbox at a pseudo-terminal, whose screen is kept. */
import { Type, type Static } from '@sinclair/typebox'
import { AbsolutePath, Argv, Env, User, maxTimeoutMs } from './sandbox.ts'
import { Page, SandboxId, Timestamp, Words, noNul } from './wire.ts'

export const TerminalId = Type.String({ pattern: '^trm_[a-z0-9]{20}$', description: 'Terminal id', examples: ['trm_2c7w9xq1tz4k8vm3h5np'] })

const Columns = Type.Integer({ minimum: 1, maximum: 1000, description: 'Width, in characters' })
const Rows = Type.Integer({ minimum: 1, maximum: 1000, description: 'Height, in lines' })
const Name = Type.String({ minLength: 1, maxLength: 128, pattern: noNul, description: 'What people call it' })

export const TerminalCreate = Type.Object({
  argv: Type.Optional({ ...Argv, description: 'Program and arguments; no shell is involved. Without it the shell that /etc/passwd gives the user, or the first of bash and sh that there is; interactive, not a login shell' }),
  env: Type.Optional({ ...Env, description: 'Beside those of the sandbox, and TERM=xterm-256color' }),
  cwd: Type.Optional(AbsolutePath),
  user: Type.Optional(User),
  cols: { ...Columns, default: 80 },
  rows: { ...Rows, default: 24 },
  name: Type.Optional(Name),
  idleTimeoutMs: Type.Optional(Type.Integer({ minimum: 1000, maximum: maxTimeoutMs, description: 'End it after this long without a viewer, input and output, in milliseconds' })),
}, { $id: 'TerminalCreate', additionalProperties: false })
export type TerminalCreate = Static<typeof TerminalCreate>

export const TerminalUpdate = Type.Object({
  cols: Type.Optional(Columns),
  rows: Type.Optional(Rows),
  name: Type.Optional(Name),
}, { $id: 'TerminalUpdate', additionalProperties: false, minProperties: 1, dependentRequired: { cols: ['rows'], rows: ['cols'] } })
export type TerminalUpdate = Static<typeof TerminalUpdate>

export const TerminalStatus = Words(['starting', 'running', 'ended'], { description: 'Whether its process runs; one that has ended can still be attached to, to read' })
export type TerminalStatus = Static<typeof TerminalStatus>

export const TerminalEndReason = Words(['exited', 'deleted', 'idle', 'sandbox_ended', 'pty_host_lost', 'host_restarted'], {
  description: 'exited: its process ended by itself. deleted: it was ended by DELETE. pty_host_lost: the process that holds the pseudo-terminals died, and its programs were ended',
})
export type TerminalEndReason = Static<typeof TerminalEndReason>

export const TerminalEnd = Type.Object({
  reason: TerminalEndReason,
  at: Timestamp,
  exitCode: Type.Optional(Type.Integer({ description: '128 + n when signal n ended the process; absent where nobody saw it' })),
  signal: Type.Optional(Type.String({ description: 'Name of the signal that ended the process' })),
}, { $id: 'TerminalEnd', additionalProperties: false })
export type TerminalEnd = Static<typeof TerminalEnd>

export const Terminal = Type.Object({
  id: TerminalId,
  sandboxId: SandboxId,
  status: TerminalStatus,
  name: Type.Optional(Type.String()),
  argv: Type.Optional(Type.Array(Type.String(), { description: 'Absent: the shell of the user' })),
  cwd: Type.String(),
  user: Type.String(),
  cols: Type.Integer(),
  rows: Type.Integer(),
  idleTimeoutMs: Type.Optional(Type.Integer()),
  createdAt: Timestamp,
  lastActivityAt: Timestamp,
  viewers: Type.Object({ write: Type.Integer(), read: Type.Integer() }, { additionalProperties: false, description: 'How many are attached, by role' }),
  output: Type.Object({
    oldestOffset: Type.Integer({ description: 'Of the first byte that is kept' }),
    endOffset: Type.Integer({ description: 'How many bytes it has written' }),
  }, { additionalProperties: false }),
  end: Type.Optional(TerminalEnd),
}, { $id: 'Terminal', additionalProperties: false })
export type Terminal = Static<typeof Terminal>

export const TerminalPage = Page(Terminal, 'TerminalPage')
export type TerminalPage = Static<typeof TerminalPage>

export const TerminalRole = Words(['write', 'read'], { description: 'write: types and resizes. read: looks only' })
export type TerminalRole = Static<typeof TerminalRole>

const Offset = Type.Integer({ minimum: 0, description: 'Counts every byte that the terminal has written, from 0' })
const size = { cols: Type.Integer(), rows: Type.Integer() }

/**
 * Text frames that the daemon sends on an attachment. Binary frames are output: each byte counts one towards the offset, from that of the
 * last `ready`, `screen` or `gap` on.
 */
export const AttachEvent = Type.Union([
  Type.Object({ type: Type.Literal('ready'), offset: Offset, role: TerminalRole, status: TerminalStatus, ...size }, { additionalProperties: false, description: 'First of all. Output follows from offset on' }),
  Type.Object({ type: Type.Literal('screen'), offset: Offset, data: Type.String(), ...size }, {
    additionalProperties: false,
    description: 'What the terminal shows at this offset, as output that paints it on an emptied screen of this size; its bytes do not count. Comes without ?since, and after each gap',
  }),
  Type.Object({ type: Type.Literal('gap'), offset: Offset, bytes: Type.Integer() }, { additionalProperties: false, description: 'So many bytes up to offset are not to be had any more, or were left out for one who reads too slowly; a screen follows' }),
  Type.Object({ type: Type.Literal('resize'), ...size }, { additionalProperties: false, description: 'The terminal has another size' }),
  Type.Object({ type: Type.Literal('exit'), reason: TerminalEndReason, exitCode: Type.Optional(Type.Integer()), signal: Type.Optional(Type.String()) }, { additionalProperties: false, description: 'It has ended, and all output was sent; the socket is closed with 1000' }),
  Type.Object({ type: Type.Literal('error'), code: Type.String(), message: Type.String() }, { additionalProperties: false }),
], { $id: 'AttachEvent' })
export type AttachEvent = Static<typeof AttachEvent>

/** Text frames that a client with the role `write` may send; its binary frames are input. */
export const AttachCommand = Type.Object({ type: Type.Literal('resize'), cols: Columns, rows: Rows }, { $id: 'AttachCommand', additionalProperties: false })
export type AttachCommand = Static<typeof AttachCommand>
