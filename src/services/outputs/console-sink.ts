/** Output into the daemon's own log, a message a line. */
import { setImmediate as turn } from 'node:timers/promises'
import { stripVTControlCharacters } from 'node:util'
import type { Logger } from 'pino'
import type { SinkRequest } from './open-sink.ts'
import type { OutputEntry, OutputSink } from './output-sink.ts'

/** Longest message; a longer line is several. */
const entryBytes = 8 * 1024
/** Tab is fine; the others move the cursor of a terminal, or turn the direction of what follows. */
// eslint-disable-next-line no-control-regex
const harmful = /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g

export function openConsoleSink ({ taskId }: SinkRequest, logger: Logger): OutputSink {
  return {
    limits: { batchBytes: 64 * 1024, batchEntries: 500, batchesInFlight: 1, entryBytes },
    write: async batch => {
      for (const entry of batch) logger.info({ taskId, stream: entry.stream, seq: entry.seq, ...(entry.isGap ? { isGap: true } : {}) }, visibleText(entry))
      // Much output must not keep the daemon from its other work.
      await turn()
      return undefined
    },
    close: () => Promise.resolve(),
  }
}

/** What a terminal would show of a line in the end, with nothing in it that a terminal obeys. */
export function visibleText ({ data }: Pick<OutputEntry, 'data'>): string {
  const text = data.toString().replace(/\r+$/, '')
  const shown = text.slice(text.lastIndexOf('\r') + 1)
  return stripVTControlCharacters(shown).replace(harmful, escape)
}

function escape (character: string): string {
  const code = character.charCodeAt(0)
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16)}`
}
