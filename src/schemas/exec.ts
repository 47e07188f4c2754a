/** An exec on the wire: a process started in a running sandbox. */
import { Type, type Static } from '@sinclair/typebox'
import { AbsolutePath, Argv, Env, User, maxTimeoutMs } from './sandbox.ts'
import { ExecId, Page, SandboxId, SignalName, Timestamp, Words } from './wire.ts'

export const ExecCreate = Type.Object({
  argv: Argv,
  env: Type.Optional(Env),
  cwd: Type.Optional(AbsolutePath),
  user: Type.Optional(User),
  stdin: Type.Optional(Type.String({ maxLength: 8 * 1024 ** 2, description: 'Given to the process on its standard input, which is then closed' })),
  encoding: Type.Optional(Words(['utf8', 'base64'], { default: 'utf8', description: 'Of stdin, and of stdout and stderr in the answer; in utf8 bytes that are not text become U+FFFD' })),
  timeoutMs: Type.Optional(Type.Integer({ minimum: 1, maximum: maxTimeoutMs, description: 'SIGKILL the process after this long, in milliseconds' })),
  maxOutputBytes: Type.Optional(Type.Integer({ minimum: 0, maximum: 64 * 1024 ** 2, default: 4 * 1024 ** 2, description: 'Keep at most this many bytes of each of stdout and stderr in the answer; the rest is dropped and `truncated` says so' })),
  detach: Type.Optional(Type.Boolean({ default: false, description: 'Answer at once; the exec is a resource with status, log and exit code that survive the daemon' })),
}, { $id: 'ExecCreate', additionalProperties: false })
export type ExecCreate = Static<typeof ExecCreate>

export const ExecStatus = Words(['starting', 'running', 'exited', 'failed', 'lost'], {
  description: 'exited: exitCode is there. failed: it could not be started. lost: it ended with its sandbox or host before its exit code was known',
})
export type ExecStatus = Static<typeof ExecStatus>

/** A detached exec. */
export const Exec = Type.Object({
  id: ExecId,
  sandboxId: SandboxId,
  status: ExecStatus,
  argv: Type.Array(Type.String()),
  cwd: Type.String(),
  user: Type.String(),
  createdAt: Timestamp,
  startedAt: Type.Optional(Timestamp),
  endedAt: Type.Optional(Timestamp),
  deadlineAt: Type.Optional(Timestamp),
  exitCode: Type.Optional(Type.Integer({ description: '128 + n when signal n ended it' })),
  signal: Type.Optional(Type.String()),
  timedOut: Type.Optional(Type.Boolean()),
  message: Type.Optional(Type.String()),
}, { $id: 'Exec', additionalProperties: false })
export type Exec = Static<typeof Exec>

export const ExecPage = Page(Exec, 'ExecPage')
export type ExecPage = Static<typeof ExecPage>

/** How an attached exec (or a detached one that was waited for) ended. */
export const ExecResult = Type.Object({
  id: ExecId,
  exitCode: Type.Integer({ description: '128 + n when signal n ended the process' }),
  signal: Type.Optional(Type.String({ description: 'Name of the signal that ended the process' })),
  stdout: Type.String(),
  stderr: Type.String(),
  truncated: Type.Object({ stdout: Type.Boolean(), stderr: Type.Boolean() }, { additionalProperties: false, description: 'Whether output beyond maxOutputBytes was dropped' }),
  timedOut: Type.Boolean(),
  durationMs: Type.Number(),
}, { $id: 'ExecResult', additionalProperties: false })
export type ExecResult = Static<typeof ExecResult>

/** One item of an attached exec's stream. `data` is base64 when the request's encoding is base64. */
export const ExecEvent = Type.Union([
  Type.Object({ type: Type.Literal('started'), id: ExecId }, { additionalProperties: false }),
  Type.Object({ type: Type.Literal('stdout'), data: Type.String() }, { additionalProperties: false }),
  Type.Object({ type: Type.Literal('stderr'), data: Type.String() }, { additionalProperties: false }),
  Type.Object({
    type: Type.Literal('exit'),
    exitCode: Type.Integer(),
    signal: Type.Optional(Type.String()),
    timedOut: Type.Boolean(),
    durationMs: Type.Number(),
  }, { additionalProperties: false }),
  Type.Object({ type: Type.Literal('error'), code: Type.String(), message: Type.String() }, { additionalProperties: false }),
], { $id: 'ExecEvent' })
export type ExecEvent = Static<typeof ExecEvent>

export const ExecSignal = Type.Object({ signal: SignalName }, { $id: 'ExecSignal', additionalProperties: false })
export type ExecSignal = Static<typeof ExecSignal>
