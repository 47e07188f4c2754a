import type { LogStream } from '../../schemas/log.ts'
import { recordBytes } from './log-bytes.ts'
import { LogReader } from './log-reader.ts'

/** Gives the whole output in a log whose writer has ended, piece by piece, as the process wrote it. */
export async function collectLog (dir: string, onOutput: (stream: LogStream, bytes: Buffer) => void): Promise<void> {
  const records = new LogReader().read({ dir, signal: new AbortController().signal, isEnded: () => true })
  for await (const record of records) {
    if (record.type === 'line') onOutput(record.stream, recordBytes(record))
  }
}
