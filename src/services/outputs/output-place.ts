/** How far an output has come in a log, so exactly that going on from there gives the same entries with the same numbers. */
import type { LogStream } from '../../schemas/log.ts'
import { formatCursor, parseCursor, type LogPosition } from '../logs/log-cursor.ts'

/** Where what was not given out yet of a stream begins. */
export interface StreamPlace {
  /** Cursor behind the last record of which everything was given out: the rest begins in the next one of this stream. */
  from: string
  /** So many bytes of that next record were given out already, in a piece of a long line. */
  skip: number
}

export interface OutputPlace {
  /** Number of the next entry. */
  seq: number
  streams: Record<LogStream, StreamPlace>
  /** Time of the last record: that of gaps, which have none themselves. */
  at: string
}

export const startCursor = '0:0'

export function startPlace (): OutputPlace {
  return { seq: 0, streams: { stdout: { from: startCursor, skip: 0 }, stderr: { from: startCursor, skip: 0 } }, at: new Date(0).toISOString() }
}

/** The cursor of a place up to which every byte was given out, those of a character that is unfinished there too. */
export function settledCursor ({ generation, offset }: LogPosition): string {
  return `${formatCursor(generation, offset)}:-`
}

/** Below 0 where the first lies before the second. */
export function comparePositions (a: LogPosition, b: LogPosition): number {
  return a.generation - b.generation || a.offset - b.offset
}

/** From where the log must be read: the unfinished lines of both streams are read again. @throws BerthError `invalid_cursor`. */
export function readFrom ({ streams: { stdout, stderr } }: OutputPlace): string {
  return comparePositions(parseCursor(stdout.from), parseCursor(stderr.from)) <= 0 ? stdout.from : stderr.from
}

/** The oldest file of the log that is still needed. */
export function neededGeneration (place: OutputPlace): number {
  return parseCursor(readFrom(place)).generation
}
