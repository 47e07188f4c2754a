/** One connection of an output to its destination: from a place in the log until it is up to date for good, fails, or is stopped. */
import { setTimeout as sleep } from 'node:timers/promises'
import { rejectWhenAborted } from '../../lib/abort-race.ts'
import { ChangeSignal } from '../../lib/change-signal.ts'
import type { LogReader } from '../logs/log-reader.ts'
import { newOutputPair, type PlacedEntry } from './output-pair.ts'
import { startCursor, type OutputPlace } from './output-place.ts'
import type { OutputEntry, OutputSink, SinkState, StatusEntry } from './output-sink.ts'
import { isWaiting, lastSeq, type OutputTask } from './output-task.ts'

export interface SessionTimes {
  /** How long an entry may wait for others to fill its batch. */
  maxDelayMs: number
  /** How long a delivery may take before it counts as failed. */
  deliveryMs: number
  /** How long deliveries under way are waited for when the session is stopped, or has failed. */
  settleMs: number
}

export interface SessionOptions {
  task: OutputTask
  sink: OutputSink
  logs: LogReader
  logDir: string
  place: OutputPlace
  statusSeq: number
  /** Where batches of an earlier session ended that were not confirmed: they are made the same again. Kept up to date. */
  boundaries: number[]
  times: SessionTimes
  /** Tells that something of the task has changed. */
  changes: ChangeSignal
  /** Stops it at a clean place. */
  signal: AbortSignal
  /** Nobody wants to know what becomes of deliveries under way. */
  isForgotten: () => boolean
  onEntries: (place: OutputPlace, doneThrough: string, state: SinkState) => void
  onStatuses: (nextSeq: number) => void
}

interface Sent {
  place: OutputPlace
  doneThrough: string
  /** Once it is confirmed. */
  answer?: { state: SinkState }
}

export class OutputSession {
  readonly #options: SessionOptions
  /** Batches that were handed to the sink and are not confirmed, or not all before them are. */
  readonly #sent: Sent[] = []
  readonly #deliveries = new Set<Promise<void>>()
  readonly #changed = new ChangeSignal()
  readonly #over = new AbortController()
  #batch: PlacedEntry[] = []
  #batchBytes = 0
  #isDue = false
  #timer: NodeJS.Timeout | undefined
  #failure: { error: unknown } | undefined
  #isRead = false
  #statusSeq: number
  /** Number of the last status of the task when its log was seen to have ended. */
  #endSeq: number | undefined

  constructor (options: SessionOptions) {
    this.#options = options
    this.#statusSeq = options.statusSeq
  }

  /** Nothing waits to be delivered or confirmed. */
  get isQuiet (): boolean {
    return this.#batch.length === 0 && this.#deliveries.size === 0
  }

  /**
   * Resolves once the log was read and delivered, to its end or, while the task waits for an attempt, as far as there is any, and
   * all statuses were; or once it was stopped. Closes the sink in any case. Answers whether that was all of a task that has ended.
   * @throws whatever the sink did.
   */
  async run (): Promise<boolean> {
    const { signal, changes } = this.#options
    const stop = (): void => { this.#over.abort() }
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    const stopListening = this.#relay(changes)
    try {
      const work = [this.#read(), this.#tell()].map(promise => promise.catch(error => { this.#fail(error) }))
      await Promise.all(work)
    } finally {
      stopListening()
      clearTimeout(this.#timer)
      signal.removeEventListener('abort', stop)
      await this.#close()
    }
    if (this.#failure) throw this.#failure.error
    const { task } = this.#options
    const last = lastSeq(task)
    return !signal.aborted && this.#isRead && task.isEnded() && this.#endSeq === last && this.#statusSeq > last
  }

  /** Passes changes of the task on, so that the loops here wait for one thing only. */
  #relay (changes: ChangeSignal): () => void {
    const listening = new AbortController()
    const loop = async (): Promise<void> => {
      while (!listening.signal.aborted) {
        await changes.wait(listening.signal)
        this.#changed.notify()
      }
    }
    void loop()
    return () => { listening.abort() }
  }

  async #read (): Promise<void> {
    const { task, sink, logs, logDir, place } = this.#options
    const pair = newOutputPair({ entryBytes: sink.limits.entryBytes, place })
    const follow = !isWaiting(task)
    const cursor = pair.readFrom === startCursor ? undefined : pair.readFrom
    for await (const records of logs.readBatches({ dir: logDir, cursor, follow, signal: this.#over.signal, isEnded: () => this.#isEnded() })) {
      for (const record of records) {
        for (const placed of pair.push(record)) await this.#add(placed)
      }
    }
    if (task.isEnded()) for (const placed of pair.end()) await this.#add(placed)
    await this.#dispatch()
    while (this.#deliveries.size > 0 && !this.#isOver) await this.#change()
    this.#isRead = true
    this.#changed.notify()
  }

  /** A task that was tried again and has ended again since then has more to read. */
  #isEnded (): boolean {
    const { task } = this.#options
    if (!task.isEnded()) return false
    this.#endSeq = lastSeq(task)
    return true
  }

  async #tell (): Promise<void> {
    const { task, sink } = this.#options
    while (!this.#isOver) {
      const entries = this.#statuses(task).slice(0, sink.limits.batchEntries)
      if (entries.length > 0) {
        await this.#inTime(sink.writeStatus?.(entries) ?? Promise.resolve())
        this.#statusSeq = entries.at(-1)!.seq + 1
        this.#options.onStatuses(this.#statusSeq)
      } else if (this.#isRead) {
        return
      } else {
        await this.#change()
      }
    }
  }

  /** Those that may be told: of an ended task the last one only once all output is delivered. */
  #statuses (task: OutputTask): readonly StatusEntry[] {
    const all = task.statuses()
    const ready = task.isEnded() && !this.#isRead ? all.slice(0, -1) : all
    return ready.filter(({ seq }) => seq >= this.#statusSeq)
  }

  async #add (placed: PlacedEntry): Promise<void> {
    if (this.#isOver) return
    const { limits } = this.#options.sink
    const bytes = placed.entry.data.length
    if (this.#batchBytes + bytes > limits.batchBytes) await this.#dispatch()
    this.#batch.push(placed)
    this.#batchBytes += bytes
    const isFull = this.#batch.length >= limits.batchEntries || this.#batchBytes >= limits.batchBytes
    if (isFull || this.#options.boundaries.includes(placed.entry.seq)) await this.#dispatch()
    else this.#timer ??= setTimeout(() => { this.#due() }, this.#options.times.maxDelayMs)
  }

  /** Hands the batch over as soon as there is room for it. */
  async #dispatch (): Promise<void> {
    while (!this.#hasRoom && !this.#isOver) await this.#change()
    this.#send()
  }

  #due (): void {
    this.#timer = undefined
    const last = this.#batch.at(-1)
    if (!last || this.#isOver) return
    // The rest of a batch that was sent before is on its way.
    if (this.#options.boundaries.some(boundary => boundary > last.entry.seq)) return
    if (this.#hasRoom) this.#send()
    else this.#isDue = true
  }

  #send (): void {
    const placed = this.#batch
    const last = placed.at(-1)
    if (!last || this.#isOver) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#batch = []
    this.#batchBytes = 0
    this.#isDue = false
    const sent: Sent = { place: last.place, doneThrough: last.entry.cursor }
    this.#sent.push(sent)
    const { boundaries } = this.#options
    if (!boundaries.includes(last.entry.seq)) boundaries.push(last.entry.seq)
    const delivery = this.#deliver(sent, placed.map(({ entry }) => entry)).catch(error => { this.#fail(error) }).finally(() => {
      this.#deliveries.delete(delivery)
      if (this.#isDue && this.#hasRoom) this.#send()
      this.#changed.notify()
    })
    this.#deliveries.add(delivery)
  }

  async #deliver (sent: Sent, entries: readonly OutputEntry[]): Promise<void> {
    const { sink, boundaries, onEntries } = this.#options
    const state = await this.#inTime(sink.write(entries))
    sent.answer = { state }
    for (let first = this.#sent[0]; first?.answer; first = this.#sent[0]) {
      this.#sent.shift()
      while (boundaries[0] !== undefined && boundaries[0] < first.place.seq) boundaries.shift()
      onEntries(first.place, first.doneThrough, first.answer.state)
    }
  }

  /** A sink that hangs has failed. */
  async #inTime<T> (delivery: Promise<T>): Promise<T> {
    const late = AbortSignal.timeout(this.#options.times.deliveryMs)
    return await rejectWhenAborted(delivery, late).catch(error => { throw late.aborted ? new Error('the destination does not answer') : error })
  }

  get #hasRoom (): boolean {
    return this.#deliveries.size < this.#options.sink.limits.batchesInFlight
  }

  get #isOver (): boolean {
    return this.#over.signal.aborted
  }

  #change (): Promise<void> {
    return this.#changed.wait(this.#over.signal)
  }

  #fail (error: unknown): void {
    // What fails because the session is over says nothing.
    if (this.#isOver) return
    this.#failure = { error }
    this.#over.abort()
  }

  async #close (): Promise<void> {
    const { sink, times, isForgotten } = this.#options
    const settled = isForgotten() ? Promise.resolve() : Promise.allSettled(this.#deliveries)
    // What is under way may yet be confirmed where nothing is wrong; elsewhere closing ends it.
    if (!this.#failure) await bounded(settled, times.settleMs)
    const isWhole = !this.#isOver
    this.#over.abort()
    const closed = sink.close().catch(error => {
      // Closing may be what makes the last of it durable.
      if (isWhole) this.#failure = { error }
    })
    await bounded(closed, times.settleMs)
    await bounded(settled, times.settleMs)
  }
}

async function bounded (promise: Promise<unknown>, ms: number): Promise<void> {
  const timer = new AbortController()
  await Promise.race([promise, sleep(ms, undefined, { signal: timer.signal }).catch(() => undefined)])
  timer.abort()
}
