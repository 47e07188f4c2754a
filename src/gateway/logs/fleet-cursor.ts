/**
 * Cursors of the log of a task of a fleet: `<fence>.<cursor on the host>`, and behind it, where that alone does not say all:
 *
 *   7.3:81920                        in the output of delivery 7, byte 81,920 of the host's fourth file
 *   7.3:81920~o,120,0                and of the line of standard output that is unfinished there, 120 bytes were given out
 *   7.3:81920~e3:400,0,0             and standard error was given out up to byte 400 alone
 *   7.3:81920~o3:400,0,64            and standard output up to there, and 64 bytes of the line that follows
 *
 * A host numbers what it reads, a piece of a line each; the buffer holds whole lines, in the order in which they ended. With these parts
 * a place in one is found in the other.
 */
import { BerthError } from '../../errors.ts'
import type { LogStream } from '../../schemas/log.ts'
import { parseCursor } from '../../services/logs/log-cursor.ts'
import { comparePositions } from '../../services/outputs/output-place.ts'

/** How far one stream was given out. */
export interface GivenOut {
  /** Cursor on the host: what lies before it was given out, but for lines that were unfinished there; of those, `before`. */
  from: string
  /** Bytes given out of the line that is unfinished at `from`, and that lie before it. */
  before: number
  /** Bytes given out that lie behind it: pieces of a line that has not ended. */
  behind: number
}

export type GivenOutStreams = Record<LogStream, GivenOut>

/** Room for both parts at their longest. */
export const longestFleetCursor = 256
export const startOfLog = '0:0'

const pattern = /^(\d{1,15})\.([0-9a-f:oe-]{3,60})(?:~o([\d:]*),(\d{1,15}),(\d{1,15}))?(?:~e([\d:]*),(\d{1,15}),(\d{1,15}))?$/

export function formatFleetCursor (fence: number, hostCursor: string): string {
  return `${fence}.${hostCursor}`
}

export function formatPlace (fence: number, { stdout, stderr }: GivenOutStreams): string {
  const furthest = furthestOf({ stdout, stderr })
  return `${fence}.${furthest}${partOf('o', stdout, furthest)}${partOf('e', stderr, furthest)}`
}

/** @throws BerthError invalid_argument `invalid_cursor` for what no record's cursor can look like. */
export function parseFleetCursor (cursor: string): { fence: number, streams: GivenOutStreams } {
  const match = pattern.exec(cursor)
  if (!match) throw new BerthError('invalid_argument', 'invalid_cursor', 'the cursor is not one of a log record of a fleet; give the cursor of the last record you have, or none')
  const [, fence, furthest = '', stdout, stdoutBefore, stdoutBehind, stderr, stderrBefore, stderrBehind] = match
  const toGivenOut = (from = '', before = '0', behind = '0'): GivenOut => ({ from: from === '' ? furthest : from, before: Number(before), behind: Number(behind) })
  const streams = { stdout: toGivenOut(stdout, stdoutBefore, stdoutBehind), stderr: toGivenOut(stderr, stderrBefore, stderrBehind) }
  for (const { from } of Object.values(streams)) parseCursor(from)
  return { fence: Number(fence), streams }
}

export function startPlaces (): GivenOutStreams {
  return { stdout: { from: startOfLog, before: 0, behind: 0 }, stderr: { from: startOfLog, before: 0, behind: 0 } }
}

/** The cursor on the host up to which one of the streams was given out. */
export function furthestOf ({ stdout, stderr }: GivenOutStreams): string {
  const difference = compareCursors(stdout.from, stderr.from)
  if (difference !== 0) return difference > 0 ? stdout.from : stderr.from
  // At one place the longer one says more: what is held back there.
  return stdout.from.length >= stderr.from.length ? stdout.from : stderr.from
}

/** A cursor as a place alone: whoever reads on from there finds out for himself what is unfinished. */
export function plainCursor (cursor: string): string {
  const { generation, offset } = parseCursor(cursor)
  return `${generation}:${offset}`
}

/** Below 0 where the place of the first lies before that of the second. */
export function compareCursors (a: string, b: string): number {
  return a === b ? 0 : comparePositions(parseCursor(a), parseCursor(b))
}

function partOf (letter: 'o' | 'e', { from, before, behind }: GivenOut, furthest: string): string {
  const isThere = compareCursors(from, furthest) === 0
  if (isThere && before === 0 && behind === 0) return ''
  return `~${letter}${isThere ? '' : plainCursor(from)},${before},${behind}`
}
