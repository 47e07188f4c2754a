/** A log, followed through every loss of the connection: nothing twice, nothing left out. */
import type { LogEnd, LogRecord } from '../../schemas/log.ts'
import { ApiError, isAbort, type ApiClient, type Query } from './api-client.ts'
import { readNdjson } from './line-splitter.ts'
import { retryDelayMs, sleep } from './retry-delay.ts'

export type LogItem = LogRecord | LogEnd | { type: 'error', code: string, message: string }

export interface LogFollow {
  /** Of the log, as `/v1/tasks/tsk_…/logs`. */
  path: string
  query: Query
  signal: AbortSignal
  onRecords: (records: LogRecord[]) => void
  /** waiting: the connection is lost, or the log is not there yet. */
  onState: (state: 'live' | 'waiting' | 'ended') => void
}

/** Resolves when the log is complete, or when the signal is aborted. @throws ApiError where it is refused. */
export async function followLog (client: ApiClient, { path, query, signal, onRecords, onState }: LogFollow): Promise<LogEnd | undefined> {
  let cursor: string | undefined
  for (let failures = 0; !signal.aborted; failures++) {
    try {
      const response = await client.open(path, { query: { ...query, follow: true, format: 'ndjson', cursor, ...(cursor === undefined ? {} : { tail: undefined }) }, accept: 'application/x-ndjson', signal })
      onState('live')
      for await (const item of readNdjson<LogItem>(response.body!)) {
        failures = 0
        if (item.type === 'end') {
          onState('ended')
          return item
        }
        if (item.type === 'error') break
        cursor = item.cursor
        onRecords([item])
      }
    } catch (error) {
      if (signal.aborted || isAbort(error)) return undefined
      if (error instanceof ApiError && !error.isUnreachable) throw error
    }
    if (signal.aborted) return undefined
    onState('waiting')
    await sleep(retryDelayMs(failures), signal)
  }
  return undefined
}
