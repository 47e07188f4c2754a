/** What several resources share on the wire: ids, times, pages, errors. JSON in camelCase; times in ISO 8601, UTC. */
import { Type, type Static, type TSchema } from '@sinclair/typebox'

export const SandboxId = Type.String({ pattern: '^sbx_[a-z0-9]{20}$', description: 'Sandbox id', examples: ['sbx_4k2m9xq7tz1c8vw3h5np'] })
export const ExecId = Type.String({ pattern: '^exe_[a-z0-9]{20}$', description: 'Exec id', examples: ['exe_8v3nq0c5yb7m1kx2w9td'] })
export const Timestamp = Type.String({ format: 'date-time', description: 'ISO 8601, UTC', examples: ['2026-03-01T09:30:00.000Z'] })

/** A map of strings with bounds on its size. */
export const StringMap = (options: { maxProperties: number, keyPattern: string, maxValueLength: number, description: string }) =>
  Type.Record(Type.String({ pattern: options.keyPattern }), Type.String({ maxLength: options.maxValueLength }), {
    maxProperties: options.maxProperties,
    additionalProperties: false,
    description: options.description,
  })

/** One page of a list: `nextCursor` is there when more follows. */
export const Page = <T extends TSchema>(item: T, $id: string) => Type.Object({
  items: Type.Array(item),
  nextCursor: Type.Optional(Type.String({ description: 'Give it as ?cursor to read on; absent on the last page' })),
}, { $id, additionalProperties: false })

export const ErrorBody = Type.Object({
  code: Type.String({ description: 'What exactly is wrong, for programs', examples: ['sandbox_not_found'] }),
  kind: Type.String({ description: 'One of ten kinds; decides the HTTP status', examples: ['not_found'] }),
  message: Type.String({ description: 'What is wrong and what to do, for people' }),
  requestId: Type.String({ description: 'Names this request in the daemon\'s log' }),
  details: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
}, { $id: 'Error', additionalProperties: false })
export type ErrorBody = Static<typeof ErrorBody>

/** Names of signals that may be sent to a process inside a sandbox. */
export const SignalName = Type.Union(
  ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGTERM', 'SIGCONT', 'SIGSTOP', 'SIGTSTP', 'SIGWINCH'].map(name => Type.Literal(name)),
  { description: 'Signal name', default: 'SIGTERM' }
) as unknown as TSchema & { static: SignalName }
export type SignalName = 'SIGHUP' | 'SIGINT' | 'SIGQUIT' | 'SIGKILL' | 'SIGUSR1' | 'SIGUSR2' | 'SIGTERM' | 'SIGCONT' | 'SIGSTOP' | 'SIGTSTP' | 'SIGWINCH'
