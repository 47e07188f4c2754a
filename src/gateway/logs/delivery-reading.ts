import { setTimeout as delay } from 'node:timers/promises'
import { BerthError } from '../../errors.ts'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import { deliveryId } from '../../services/tasks/delivery-id.ts'
import type { AttemptRecord, TaskRecord } from '../../services/tasks/task-record.ts'
import type { FleetTaskWatch } from '../tasks/fleet-task-watch.ts'
import { BufferedOutput, tailOfBuffer } from './buffered-output.ts'
import { compareCursors } from './fleet-cursor.ts'
import type { DeliveryPlace } from './delivery-place.ts'
import type { ReadingParts } from './fleet-log-reading.ts'
import { HostGoneError } from './host-log-client.ts'

/** What a delivery is read from, and who says how it stands. */
export interface DeliverySource extends ReadingParts {
  watch: FleetTaskWatch
  /** Has `record` and `delivery` as they are at this moment. */
  refresh: () => Promise<void>
  record: () => TaskRecord
  /** undefined once the task is gone. */
  delivery: (fence: number) => AttemptRecord | undefined
}

export interface DeliveryReadingOptions {
  source: DeliverySource
  /** Begin so many lines before the end, in the place of the place. */
  tail?: number | undefined
  follow: boolean
  stream?: LogStream | undefined
  signal: AbortSignal
}

/** So often at least a host is asked for a delivery that is over before the buffer has the last word. */
const minFailuresOfOver = 3

/** One delivery, from its place to its end: from its host, and where that is gone from the buffer until it is back. */
export class DeliveryReading {
  readonly #fence: number
  readonly #place: DeliveryPlace
  readonly #options: DeliveryReadingOptions
  readonly #source: DeliverySource
  #tail: number | undefined
  /** Calls to the host since it last sent something. */
  #failures = 0
  /** Of those, since the delivery is over. */
  #failuresOfOver = 0
  #overSinceMs = 0

  constructor (fence: number, place: DeliveryPlace, options: DeliveryReadingOptions) {
    this.#fence = fence
    this.#place = place
    this.#options = options
    this.#source = options.source
    this.#tail = options.tail
  }

  async * batches (): AsyncGenerator<LogRecord[]> {
    const { signal, follow } = this.#options
    while (!signal.aborted) {
      const wasOver = this.#isOver()
      const heard = { something: false }
      try {
        if (yield * this.#fromHost(heard)) return
        continue
      } catch (error) {
        if (!(error instanceof HostGoneError)) throw error
      }
      this.#failures++
      if (wasOver && this.#failuresOfOver++ === 0) this.#overSinceMs = Date.now()
      // A daemon that was started again, or a connection that was closed: the next one may do.
      if (heard.something) continue
      if (!follow || (wasOver && this.#isHopeless())) return yield * this.#restOfBuffer()
      if (yield * this.#fromBuffer(wasOver)) return
    }
  }

  /** Answers true once the host has said that there is no more. @throws HostGoneError. */
  async * #fromHost (heard: { something: boolean }): AsyncGenerator<LogRecord[], boolean> {
    const { hosts } = this.#source
    const { stream, signal } = this.#options
    const common = this.#hostLog()
    yield * this.#catchUp()
    const follow = this.#options.follow && !this.#isOver()
    const enough = new AbortController()
    const overdue = follow ? this.#whenOverdue(enough) : undefined
    const from = this.#tail === undefined ? { cursor: this.#place.hostCursor } : { tail: this.#tail }
    try {
      for await (const records of hosts.read({ ...common, ...from, follow, stream, signal: AbortSignal.any([signal, enough.signal]) })) {
        heard.something = true
        this.#failures = this.#failuresOfOver = 0
        this.#tail = undefined
        yield * this.#taken(records)
      }
      return true
    } catch (error) {
      if (enough.signal.aborted && !signal.aborted) return false
      throw error
    } finally {
      enough.abort()
      await overdue
    }
  }

  /** The buffer gives out a line when it ends: what one stream had begun when the other was given out is to be had from the host alone. */
  async * #catchUp (): AsyncGenerator<LogRecord[]> {
    const { signal } = this.#options
    for (let behind = this.#place.lagging; behind; behind = this.#place.lagging) {
      const { stream, from } = behind
      const end = this.#place.hostCursor
      for await (const records of this.#source.hosts.read({ ...this.#hostLog(), cursor: from, follow: false, stream, signal })) {
        const missed = records.filter(({ cursor }) => compareCursors(cursor, end) <= 0)
        yield * this.#taken(missed, stream)
        if (missed.length < records.length) break
      }
      this.#place.caughtUp(stream)
    }
  }

  * #taken (records: readonly LogRecord[], catchingUp?: LogStream): Generator<LogRecord[]> {
    const shown = records.map(record => this.#place.takeRecord(record, catchingUp)).filter(record => record !== undefined)
    if (shown.length > 0) yield shown
  }

  /** What the buffer gets, until it is time to ask the host again; answers true where that is needless, because the buffer has all. */
  async * #fromBuffer (wasOver: boolean): AsyncGenerator<LogRecord[], boolean> {
    const { buffer, retry, record } = this.#source
    const pauseMs = Math.min(retry.firstMs * 2 ** (this.#failures - 1), retry.longestMs)
    const over = new AbortController()
    const pause = AbortSignal.any([this.#options.signal, over.signal, AbortSignal.timeout(pauseMs)])
    const watching = wasOver ? undefined : this.#untilOver(pause).then(() => over.abort())
    try {
      const output = await this.#beginInBuffer()
      for await (const kept of buffer.follow(record(), pause)) {
        const records = output.take(kept)
        if (records.length > 0) yield records
        if (!kept.complete.has(this.#fence)) continue
        const rest = output.rest()
        if (rest.length > 0) yield rest
        return true
      }
    } catch (error) {
      if (!(error instanceof BerthError) || error.kind !== 'unavailable') throw error
      await delay(pauseMs, undefined, { signal: pause, ref: false }).catch(() => {})
    } finally {
      over.abort()
      await watching
    }
    return false
  }

  /** The last word on a delivery whose host is gone. */
  async * #restOfBuffer (): AsyncGenerator<LogRecord[]> {
    const kept = await this.#source.buffer.read(this.#source.record())
    const output = await this.#beginInBuffer()
    const records = [...output.take(kept), ...output.rest()]
    const last = kept.complete.has(this.#fence) ? records : [...records, this.#place.gap(this.#lostMessage())]
    if (last.length > 0) yield last
  }

  async #beginInBuffer (): Promise<BufferedOutput> {
    const { buffer, record } = this.#source
    const { stream: only } = this.#options
    if (this.#tail === undefined) return new BufferedOutput(this.#place, { only })
    const tail = tailOfBuffer(await buffer.read(record()), { fence: this.#fence, only, lines: this.#tail })
    this.#place.skipTo(tail.cursor)
    const isWhole = tail.lines === this.#tail
    this.#tail = undefined
    return new BufferedOutput(this.#place, { only, ...(isWhole && { next: tail.next }) })
  }

  /** Gives the host up to say by itself that a delivery has ended which the queue knows to be over: it may not know. */
  async #whenOverdue (enough: AbortController): Promise<void> {
    await this.#untilOver(enough.signal)
    await delay(this.#source.overdueMs, undefined, { signal: enough.signal, ref: false }).catch(() => {})
    enough.abort()
  }

  /** Until the queue says that the delivery is over, or the signal is aborted. */
  async #untilOver (signal: AbortSignal): Promise<void> {
    const { watch, refresh } = this.#source
    while (!signal.aborted && !this.#isOver()) {
      const { version } = watch
      await watch.changed(version, signal)
      if (!signal.aborted) await refresh()
    }
  }

  /** A host that reported the end of a delivery is there, and ships the rest or comes back; one that lost it may be gone for good. */
  #isHopeless (): boolean {
    if (this.#failuresOfOver < minFailuresOfOver) return false
    const delivery = this.#source.delivery(this.#fence)
    if (delivery === undefined || delivery.status === 'returned') return true
    const overSinceMs = Math.min(this.#overSinceMs, Date.parse(delivery.endedAt ?? ''))
    return !(Date.now() - overSinceMs < this.#source.patienceMs)
  }

  #isOver (): boolean {
    const delivery = this.#source.delivery(this.#fence)
    return !delivery || delivery.endedAt !== undefined
  }

  #hostLog (): { workerId: string, taskId: string } {
    const workerId = this.#source.delivery(this.#fence)?.workerId
    if (workerId === undefined) throw new HostGoneError('nobody knows who had the delivery')
    return { workerId, taskId: deliveryId({ taskId: this.#source.record().id, fence: this.#fence }) }
  }

  #lostMessage (): string {
    const { id, spec } = this.#source.record()
    const worker = this.#source.delivery(this.#fence)?.workerId
    const where = spec.outputs.filter(({ type }) => type === 's2')
      .map(({ basin }) => `; what was shipped to S2 lies there, in ${basin === undefined ? 'the basin of the worker' : `the basin ${basin}`}, stream task.${deliveryId({ taskId: id, fence: this.#fence })}.logs`)
    return `the worker ${worker ?? 'that had the task'} does not answer, and the buffer of the fleet has no more of what it printed${where.join('')}`
  }
}
