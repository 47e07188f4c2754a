import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { Pool } from 'undici'
import { BerthError } from '../../../errors.ts'
import type { LayerProgress } from '../layers/image-layer.ts'
import { errorFromFacts, type BootRequest, type ErrorFacts, type PreparedLayer, type PrepareAnswer, type PrepareRequest, type ServerEvent, type ServerStatus, type ServerSettings } from './control-protocol.ts'

/** The image server did not answer, or went away in the middle of an answer. The same call may be made again. */
export class ImageServerGoneError extends Error {
  constructor (cause: unknown) {
    super('the image server does not answer', { cause })
    this.name = 'ImageServerGoneError'
  }
}

const answerTimeoutMs = 10_000

/** The daemon's end of the control socket of one image server. Every call may throw ImageServerGoneError. */
export class ImageServerClient {
  readonly #pool: Pool

  constructor (options: { socketPath: string }) {
    // Prepares of all layers of several images wait at the same time.
    this.#pool = new Pool('http://image-server', { socketPath: options.socketPath, connections: 512, connect: { timeout: answerTimeoutMs }, bodyTimeout: 0, headersTimeout: answerTimeoutMs })
  }

  async status (): Promise<ServerStatus> {
    return await this.#call('GET', '/status') as ServerStatus
  }

  async setSettings (settings: ServerSettings): Promise<void> {
    await this.#call('PUT', '/settings', settings)
  }

  async layers (): Promise<LayerProgress[]> {
    return await this.#call('GET', '/layers') as LayerProgress[]
  }

  async forget (digests: readonly string[]): Promise<void> {
    await this.#call('POST', '/forget', { digests })
  }

  async boot (request: BootRequest): Promise<void> {
    await this.#call('POST', '/boots', request)
  }

  /** Has a layer made ready. An abort ends this wait alone: the server goes on. @throws BerthError as the server found it. */
  async prepare (request: PrepareRequest, options: { signal?: AbortSignal, onProgress?: (progress: LayerProgress) => void }): Promise<PreparedLayer> {
    const body = await this.#send('POST', '/layers', request, options.signal)
    for await (const answer of lines<PrepareAnswer>(body, options.signal)) {
      if ('prepared' in answer) return answer.prepared
      if ('error' in answer) throw errorFromFacts(answer.error)
      options.onProgress?.(answer.progress)
    }
    throw new ImageServerGoneError(undefined)
  }

  /** What happens to layers from now on, with what happened since `after` first; without an end of its own. */
  async * events (after: number, signal: AbortSignal): AsyncGenerator<ServerEvent> {
    yield * lines<ServerEvent>(await this.#send('GET', `/events?after=${after}`, undefined, signal), signal)
  }

  async close (): Promise<void> {
    await this.#pool.destroy()
  }

  async #call (method: 'GET' | 'POST' | 'PUT', path: string, body?: unknown): Promise<unknown> {
    const answer = await this.#send(method, path, body, AbortSignal.timeout(answerTimeoutMs))
    let text = ''
    try {
      for await (const chunk of answer.setEncoding('utf8')) text += chunk
      return JSON.parse(text)
    } catch (error) {
      throw new ImageServerGoneError(error)
    }
  }

  async #send (method: 'GET' | 'POST' | 'PUT', path: string, body: unknown, signal: AbortSignal | undefined): Promise<Readable> {
    let answer
    try {
      answer = await this.#pool.request({ method, path, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null })
    } catch (error) {
      if (signal?.aborted) throw signal.reason
      throw new ImageServerGoneError(error)
    }
    if (answer.statusCode === 200) return answer.body
    const facts = await answer.body.json().catch(() => undefined) as ErrorFacts | undefined
    throw facts?.code ? errorFromFacts(facts) : new BerthError('internal', 'internal', `the image server answered ${answer.statusCode}`)
  }
}

async function * lines<T> (body: Readable, signal: AbortSignal | undefined): AsyncGenerator<T> {
  // readline does not pass an error of its input on.
  let failure: unknown
  body.on('error', error => { failure = error })
  try {
    for await (const line of createInterface({ input: body, crlfDelay: Infinity })) yield JSON.parse(line) as T
  } finally {
    body.destroy()
  }
  if (signal?.aborted) throw signal.reason
  if (failure) throw new ImageServerGoneError(failure)
}
