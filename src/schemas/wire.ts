/** What several resources share on the wire: ids, times, pages, errors. JSON in camelCase; times in ISO 8601, UTC. */
import { Type, type Static, type StringOptions, type TSchema, type TUnsafe } from '@sinclair/typebox'

export const SandboxId = Type.String({ pattern: '^sbx_[a-z0-9]{20}$', description: 'Sandbox id', examples: ['sbx_4k2m9xq7tz1c8vw3h5np'] })
export const ExecId = Type.String({ pattern: '^exe_[a-z0-9]{20}$', description: 'Exec id', examples: ['exe_8v3nq0c5yb7m1kx2w9td'] })
export const Timestamp = Type.String({ format: 'date-time', description: 'ISO 8601, UTC', examples: ['2026-03-01T09:30:00.000Z'] })

/** One of several words; a plain `enum`, which serialises faster and reads better than a union of constants. */
export const Words = <const T extends string>(words: readonly T[], options: StringOptions = {}) =>
  Type.String({ enum: words, ...options }) as unknown as TUnsafe<T>

/** What a pattern asks for, in words for people; messages about a string that does not match use it. */
export const patternMeaning = new Map<string, string>()

/** Remembers what a pattern means and gives it back. */
export function pattern (source: string, meaning: string): string {
  patternMeaning.set(source, meaning)
  return source
}

export const noNul = pattern('^[^\\u0000]*$', 'must not contain NUL characters')

/**
 * A map of strings with bounds on its size.
 * `x-maxTotalBytes` bounds the UTF-8 bytes of all names and values together.
 */
export const StringMap = (options: { maxProperties: number, keyPattern: string, maxValueLength: number, maxTotalBytes?: number, description: string }) =>
  Type.Unsafe<Record<string, string>>({
    type: 'object',
    propertyNames: { type: 'string', pattern: options.keyPattern },
    additionalProperties: { type: 'string', maxLength: options.maxValueLength, pattern: noNul },
    maxProperties: options.maxProperties,
    ...(options.maxTotalBytes === undefined ? {} : { 'x-maxTotalBytes': options.maxTotalBytes }),
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
export const SignalName = Words(
  ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGTERM', 'SIGCONT', 'SIGSTOP', 'SIGTSTP', 'SIGWINCH'],
  { description: 'Signal name', examples: ['SIGTERM'] }
)
export type SignalName = Static<typeof SignalName>
