/** How log records go out: as text, as NDJSON lines, as SSE frames. Pure. */
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { recordBytes } from './log-bytes.ts'

/** One JSON object per line. */
export function toNdjsonLine (record: LogRecord): string {
  return `${JSON.stringify(record)}\n`
}

/** A frame of text/event-stream; its id is the cursor, so that an EventSource resumes by itself. */
export function toSseFrame (record: LogRecord): string {
  return `id: ${record.cursor}\ndata: ${JSON.stringify(record)}\n\n`
}

/**
 * Makes a function from records to the bytes that the process wrote: partial lines are joined. With timestamps each
 * line begins with its time; a line of the other stream that comes amid an unfinished one begins on a line of its own.
 */
export function createTextFormatter (options: { timestamps?: boolean } = {}): (record: LogRecord) => string | Buffer {
  const timestamps = options.timestamps ?? false
  let unfinished: LogStream | undefined
  return record => {
    if (record.type === 'gap') {
      const lead = unfinished ? '\n' : ''
      unfinished = undefined
      const size = record.bytes === undefined ? '' : ` (${record.bytes} bytes)`
      return `${lead}--- gap: ${record.message}${size} ---\n`
    }
    const continues = unfinished === record.stream
    const lead = timestamps && unfinished && !continues ? '\n' : ''
    const time = timestamps && !continues ? `${record.at} ` : ''
    unfinished = record.partial ? record.stream : undefined
    if (record.encoding !== undefined) return Buffer.concat([Buffer.from(lead + time), recordBytes(record)])
    return `${lead}${time}${record.text}${record.partial ? '' : '\n'}`
  }
}
