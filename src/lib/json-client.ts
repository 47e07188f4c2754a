import type { Readable } from 'node:stream'
import { Pool } from 'undici'
import { BerthError } from '../errors.ts'
import { errorFromFacts, type ErrorFacts } from './error-facts.ts'
import { parseNdjson } from './ndjson.ts'

/** The server did not answer, or went away in the middle of an answer. The same call may be made again. */
export class ServerGoneError extends Error {
  constructor (name: string, cause?: unknown) {
    super(`the ${name} does not answer`, { cause })
    this.name = 'ServerGoneError'
  }
}

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

const answerTimeoutMs = 10_000

/** The daemon's end of a JsonServer's socket. Every call may throw ServerGoneError, or the BerthError that the server threw. */
export class JsonClient {
  readonly #pool: Pool
  readonly #name: string
  readonly #maxLineBytes: number | undefined

  /** `name` is for messages; `maxLineBytes` where the server is not to be trusted. */
  constructor (options: { socketPath: string, name: string, maxLineBytes?: number }) {
    this.#name = options.name
    this.#maxLineBytes = options.maxLineBytes
    // Many wait for long answers at the same time.
    this.#pool = new Pool('http://server', { socketPath: options.socketPath, connections: 512, connect: { timeout: answerTimeoutMs }, bodyTimeout: 0, headersTimeout: answerTimeoutMs })
  }

  /** A call whose answer comes at once, within 10 s. */
  async call (method: Method, path: string, body?: unknown): Promise<unknown> {
    const timeout = AbortSignal.timeout(answerTimeoutMs)
    let text = ''
    try {
      const answer = await this.#send(method, path, body, timeout)
      for await (const chunk of answer.setEncoding('utf8')) text += chunk
      return JSON.parse(text)
    } catch (error) {
      if (error instanceof BerthError) throw error
      throw new ServerGoneError(this.#name, error)
    }
  }

  /**
   * A call whose answer comes in lines, for as long as it takes. An abort ends this wait alone, with the signal's reason. `onAnswer` is
   * called when the answer begins.
   */
  async * lines<T> (method: Method, path: string, body: unknown, signal: AbortSignal | undefined, onAnswer?: () => void): AsyncGenerator<T> {
    const answer = await this.#send(method, path, body, signal)
    onAnswer?.()
    const refuse = (problem: string, cause?: unknown) => new ServerGoneError(this.#name, new Error(`it sent ${problem}`, { cause }))
    try {
      yield * parseNdjson<T>(answer, { refuse, ...(this.#maxLineBytes === undefined ? {} : { maxLineBytes: this.#maxLineBytes }) })
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      throw error instanceof ServerGoneError ? error : new ServerGoneError(this.#name, error)
    } finally {
      // Listened to, since an end that nobody waits for is an error.
      answer.on('error', () => {}).destroy()
    }
  }

  async close (): Promise<void> {
    await this.#pool.destroy()
  }

  async #send (method: Method, path: string, body: unknown, signal: AbortSignal | undefined): Promise<Readable> {
    let answer
    try {
      answer = await this.#pool.request({ method, path, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null })
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      throw new ServerGoneError(this.#name, error)
    }
    if (answer.statusCode === 200) return answer.body
    const facts = await answer.body.json().catch(() => undefined) as ErrorFacts | undefined
    throw facts?.code ? errorFromFacts(facts) : new BerthError('internal', 'internal', `the ${this.#name} answered ${answer.statusCode}`)
  }
}
