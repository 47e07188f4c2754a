import { chmod, rm } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { json } from 'node:stream/consumers'
import type { Logger } from 'pino'
import type { LayerProgress } from '../layers/image-layer.ts'
import { errorFacts, type BootRequest, type PreparedLayer, type PrepareAnswer, type PrepareRequest, type ServerEvent, type ServerStatus, type ServerSettings } from './control-protocol.ts'

/** What the socket opens the door to. */
export interface ControlTarget {
  status: () => ServerStatus
  setSettings: (settings: ServerSettings) => void
  prepare: (request: PrepareRequest, onProgress: (progress: LayerProgress) => void) => Promise<PreparedLayer>
  layers: () => LayerProgress[]
  forget: (digests: readonly string[]) => Promise<void>
  boot: (request: BootRequest) => void
  /** Calls back with what happened since `after` and what happens; the answer ends it. */
  follow: (after: number, listener: (event: ServerEvent) => void) => () => void
}

type Handler = (target: ControlTarget, request: IncomingMessage, response: ServerResponse, url: URL) => Promise<void>

const handlers: Readonly<Record<string, Handler>> = {
  'GET /status': async (target, _request, response) => answer(response, target.status()),
  'PUT /settings': async (target, request, response) => {
    target.setSettings(await json(request) as ServerSettings)
    answer(response, {})
  },
  'GET /layers': async (target, _request, response) => answer(response, target.layers()),
  'POST /layers': async (target, request, response) => {
    const wanted = await json(request) as PrepareRequest
    const say = (line: PrepareAnswer) => { if (!response.destroyed) response.write(`${JSON.stringify(line)}\n`) }
    response.flushHeaders()
    try {
      say({ prepared: await target.prepare(wanted, progress => say({ progress })) })
    } catch (error) {
      say({ error: errorFacts(error) })
      throw error
    } finally {
      response.end()
    }
  },
  'POST /forget': async (target, request, response) => {
    await target.forget((await json(request) as { digests: string[] }).digests)
    answer(response, {})
  },
  'POST /boots': async (target, request, response) => {
    target.boot(await json(request) as BootRequest)
    answer(response, {})
  },
  'GET /events': async (target, _request, response, url) => {
    response.flushHeaders()
    const stop = target.follow(Number(url.searchParams.get('after') ?? 0), event => response.write(`${JSON.stringify(event)}\n`))
    response.on('close', stop)
  },
}

/** The image server's control socket. Its peer is the daemon: whoever reaches the socket is root. */
export class ControlServer {
  readonly #server: Server
  readonly #socketPath: string

  constructor (options: { socketPath: string, target: ControlTarget, logger: Logger }) {
    const { target, logger } = options
    this.#socketPath = options.socketPath
    this.#server = createServer((request, response) => {
      const url = new URL(request.url ?? '/', 'http://image-server')
      const handler = handlers[`${request.method} ${url.pathname}`]
      if (!handler) {
        response.writeHead(404).end()
        return
      }
      handler(target, request, response, url).catch((error: unknown) => {
        const facts = errorFacts(error)
        if (facts.kind === 'internal') logger.error({ err: error, path: url.pathname }, 'a call of the daemon failed')
        if (!response.headersSent) response.writeHead(500, { 'content-type': 'application/json' }).end(JSON.stringify(facts))
        else response.end()
      })
    })
    // The daemon waits for layers as long as they take, and follows events for ever.
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

  close (): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

function answer (response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}
