/**
 * Delivers the output of a task into two streams of S2 (https://s2.dev), `task.<taskId>.logs` and `task.<taskId>.status`;
 * `s2-record.ts` shows the records.
 *
 * What is promised: delayed, never lost, never out of order, and each record once. Repeats, which `s2-stream-writer.ts` tells
 * when they can occur at all, have the `seq` and `cursor` of a record before them: a reader that skips those has every entry
 * once. A `seq` alone can come again with other output only where a host lost power and with it the end of a log that was
 * delivered already. The access token needs the rights to create streams, append, read and check the tail in its basin.
 */
import type { Logger } from 'pino'
import type { OutputEntry, OutputSink, SinkState, StatusEntry } from './output-sink.ts'
import { acquireS2Client, releaseS2Client, type S2Client } from './s2-client.ts'
import { toS2Failure } from './s2-failure.ts'
import { logRecord, statusRecord } from './s2-record.ts'
import { S2StreamWriter, type S2Place } from './s2-stream-writer.ts'

export interface S2SinkOptions {
  taskId: string
  /** 8 to 48 of a-z, 0-9 and `-`. */
  basin: string
  /** Where S2 is, instead of s2.dev: `http://127.0.0.1:4443`. */
  endpoint?: string
  accessToken: string
  /** What the last confirmed batch answered. */
  state: SinkState
  logger: Logger
  /** How long S2 may leave a request or all that is in flight unanswered, ms; 30 s by default. */
  requestTimeoutMs?: number
  /** How long a session without anything to write is kept, ms; 10 s by default. */
  idleMs?: number
}

/**
 * A batch of 512 KiB is one append as a rule (S2 takes 1 MiB as JSON, which is longer) and eight of them fill a way of 80 ms at
 * 50 MB/s. An entry of 256 KiB fits a record in base64 too.
 */
const limits = { batchBytes: 512 * 1024, batchEntries: 1000, batchesInFlight: 8, entryBytes: 256 * 1024 }

/** Opens without asking S2 anything: the first write does. @throws S2Failure where the basin's name or the endpoint cannot be one. */
export async function openS2Sink (options: S2SinkOptions): Promise<OutputSink> {
  const { taskId, basin, endpoint, state, logger, requestTimeoutMs = 30_000, idleMs = 10_000 } = options
  // What is read from a file may end in a line feed, which would show the token in the message about a header.
  const accessToken = options.accessToken.trim()
  let client: S2Client
  try {
    client = await acquireS2Client({ basin, endpoint, accessToken, requestTimeoutMs })
  } catch (error) {
    throw toS2Failure(error, { basin, stream: `task.${taskId}.logs`, accessToken })
  }
  const shared = { client, taskId, idleMs, logger }
  const logs = new S2StreamWriter({ ...shared, name: `task.${taskId}.logs`, confirmed: placeOf(state) })
  const status = new S2StreamWriter({ ...shared, name: `task.${taskId}.status`, confirmed: undefined })
  let closing: Promise<void> | undefined
  return {
    limits,
    write: async (batch: readonly OutputEntry[]): Promise<SinkState> => ({ ...await logs.write(batch.map(entry => logRecord(taskId, entry))) }),
    writeStatus: async (entries: readonly StatusEntry[]): Promise<void> => { await status.write(entries.map(entry => statusRecord(taskId, entry))) },
    close: () => closing ??= Promise.all([logs.close(), status.close()]).then(() => releaseS2Client(client)),
  }
}

/** A state that is not one of ours is none: the stream itself tells how far it has come. */
function placeOf (state: SinkState): S2Place | undefined {
  const { seq, tail, cursor } = state ?? {}
  if (typeof seq !== 'number' || typeof tail !== 'number' || !Number.isSafeInteger(seq) || !Number.isSafeInteger(tail) || tail < 0) return undefined
  return { seq, tail, ...(typeof cursor === 'string' ? { cursor } : {}) }
}
