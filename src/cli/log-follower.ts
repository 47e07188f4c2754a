import { setTimeout as delay } from 'node:timers/promises'
import type { LogEnd, LogRecord } from '../schemas/log.ts'
import { isKind, throwIfError, type BerthClient, type Query } from './client.ts'
import { ConnectionError } from './connection-error.ts'

const firstPauseMs = 20
const lastPauseMs = 1000

export interface FollowOptions {
  /** Of the log. */
  path: string
  query?: Query
  /** Whether nothing will be written to the log any more. */
  isOver: () => Promise<boolean>
  signal?: AbortSignal
}

/**
 * The records of a log until nothing more can come, each once.
 *
 * Whatever ends the stream, a broken connection or a daemon that stops, reading goes on behind the last record. The
 * end is certain when the daemon says so, or when a pass begun after the writer was seen to be over has come to its end.
 */
export async function * followLog (client: BerthClient, options: FollowOptions): AsyncGenerator<LogRecord> {
  let cursor: string | undefined
  let isOver = false
  let pauseMs = firstPauseMs
  for (let pass = 0; ; pass++) {
    // A tail is counted from the end only once: reading on from a cursor is exact.
    const place = cursor === undefined ? {} : { cursor, tail: undefined }
    const query = { ...options.query, ...place, format: 'ndjson', follow: isOver ? undefined : true }
    try {
      for await (const record of client.stream<LogRecord | LogEnd>('GET', options.path, { query, signal: options.signal })) {
        throwIfError(record)
        if (record.type === 'end') return
        cursor = record.cursor
        pauseMs = firstPauseMs
        yield record
      }
      if (isOver) return
    } catch (error) {
      if (pass > 0 && isKind(error, 'not_found')) return
      if (!isPassing(error, pass)) throw error
    }
    isOver ||= await options.isOver()
    if (isOver) continue
    await delay(pauseMs, undefined, { signal: options.signal })
    pauseMs = Math.min(lastPauseMs, pauseMs * 2)
  }
}

/** Whether to read on after this error: not when the daemon was never there. */
export function isPassing (error: unknown, pass: number): boolean {
  if (error instanceof ConnectionError) return error.isTransient && (pass > 0 || error.stage === 'answer')
  return pass > 0 && isKind(error, 'unavailable')
}
