import type { LogRecord } from '../../schemas/log.ts'

type LineRecord = Extract<LogRecord, { type: 'line' }>

const lineEnd = Buffer.from('\n')

/** The very bytes that the process wrote: those of all line records of a stream together are its output. */
export function recordBytes (record: LineRecord): Buffer {
  if (record.encoding === 'base64') {
    const bytes = Buffer.from(record.text, 'base64')
    return record.partial ? bytes : Buffer.concat([bytes, lineEnd])
  }
  return Buffer.from(record.partial ? record.text : `${record.text}\n`)
}
