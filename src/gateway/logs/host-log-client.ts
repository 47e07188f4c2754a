import { BerthError } from '../../errors.ts'
import type { LogRecord, LogStream } from '../../schemas/log.ts'
import type { Workers } from '../worker-record.ts'
import { parseCursor } from '../../services/logs/log-cursor.ts'
import { readEventStream, type StreamMessage } from './event-stream.ts'
import { WorkerConnections, type ConnectionTimes } from './worker-connections.ts'

export interface HostLogRead {
  workerId: string
  /** As the host calls the delivery. */
  taskId: string
  /** Of the host. */
  cursor?: string | undefined
  tail?: number | undefined
  follow: boolean
  stream?: LogStream | undefined
  signal: AbortSignal
}

/** The host cannot be reached, was cut off, is silent, or has not what was asked for. What it said before holds. */
export class HostGoneError extends Error {
  constructor (message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'HostGoneError'
  }
}

/** Of a connection that breaks before there is an answer. */
const closedCodes: ReadonlySet<string> = new Set(['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE'])

/** The host says each 15 s that it is there: three times nothing, and it is not. */
export const defaultTimes: Readonly<ConnectionTimes> = Object.freeze({ connectMs: 3000, headMs: 10_000, silenceMs: 45_000 })

/**
 * Reads logs of tasks from the hosts that have them, as event streams: those say when there is no more, and are never silent, so that an
 * end and a host that has died can be told apart.
 */
export class HostLogClient {
  readonly #workers: Pick<Workers, 'access'>
  readonly #connections: WorkerConnections
  /** Until when workers are not asked again. */
  readonly #restingUntil = new Map<string, number>()
  readonly #restMs: number

  constructor ({ workers, times = {}, restMs = 2000 }: { workers: Pick<Workers, 'access'>, times?: Partial<ConnectionTimes>, restMs?: number }) {
    this.#workers = workers
    this.#connections = new WorkerConnections({ ...defaultTimes, ...times })
    this.#restMs = restMs
  }

  /** Ends where the host says that the log does. @throws HostGoneError; the signal's reason. */
  async * read (options: HostLogRead): AsyncGenerator<LogRecord[]> {
    const { workerId, signal } = options
    if (this.#isResting(workerId)) throw new HostGoneError('the host did not answer a moment ago')
    const call = new AbortController()
    let isComplete = false
    try {
      const body = await this.#open(options, AbortSignal.any([signal, call.signal]))
      for await (const messages of readEventStream(body)) {
        const records = messages.filter(isRecord).map(({ data }) => toRecord(data))
        if (records.length > 0) yield records
        const last = messages.at(-1)
        // Its last bytes are read too, so that the connection can be used again.
        if (last?.event === 'end') isComplete = true
        if (last?.event === 'error') throw new HostGoneError(`the host cannot read the log: ${last.data}`)
      }
      if (!isComplete) throw new HostGoneError('the host broke the log off')
    } catch (error) {
      if (isComplete) return
      signal.throwIfAborted()
      throw error instanceof HostGoneError ? error : new HostGoneError('the host does not answer', { cause: error })
    } finally {
      call.abort()
    }
  }

  async close (): Promise<void> {
    await this.#connections.close()
  }

  async #open ({ workerId, taskId, cursor, tail, follow, stream }: HostLogRead, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    const access = await this.#accessOf(workerId)
    const query = new URLSearchParams({ format: 'sse', follow: String(follow) })
    if (cursor !== undefined) query.set('cursor', cursor)
    else if (tail !== undefined) query.set('tail', String(tail))
    if (stream !== undefined) query.set('stream', stream)
    const url = new URL(`${access.url}/v1/tasks/${taskId}/logs?${query}`)
    const request = () => this.#connections.agentOf(access).request({
      origin: url.origin,
      path: `${url.pathname}${url.search}`,
      method: 'GET',
      headers: { authorization: `Bearer ${access.token}`, accept: 'text/event-stream', 'user-agent': 'berth-gateway' },
      signal,
    })
    const answer = await request().catch(async error => {
      // A connection that was kept may be closed at its other end in the very moment in which it is used again.
      if (!closedCodes.has(String(error.code))) throw error
      return await request()
    }).catch(error => {
      // One that refuses answers at once; one that is gone takes a while to be known as gone, for everybody who asks.
      if (!signal.aborted) this.#rest(workerId)
      throw error
    })
    answer.body.on('error', () => {}) // Whoever reads it is told as well.
    if (answer.statusCode === 200) return answer.body
    await answer.body.dump()
    throw new HostGoneError(`the host answered ${answer.statusCode}`)
  }

  /** @throws HostGoneError for one that is not known, or has no address. */
  async #accessOf (workerId: string) {
    try {
      return await this.#workers.access(workerId)
    } catch (error) {
      if (error instanceof BerthError && (error.code === 'worker_not_found' || error.code === 'worker_unreachable')) throw new HostGoneError(error.message, { cause: error })
      throw error
    }
  }

  #isResting (workerId: string): boolean {
    return (this.#restingUntil.get(workerId) ?? 0) > Date.now()
  }

  #rest (workerId: string): void {
    const now = Date.now()
    for (const [id, until] of this.#restingUntil) if (until <= now) this.#restingUntil.delete(id)
    this.#restingUntil.set(workerId, now + this.#restMs)
  }
}

/** Only of the form that is relied on: hosts may lie. @throws Error for anything else. */
function toRecord (data: string): LogRecord {
  const found = JSON.parse(data) as Record<string, unknown>
  const { type, cursor, at, stream, text, encoding, partial, message } = found
  parseCursor(String(cursor))
  const isLine = type === 'line' && (stream === 'stdout' || stream === 'stderr') && typeof text === 'string' && typeof at === 'string' &&
    (encoding === undefined || encoding === 'base64') && typeof partial === 'boolean'
  if (!isLine && !(type === 'gap' && typeof message === 'string')) throw new HostGoneError('the host sends what is no log')
  return found as LogRecord
}

function isRecord ({ event }: StreamMessage): boolean {
  return event === '' || event === 'message'
}
