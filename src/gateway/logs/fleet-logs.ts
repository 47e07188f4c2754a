import { BerthError } from '../../errors.ts'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import type { FleetTaskTable } from '../../services/fleet-queue/fleet-queue-types.ts'
import { maxTailLines } from '../../services/logs/log-reader.ts'
import type { TaskRecord } from '../../services/tasks/task-record.ts'
import type { OutputBuffer } from './buffered-output.ts'
import { parseFleetCursor } from './fleet-cursor.ts'
import { FleetLogReading } from './fleet-log-reading.ts'
import type { HostLogClient } from './host-log-client.ts'

export interface FleetLogRead {
  /** Only the output of this attempt. */
  attempt?: number | undefined
  cursor?: string | undefined
  /** Begin so many lines before the end; a cursor wins over it. */
  tail?: number | undefined
  follow?: boolean | undefined
  stream?: LogStream | undefined
  signal: AbortSignal
}

export interface FleetLog {
  readBatches: (options: FleetLogRead) => AsyncIterable<LogRecord[]>
  /** How the task, or its attempt, ended, once a reading has seen that it has. */
  end: () => { reason?: string, exitCode?: number } | undefined
}

/** Between two attempts to reach a host that does not answer: doubled from the first to the longest, in milliseconds. */
export interface HostRetry {
  firstMs: number
  longestMs: number
}

export interface FleetLogsOptions {
  table: Pick<FleetTaskTable, 'get' | 'watch'>
  hosts: Pick<HostLogClient, 'read'>
  buffer: OutputBuffer
  retry?: Partial<HostRetry>
  /** A delivery that is over by what the queue says is followed on its host for so long; then what there is of it is read. In milliseconds. */
  overdueMs?: number
  /** A follower waits so long from the end of a delivery for its host, or for the rest of its output in the buffer. In milliseconds. */
  patienceMs?: number
}

/**
 * The output of a fleet's tasks, all deliveries of each in their order: from the host of each while it can be reached, else from the buffer
 * of the fleet; and on from there when the host comes back. The same place has the same cursor in both.
 */
export class FleetLogs {
  readonly #options: Required<FleetLogsOptions> & { retry: HostRetry }

  constructor ({ overdueMs = 2000, patienceMs = 10_000, retry, ...options }: FleetLogsOptions) {
    this.#options = { ...options, overdueMs, patienceMs, retry: { firstMs: 500, longestMs: 15_000, ...retry } }
  }

  /** @throws BerthError not_found `attempt_not_found` for an attempt that has not begun. */
  open (record: TaskRecord, attempt?: number): FleetLog {
    if (attempt !== undefined && !record.attempts.some(({ number, startedAt }) => number === attempt && startedAt !== undefined)) {
      throw new BerthError('not_found', 'attempt_not_found', `the task has no attempt ${attempt} that has begun; it has ${record.attempts.length}`)
    }
    let reading: FleetLogReading | undefined
    return {
      readBatches: ({ cursor, tail, ...options }) => {
        if (tail !== undefined && (!Number.isInteger(tail) || tail < 0 || tail > maxTailLines)) {
          throw new BerthError('invalid_argument', 'invalid_tail', `tail must be a whole number from 0 to ${maxTailLines}`)
        }
        const start = cursor === undefined ? { tail } : parseFleetCursor(cursor)
        reading = new FleetLogReading(record, { ...options, attempt, start }, this.#options)
        return reading.batches()
      },
      end: () => reading?.end(),
    }
  }
}
