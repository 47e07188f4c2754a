/**
 * Cursors: `<generation>:<offset>`, and for each stream whose character is unfinished there `:o<hex>` or `:e<hex>`.
 *
 *   3:81920         byte 81,920 of the fourth file
 *   3:81920:oe282   and standard output broke off behind the bytes e2 82 of a character
 *   3:81920:-       and nothing else is unfinished, whatever stands before: it was given out already
 *
 * A record never shows half a character, so its cursor must say what it held back: without that, reading on from
 * there would lose those bytes.
 */
import { BerthError } from '../../errors.ts'
import { unfinishedBytes } from './log-line.ts'

/** A place in a log: the n-th file since the log began, and a byte offset in it. */
export interface LogPosition {
  generation: number
  offset: number
}

/** Per stream, the bytes of a character that a partial line broke off in. */
export interface SplitCharacters {
  stdout: Buffer
  stderr: Buffer
}

export interface LogCursor extends LogPosition {
  /** Only where the cursor says so. */
  split?: SplitCharacters
  /** What is unfinished before this place was given out: what is not in `split` is not held back. */
  isSettled?: boolean
}

const nothing = Buffer.alloc(0)
const pattern = /^(\d{1,15}):(\d{1,15})(?::o((?:[0-9a-f]{2}){1,3}))?(?::e((?:[0-9a-f]{2}){1,3}))?(:-)?$/

export function formatCursor (generation: number, offset: number): string {
  return `${generation}:${offset}`
}

/** What follows the place in a cursor. */
export function cursorSuffix ({ stdout, stderr }: SplitCharacters, isSettled: boolean): string {
  return `${heldPart('o', stdout)}${heldPart('e', stderr)}${isSettled ? ':-' : ''}`
}

function heldPart (letter: string, bytes: Buffer): string {
  return bytes.length === 0 ? '' : `:${letter}${bytes.toString('hex')}`
}

/** @throws BerthError `invalid_cursor` for anything that no record's cursor can look like. */
export function parseCursor (cursor: string): LogCursor {
  const match = pattern.exec(cursor)
  const place = { generation: Number(match?.[1]), offset: Number(match?.[2]) }
  if (!match) throw invalidCursor()
  const isSettled = match[5] !== undefined
  if (match[3] === undefined && match[4] === undefined && !isSettled) return place
  return { ...place, split: { stdout: parseSplit(match[3]), stderr: parseSplit(match[4]) }, isSettled }
}

function parseSplit (hex = ''): Buffer {
  if (hex === '') return nothing
  const bytes = Buffer.from(hex, 'hex')
  if (unfinishedBytes(bytes, 0, bytes.length) !== bytes.length) throw invalidCursor()
  return bytes
}

/** Whether `a` lies behind `b`, or at it. */
export function isAtOrBehind (a: LogPosition, b: LogPosition): boolean {
  return a.generation > b.generation || (a.generation === b.generation && a.offset >= b.offset)
}

function invalidCursor (): BerthError {
  return new BerthError('invalid_argument', 'invalid_cursor', 'the cursor is not one of a log record; give the cursor of the last record you have, or none')
}
