/** A client that outlives its daemon: over the unix socket, whose path stays the same, and patient when nobody answers. */
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'

export interface Reply<T = unknown> {
  status: number
  body: T
  text: string
  /** The very bytes of the body. */
  bytes: Buffer
  /** How often the connection was lost before this answer came: then the request may have been carried out before. */
  losses: number
}

interface Request {
  method: string
  path: string
  body?: unknown
  /** Idempotency-Key. */
  key?: string
}

const retryPauseMs = 50
const patienceMs = 120_000

export class PatientClient {
  readonly #socketPath: string
  #losses = 0

  constructor (socketPath: string) {
    this.#socketPath = socketPath
  }

  /** How many requests lost their connection, all told. */
  get losses (): number { return this.#losses }

  /** Sends a request again and again until somebody answers it whole. */
  async send<T> (method: string, path: string, options: { body?: unknown, key?: string } = {}): Promise<Reply<T>> {
    const until = Date.now() + patienceMs
    for (let losses = 0; ; losses++) {
      try {
        const { status, bytes } = await this.#once({ method, path, ...options })
        const text = bytes.toString()
        return { status, text, bytes, body: (text.startsWith('{') ? JSON.parse(text) : {}) as T, losses }
      } catch (error) {
        if (Date.now() > until) throw new Error(`nobody answered ${method} ${path}`, { cause: error })
        this.#losses++
        await delay(retryPauseMs)
      }
    }
  }

  /** One answer, piece by piece, for as long as the connection lasts. Throws where it breaks off. */
  async * stream (path: string): AsyncGenerator<Buffer> {
    const request = httpRequest({ socketPath: this.#socketPath, path: `/v1${path}` }).end()
    const [response] = await once(request, 'response') as [IncomingMessage]
    if (response.statusCode !== 200) throw new Error(`GET ${path} was answered ${response.statusCode}`)
    for await (const chunk of response as AsyncIterable<Buffer>) yield chunk
    if (!response.complete) throw new Error('the answer was cut off')
  }

  #once ({ method, path, body, key }: Request): Promise<{ status: number, bytes: Buffer }> {
    return new Promise((resolve, reject) => {
      const request = httpRequest({
        socketPath: this.#socketPath,
        method,
        path: `/v1${path}`,
        headers: {
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(key === undefined ? {} : { 'idempotency-key': key }),
        },
      }, response => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.once('error', reject)
        response.once('end', () => {
          if (response.complete) resolve({ status: response.statusCode ?? 0, bytes: Buffer.concat(chunks) })
          else reject(new Error('the answer was cut off'))
        })
      })
      request.once('error', reject)
      request.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }
}
