/**
 * Writes numbered records into one stream of S2, each once and in order, through any failure of the way there.
 *
 * Every append says at which position of the stream it belongs (`matchSeqNum`), so S2 takes it there or not at all: batches in
 * flight cannot overtake each other, a batch cannot follow one that failed, and one that was sent by a daemon that is gone and
 * arrives late cannot slip in. After a failure, and when it is opened again, the writer asks for the stream's tail. What is
 * behind the last confirmed place was stored without an answer that arrived; the last of these records says how far it
 * came, and so far what is written again is skipped. That needs no fencing token, which would put records of its own into the stream.
 *
 * Nobody else writes into these streams. If somebody does, nothing is lost or out of order: places are found again by reading
 * back over what is not ours. Records repeat, with the same `seq` and `cursor`, only where S2 has thrown away (trimmed, or deleted with its
 * stream) the very records that would have shown how far it had come, or where more than 10,000 foreign records follow them.
 */
import type { Logger } from 'pino'
import type { S2Client } from './s2-client.ts'
import { isHeld, markOf, packRecords, type S2Mark, type S2Record } from './s2-record.ts'
import { S2Session } from './s2-session.ts'

/** The stream's tail, and the last entry before it; `seq` is -1 for none. */
export interface S2Place extends S2Mark { tail: number }

export interface S2StreamWriterOptions {
  client: S2Client
  /** Name of the stream. */
  name: string
  taskId: string
  /** A place that S2 has confirmed once. */
  confirmed: S2Place | undefined
  /** How long a session without anything to write is kept, ms. */
  idleMs: number
  logger: Logger
}

/** How far back foreign records are read over, and how many at a time at most. */
const walkBackRecords = 10_000
const walkStepRecords = 1000

export class S2StreamWriter {
  readonly #options: S2StreamWriterOptions
  readonly #ending = new AbortController()
  /** What S2 has confirmed, to this writer or one before it. */
  #confirmed: S2Place | undefined
  /** Behind all that was submitted; undefined while what the stream holds has to be asked. */
  #next: S2Place | undefined
  #session: S2Session | undefined
  /** Of the oldest record that was submitted and is not confirmed. */
  #oldestSeq = 0
  /** Set by a failure: where the writing has to begin again. */
  #restartSeq: number | undefined
  #turn: Promise<unknown> = Promise.resolve()
  #lastAck: Promise<unknown> = Promise.resolve()
  #unacked = 0
  #idleTimer: NodeJS.Timeout | undefined

  constructor (options: S2StreamWriterOptions) {
    this.#options = options
    this.#confirmed = options.confirmed
  }

  /**
   * Writes records, in the order of the calls; several calls may be under way. Resolved with a place at or behind them that S2
   * has confirmed. A call that fails makes those behind it fail; the next one begins at or before the first record that failed.
   * @throws S2Failure, SinkRefusal
   */
  async write (records: readonly S2Record[]): Promise<S2Place> {
    const turn = this.#turn.then(() => this.#submit(records))
    this.#turn = turn.catch(() => undefined)
    const { acked } = await turn
    await acked
    if (this.#confirmed === undefined) throw new Error('no place is known of a stream that has been written to')
    return this.#confirmed
  }

  /** Takes nothing more, gives what is in flight a second, then ends it. Never throws, never hangs. */
  async close (): Promise<void> {
    this.#ending.abort(new Error('the output is closed'))
    await this.#turn
    clearTimeout(this.#idleTimer)
    await this.#session?.close()
  }

  /** In an object, so that waiting for the submission is not waiting for the acknowledgement. */
  async #submit (records: readonly S2Record[]): Promise<{ acked: Promise<unknown> }> {
    const first = records[0]
    if (first === undefined) return { acked: this.#lastAck }
    this.#ending.signal.throwIfAborted()
    if (this.#restartSeq !== undefined && first.seq > this.#restartSeq) throw new Error('S2 did not take a batch before this one')
    const runs = packRecords(records)
    try {
      if (this.#next === undefined) {
        this.#next = this.#confirmed = await this.#find()
        this.#lastAck = Promise.resolve()
      }
    } catch (error) {
      this.#restartSeq = first.seq
      throw error
    }
    this.#restartSeq = undefined
    const known = this.#next
    const acks = runs.map(run => run.filter(record => !isHeld(record, known))).filter(fresh => fresh.length > 0).map(fresh => this.#append(fresh))
    // What is in flight already is confirmed with the last of it.
    if (acks.length > 0) this.#lastAck = Promise.all(acks)
    this.#lastAck.catch(() => undefined)
    return { acked: this.#lastAck }
  }

  async #append (records: readonly S2Record[]): Promise<void> {
    const { client, name } = this.#options
    const session = this.#session ??= new S2Session(client, name)
    const first = records[0]?.seq ?? 0
    const position = this.#next?.tail ?? 0
    const { seq, cursor } = records.at(-1) ?? { seq: first }
    const place: S2Place = { seq, tail: position + records.length, ...(cursor === undefined ? {} : { cursor }) }
    this.#next = place
    clearTimeout(this.#idleTimer)
    if (this.#unacked++ === 0) this.#oldestSeq = first
    try {
      await session.append(records, position)
    } catch (error) {
      this.#fail(session)
      throw error
    }
    if (session !== this.#session) throw new Error('a batch before this one failed')
    this.#confirmed = place
    this.#oldestSeq = seq + 1
    if (--this.#unacked === 0) this.#rest()
  }

  /** All that is in flight has failed with the first that did. */
  #fail (session: S2Session): void {
    if (session !== this.#session) return
    this.#session = undefined
    this.#next = undefined
    this.#unacked = 0
    this.#restartSeq = this.#oldestSeq
  }

  /** A thousand quiet tasks hold no thousand sessions. What is known of the stream is kept. */
  #rest (): void {
    if (this.#ending.signal.aborted) return
    this.#idleTimer = setTimeout(() => {
      const session = this.#session
      this.#session = undefined
      void session?.close()
    }, this.#options.idleMs)
  }

  /** What the stream holds; makes it where it is not there. */
  async #find (): Promise<S2Place> {
    const { client, name, taskId, logger } = this.#options
    const { signal } = this.#ending
    const confirmed = this.#confirmed
    if (confirmed === undefined && await client.create(name, signal)) return { seq: -1, tail: 0 }
    let tail = await client.tail(name, signal)
    if (tail === undefined) {
      await client.create(name, signal)
      tail = await client.tail(name, signal) ?? 0
    }
    if (tail === confirmed?.tail) return confirmed
    const isShorter = confirmed !== undefined && tail < confirmed.tail
    if (isShorter) logger.warn({ taskId, stream: name, tail, confirmed }, 'a stream of S2 has lost records that it had confirmed')
    const floor = isShorter ? 0 : confirmed?.tail ?? 0
    const last = await this.#lastMark(floor, tail) ?? (isShorter ? undefined : confirmed) ?? { seq: -1 }
    return { ...last, tail }
  }

  /** The last entry of ours in [floor, tail); undefined where none is to be found. */
  async #lastMark (floor: number, tail: number): Promise<S2Mark | undefined> {
    const { client, name, taskId } = this.#options
    const lowest = Math.max(floor, tail - walkBackRecords)
    for (let end = tail, step = 1; end > lowest; step = Math.min(step * 10, walkStepRecords)) {
      const from = Math.max(lowest, end - step)
      for (const { body } of (await client.read(name, from, end, this.#ending.signal)).reverse()) {
        const mark = markOf(taskId, body)
        if (mark !== undefined) return mark
      }
      end = from
    }
    return undefined
  }
}
