import { setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../../errors.ts'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import type { AttemptRecord, TaskRecord } from '../../services/tasks/task-record.ts'
import { hasEnded } from '../tasks/fleet-tasks.ts'
import { FleetTaskWatch } from '../tasks/fleet-task-watch.ts'
import { DeliveryReading, type DeliverySource } from './delivery-reading.ts'
import type { GivenOutStreams } from './fleet-cursor.ts'
import { DeliveryPlace } from './delivery-place.ts'
import type { FleetLogsOptions, HostRetry } from './fleet-logs.ts'

export interface FleetLogReadingOptions {
  attempt?: number | undefined
  start: { fence: number, streams: GivenOutStreams } | { tail?: number | undefined }
  follow?: boolean | undefined
  stream?: LogStream | undefined
  signal: AbortSignal
}

export type ReadingParts = Required<FleetLogsOptions> & { retry: HostRetry }

const beyond = 'the cursor lies behind the end of the log; reading goes on with the oldest output there is'
/** Before the queue is asked again that could not be. */
const queuePauseMs = 1000

/** One reading of the log of a task. */
export class FleetLogReading {
  readonly #options: FleetLogReadingOptions
  readonly #parts: ReadingParts
  #record: TaskRecord
  /** It was deleted: nothing more comes. */
  #isGone = false

  constructor (record: TaskRecord, options: FleetLogReadingOptions, parts: ReadingParts) {
    this.#record = record
    this.#options = options
    this.#parts = parts
  }

  end (): { reason?: string, exitCode?: number } | undefined {
    const end = this.#options.attempt === undefined ? this.#record.end : this.#record.attempts.findLast(({ number }) => number === this.#options.attempt)?.end
    return end && { reason: end.reason, ...(end.exitCode === undefined ? {} : { exitCode: end.exitCode }) }
  }

  async * batches (): AsyncGenerator<LogRecord[]> {
    const watch = new FleetTaskWatch(this.#parts.table, this.#record.id)
    try {
      yield * this.#batches(watch)
    } catch (error) {
      if (!this.#options.signal.aborted) throw error
    } finally {
      watch.close()
    }
  }

  async * #batches (watch: FleetTaskWatch): AsyncGenerator<LogRecord[]> {
    const { signal, follow, stream } = this.#options
    const source = this.#sourceOf(watch)
    let { version } = watch
    await this.#refresh()
    let { place, tail, after } = await this.#begin(source)
    if (place && after === Infinity) {
      yield [place.gap(beyond)]
      place = undefined
      after = -1
    }
    for (;;) {
      const next = this.#deliveries().find(({ fence }) => fence > after)
      if (next) {
        const at = place?.fence === next.fence ? place : new DeliveryPlace(next.fence, { only: stream })
        yield * new DeliveryReading(next.fence, at, { source, tail, follow: follow ?? false, stream, signal }).batches()
        after = next.fence
        tail = undefined
        if (signal.aborted) return
        continue
      }
      if (!follow || this.#isOver() || signal.aborted) return
      await watch.changed(version, signal)
      version = watch.version
      await this.#refresh()
    }
  }

  /** Where to begin: at a place of a delivery, or so many lines before the end of one; behind the delivery `after`. */
  async #begin (source: DeliverySource): Promise<{ place?: DeliveryPlace | undefined, tail?: number | undefined, after: number }> {
    const { start, stream, signal } = this.#options
    const deliveries = this.#deliveries()
    if ('fence' in start) {
      const place = new DeliveryPlace(start.fence, { streams: start.streams, only: stream })
      const isBeyond = start.fence > (this.#record.attempts.at(-1)?.fence ?? 0)
      return { place, after: isBeyond ? Infinity : start.fence - 1 }
    }
    let left = start.tail
    if (left === undefined || deliveries.length === 0) return { after: -1 }
    for (let index = deliveries.length - 1; index > 0; index--) {
      const { fence } = deliveries[index]!
      if (left === 0) return { tail: 0, after: fence - 1 }
      let lines = 0
      const place = new DeliveryPlace(fence, { only: stream })
      for await (const batch of new DeliveryReading(fence, place, { source, tail: left, follow: false, stream, signal }).batches()) lines += countLines(batch)
      if (lines >= left) return { tail: left, after: fence - 1 }
      left -= lines
    }
    return { tail: left, after: deliveries[0]!.fence - 1 }
  }

  /** Those that are meant, and may have printed something. */
  #deliveries (): AttemptRecord[] {
    const { attempt } = this.#options
    return this.#record.attempts.filter(delivery => (attempt === undefined || delivery.number === attempt) && mayHavePrinted(delivery))
  }

  /** Whether no further delivery comes that is meant. */
  #isOver (): boolean {
    if (this.#isGone || hasEnded(this.#record)) return true
    const { attempt } = this.#options
    if (attempt === undefined) return false
    const last = this.#record.attempts.findLast(({ number }) => number === attempt)
    return this.#record.attempts.some(({ number }) => number > attempt) || (last?.endedAt !== undefined && last.status !== 'returned')
  }

  /** A queue that cannot be asked for a while ends no reading. */
  async #refresh (): Promise<void> {
    const { signal } = this.#options
    while (!signal.aborted) {
      try {
        const record = await this.#parts.table.get(this.#record.id)
        if (record) this.#record = record
        else this.#isGone = true
        return
      } catch (error) {
        if (!this.#options.follow || !(error instanceof BerthError) || error.kind !== 'unavailable') throw error
        await delay(queuePauseMs, undefined, { signal, ref: false }).catch(() => {})
      }
    }
  }

  #sourceOf (watch: FleetTaskWatch): DeliverySource {
    return {
      ...this.#parts,
      watch,
      refresh: async () => await this.#refresh(),
      record: () => this.#record,
      delivery: fence => this.#isGone ? undefined : this.#record.attempts.find(delivery => delivery.fence === fence),
    }
  }
}

/** What came to no sandbox has printed nothing. A start may have been lost where the end was not. */
function mayHavePrinted ({ startedAt, logCursor, endedAt, status, end }: AttemptRecord): boolean {
  if (startedAt !== undefined || logCursor !== undefined) return true
  return endedAt !== undefined && status !== 'returned' && end !== undefined && end.reason !== 'setup_failed' && end.reason !== 'undeliverable'
}

function countLines (batch: readonly LogRecord[]): number {
  return batch.filter(record => record.type === 'line' && !record.partial).length
}
