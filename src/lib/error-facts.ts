import { BerthError, toBerthError, type ErrorKind } from '../errors.ts'

/** A BerthError as data, for its way from a process or thread of ours to another. */
export interface ErrorFacts {
  kind: ErrorKind
  code: string
  message: string
  details?: Record<string, unknown>
}

export function errorFacts (error: unknown): ErrorFacts {
  const { kind, code, message, details } = toBerthError(error)
  return { kind, code, message, ...(details ? { details } : {}) }
}

export function errorFromFacts (facts: ErrorFacts): BerthError {
  return new BerthError(facts.kind, facts.code, facts.message, { details: facts.details })
}
