/** One client of S2 for all sinks with the same endpoint, basin and access token. */
import type { ReadInput, ReadRecord, S2Basin, S2Stream } from '@s2-dev/streamstore'
import { Semaphore } from 'async-mutex'
import { toS2Failure } from './s2-failure.ts'

export interface S2ClientOptions {
  endpoint?: string
  basin: string
  accessToken: string
  /** How long a request may take, ms. */
  requestTimeoutMs: number
}

/** A record that was read back. */
export interface S2ReadRecord { position: number, body: Uint8Array }

/** A thousand tasks that find S2 again after an outage ask it so many questions at once. */
const requestsAtOnce = 8
/** Of the library's own ack timeout; ours comes first, so that the library never waits for ever for what it timed out itself. */
const libraryTimeoutFactor = 4

const clients = new Map<string, { client: S2Client, users: number }>()

/** Shares the client of this endpoint, basin and token; every call is paired with one of `releaseS2Client`. @throws where S2's library refuses the options. */
export async function acquireS2Client (options: S2ClientOptions): Promise<S2Client> {
  // The library is loaded when it is used for the first time: it costs a start of the daemon 0.1 s.
  const { S2 } = await import('@s2-dev/streamstore')
  const key = keyOf(options)
  const shared = clients.get(key)
  if (shared !== undefined) {
    shared.users++
    return shared.client
  }
  const { endpoint, accessToken, requestTimeoutMs } = options
  const s2 = new S2({
    accessToken,
    // Both kinds of requests go to the one address, which is told the basin in a header.
    ...(endpoint === undefined ? {} : { endpoints: { account: endpoint, basin: endpoint } }),
    requestTimeoutMillis: requestTimeoutMs * libraryTimeoutFactor,
    // Who ships tries again from the last confirmed batch; two that retry would multiply each other's attempts.
    retry: { maxAttempts: 1, appendRetryPolicy: 'noSideEffects' },
    // Compressed frames can overtake: of two batches, a small one is not compressed and does not wait for the large one before it.
    compression: 'none',
  })
  const client = new S2Client(options, s2.basin(options.basin))
  clients.set(key, { client, users: 1 })
  return client
}

export function releaseS2Client (client: S2Client): void {
  const key = keyOf(client.options)
  const shared = clients.get(key)
  if (shared !== undefined && --shared.users === 0) clients.delete(key)
}

/** How many clients are in use. */
export function countS2Clients (): number {
  return clients.size
}

function keyOf ({ endpoint, basin, accessToken }: S2ClientOptions): string {
  return JSON.stringify([endpoint, basin, accessToken])
}

/** Requests about streams of one basin. All throw S2Failure. */
export class S2Client {
  readonly options: S2ClientOptions
  readonly #basin: S2Basin
  readonly #requests = new Semaphore(requestsAtOnce)

  constructor (options: S2ClientOptions, basin: S2Basin) {
    this.options = options
    this.#basin = basin
  }

  /** A handle for append sessions; the connection below it is shared by all streams of one endpoint. */
  stream (name: string): S2Stream {
    return this.#basin.stream(name)
  }

  /** Makes a stream. Answers false where it is there already, or where the token may not make any: an append may make it then. */
  async create (stream: string, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#ask(stream, signal, signal => this.#basin.streams.create({ stream }, { signal }))
      return true
    } catch (error) {
      const { status, code } = toS2Failure(error, { stream, ...this.options })
      if (status === 403 || (status === 409 && code !== 'stream_deletion_pending' && code !== 'basin_deletion_pending' && code !== 'transaction_conflict')) return false
      throw error
    }
  }

  /** The position that the next record gets; undefined where there is no such stream. */
  async tail (stream: string, signal: AbortSignal): Promise<number | undefined> {
    try {
      const { tail } = await this.#ask(stream, signal, signal => this.#basin.stream(stream).checkTail({ signal }))
      return tail.seqNum
    } catch (error) {
      const { status, code } = toS2Failure(error, { stream, ...this.options })
      if (status === 404 && code !== 'basin_not_found') return undefined
      throw error
    }
  }

  /** The records in [from, to) that S2 still has. */
  async read (stream: string, from: number, to: number, signal: AbortSignal): Promise<S2ReadRecord[]> {
    const found: S2ReadRecord[] = []
    for (let next = from; next < to;) {
      const input = { start: { from: { seqNum: next }, clamp: true }, stop: { limits: { count: to - next } } }
      const records = await this.#readOnce(stream, input, signal)
      const last = records.at(-1)
      if (last === undefined) break
      for (const { seqNum, body } of records) if (seqNum < to) found.push({ position: seqNum, body })
      next = last.seqNum + 1
    }
    return found
  }

  async #readOnce (stream: string, input: ReadInput, signal: AbortSignal): Promise<readonly ReadRecord<'bytes'>[]> {
    try {
      return (await this.#ask(stream, signal, signal => this.#basin.stream(stream).read(input, { as: 'bytes', signal }))).records
    } catch (error) {
      // Nothing is left from there on.
      if (toS2Failure(error, { stream, ...this.options }).status === 416) return []
      throw error
    }
  }

  async #ask<T> (stream: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { requestTimeoutMs } = this.options
    return this.#requests.runExclusive(async () => {
      const timeout = AbortSignal.timeout(requestTimeoutMs)
      try {
        signal.throwIfAborted()
        return await work(AbortSignal.any([signal, timeout]))
      } catch (error) {
        if (timeout.aborted && !signal.aborted) throw toS2Failure(new Error(`no answer within ${requestTimeoutMs} ms`), { stream, ...this.options })
        throw toS2Failure(error, { stream, ...this.options })
      }
    })
  }
}
