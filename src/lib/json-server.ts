import { once } from 'node:events'
import { chmod, rm } from 'node:fs/promises'
import { createServer, type Server, type ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import { errorFacts } from './error-facts.ts'
import { raceWithDelay } from './race.ts'

export interface JsonCall {
  /** Of what the handler's path has `*` for; else empty. */
  id: string
  query: URLSearchParams
  body: () => Promise<unknown>
  response: ServerResponse
}

/** Answers with what becomes the answer's JSON; one that has begun to write the answer ends it itself. @throws BerthError, which the client throws. */
export type JsonHandler = (call: JsonCall) => Promise<unknown>

export interface JsonServerOptions {
  socketPath: string
  /** By method and path, as `GET /status` or, with an id behind the last slash, `PUT /policies/*`. */
  handlers: Readonly<Record<string, JsonHandler>>
  /** A call failed with what is no answer of ours. */
  onFailure: (error: unknown, path: string) => void
}

/** HTTP over a unix socket with JSON bodies, and JSON lines where an answer comes in parts: how the daemon speaks to servers of its own. Whoever reaches the socket is root. */
export class JsonServer {
  readonly #server: Server
  readonly #socketPath: string

  constructor (options: JsonServerOptions) {
    this.#socketPath = options.socketPath
    this.#server = createServer((request, response) => {
      const { pathname, searchParams: query } = new URL(request.url ?? '/', 'http://server')
      const slash = pathname.lastIndexOf('/')
      const exact = options.handlers[`${request.method} ${pathname}`]
      const handler = exact ?? options.handlers[`${request.method} ${pathname.slice(0, slash)}/*`]
      if (!handler) {
        response.writeHead(404).end()
        return
      }
      const call: JsonCall = { id: exact ? '' : decodeURIComponent(pathname.slice(slash + 1)), query, body: () => json(request), response }
      handler(call).then(value => {
        if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value ?? {}))
      }).catch((error: unknown) => {
        const facts = errorFacts(error)
        if (facts.kind === 'internal') options.onFailure(error, pathname)
        if (!response.headersSent) response.writeHead(500, { 'content-type': 'application/json' }).end(JSON.stringify(facts))
        else response.end()
      })
    })
    // The daemon waits for answers as long as they take, and follows events for ever.
    this.#server.requestTimeout = 0
    this.#server.keepAliveTimeout = 60_000
  }

  async listen (): Promise<void> {
    // What a server that was killed has left.
    await rm(this.#socketPath, { force: true })
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#socketPath, resolve)
    })
    await chmod(this.#socketPath, 0o600)
  }

  /** Lets answers under way come to their end within this time, then closes. */
  async drain (graceMs: number): Promise<void> {
    const ended = new Promise<void>(resolve => { this.#server.close(() => resolve()) })
    await raceWithDelay(graceMs, [ended])
    this.close()
  }

  close (): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

/** Answers with a JSON line for each value, no faster than they are read, until there is none any more or the reader has gone. */
export async function writeLines (response: ServerResponse, read: (signal: AbortSignal) => AsyncIterable<unknown>): Promise<void> {
  const gone = new AbortController()
  response.on('close', () => gone.abort())
  response.flushHeaders()
  for await (const value of read(gone.signal)) {
    if (response.write(`${JSON.stringify(value)}\n`) || gone.signal.aborted) continue
    await once(response, 'drain', { signal: gone.signal }).catch(() => undefined)
  }
  response.end()
}
