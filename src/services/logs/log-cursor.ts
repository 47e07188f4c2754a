import { BerthError } from '../../errors.ts'

/** A place in a log: the n-th file since the log began, and a byte offset in it. */
export interface LogPosition {
  generation: number
  offset: number
}

const pattern = /^(\d{1,15}):(\d{1,15})$/

export function formatCursor (generation: number, offset: number): string {
  return `${generation}:${offset}`
}

/** Throws `invalid_cursor` for anything that no record's cursor can look like. */
export function parseCursor (cursor: string): LogPosition {
  const match = pattern.exec(cursor)
  if (!match) {
    throw new BerthError('invalid_argument', 'invalid_cursor', 'the cursor is not one of a log record; give the cursor of the last record you have, or none')
  }
  return { generation: Number(match[1]), offset: Number(match[2]) }
}
