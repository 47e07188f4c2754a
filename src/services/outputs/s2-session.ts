/** An append session of S2 that can be ended at any moment, whatever the other side does. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { constants, type ClientHttp2Stream } from 'node:http2'
import type { AppendSession, S2Stream } from '@s2-dev/streamstore'
import { raceWithDelay } from '../../lib/race.ts'
import type { S2Client } from './s2-client.ts'
import type { S2Record } from './s2-record.ts'
import { toS2Failure } from './s2-failure.ts'

/** Never reached with the batches that a sink has in flight, so that a batch never waits inside the library, where it could be overtaken. */
const libraryBytesInFlight = 64 * 1024 * 1024
/** How long a connection may leave a ping unanswered before it counts as dead, ms; less where requests have less. */
const pingTimeoutMs = 2000
/** How long each step of a friendly end may take before it is ended by force, ms. */
const closeTimeoutMs = 1000

/**
 * The library keeps its connections to itself, uses one that went silent again and again, and waits for ever for the acks of a
 * stream that went silent. Node tells of every HTTP/2 stream that is made, in the context of the session that asked for it.
 */
const madeFor = new AsyncLocalStorage<S2Session>()
let isListening = false

function listen (): void {
  if (isListening) return
  isListening = true
  subscribe('http2.client.stream.created', message => madeFor.getStore()?.take((message as { stream: ClientHttp2Stream }).stream))
}

export class S2Session {
  readonly #client: S2Client
  readonly #name: string
  readonly #abort = new AbortController()
  readonly #opened: Promise<{ stream: S2Stream, session: AppendSession }>
  readonly #http2 = new Set<ClientHttp2Stream>()
  #submitted: Promise<unknown> = Promise.resolve()
  #unacked = 0
  #timer: NodeJS.Timeout | undefined
  #timedOut: Error | undefined

  /** Opens nothing yet: the first append does. */
  constructor (client: S2Client, name: string) {
    listen()
    this.#client = client
    this.#name = name
    this.#opened = this.#open()
    this.#opened.catch(() => undefined)
  }

  /**
   * Appends in the order of the calls, if the stream's tail is `position` then. Resolved once S2 has the records for good.
   * After a failure the session is of no more use: every append under way or made later fails too.
   * @throws S2Failure
   */
  async append (records: readonly S2Record[], position: number): Promise<void> {
    const ticket = this.#submitted.then(() => madeFor.run(this, () => this.#submit(records, position)))
    this.#submitted = ticket
    ticket.catch(() => undefined)
    if (this.#unacked++ === 0) this.#watch()
    try {
      const ack = await (await ticket).acked
      if (ack.start.seqNum !== position) throw new Error(`S2 put a batch at ${ack.start.seqNum} that was for ${position}`)
      this.#watch()
    } catch (error) {
      void this.end()
      throw toS2Failure(this.#timedOut ?? error, { stream: this.#name, ...this.#client.options })
    } finally {
      if (--this.#unacked === 0) clearTimeout(this.#timer)
    }
  }

  /** A friendly end where nothing is under way, by force where something still is after a second. Never throws, never hangs. */
  async close (): Promise<void> {
    const { session } = await this.#opened.catch(() => ({ session: undefined }))
    const ended = session?.close().then(() => Promise.all([...this.#http2].map(http2 => once(http2, 'close'))))
    await raceWithDelay(closeTimeoutMs, [ended?.catch(() => undefined) ?? Promise.resolve()])
    await this.end()
  }

  /** Ends at once; what is under way fails. */
  async end (): Promise<void> {
    this.#abort.abort()
    for (const http2 of this.#http2) if (!http2.destroyed) http2.close(constants.NGHTTP2_CANCEL)
    const { stream } = await this.#opened.catch(() => ({ stream: undefined }))
    const closed = stream?.close().catch(() => undefined) ?? Promise.resolve()
    await raceWithDelay(closeTimeoutMs, [closed])
    for (const http2 of this.#http2) http2.destroy()
  }

  /** A stream that the library made for this session. */
  take (http2: ClientHttp2Stream): void {
    if (this.#abort.signal.aborted) return http2.close(constants.NGHTTP2_CANCEL)
    this.#http2.add(http2)
    http2.once('close', () => this.#http2.delete(http2))
  }

  async #open (): Promise<{ stream: S2Stream, session: AppendSession }> {
    const stream = this.#client.stream(this.#name)
    const session = await stream.appendSession({ maxInflightBytes: libraryBytesInFlight }, { signal: this.#abort.signal })
    // Acks that nobody reads would pile up in the session for as long as it lives.
    session.readable.pipeTo(new WritableStream()).catch(() => undefined)
    return { stream, session }
  }

  async #submit (records: readonly S2Record[], position: number) {
    const { AppendInput, AppendRecord } = await import('@s2-dev/streamstore')
    const { session } = await this.#opened
    const input = AppendInput.create(records.map(({ body, timestamp }) => AppendRecord.bytes({ body, timestamp })), { matchSeqNum: position })
    const ticket = await session.submit(input)
    const acked = ticket.ack()
    acked.catch(() => undefined)
    return { acked }
  }

  /** As long as acks arrive, the session lives; however long the line of batches is. */
  #watch (): void {
    const { requestTimeoutMs } = this.#client.options
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#timedOut = new Error(`no acknowledgement within ${requestTimeoutMs} ms`)
      for (const { session } of this.#http2) if (session !== undefined) endUnlessAlive(session, Math.min(pingTimeoutMs, requestTimeoutMs))
      void this.end()
    }, requestTimeoutMs)
  }
}

/** Ends a connection that does not answer a ping, with all that uses it: the library would go on to make streams on it. */
function endUnlessAlive (connection: NonNullable<ClientHttp2Stream['session']>, timeoutMs: number): void {
  if (connection.destroyed) return
  const timer = setTimeout(() => connection.destroy(), timeoutMs)
  connection.once('close', () => clearTimeout(timer))
  connection.ping(error => {
    clearTimeout(timer)
    if (error !== null) connection.destroy()
  })
}
