/**
 * A small S2 (https://s2.dev) for tests, with faults on demand.
 *
 * What it knows of the protocol, from S2's public documentation and from what `@s2-dev/streamstore` 0.27 sends: creating and
 * listing streams, check-tail, single reads (`seq_num`, `tail_offset`, `count`, `bytes`, `clamp`), single appends, both as JSON
 * (raw and base64) and protobuf; append sessions in s2s frames over HTTP/2 (h2c, with prior knowledge) with acks in order,
 * `match_seq_num`, zstd and gzip from the client, terminal frames, advice to reconnect; bearer tokens; basins told by the
 * `s2-basin` header, with or without creation on append. HTTP/1.1 and HTTP/2 share the port, as the library expects of an
 * `http://` endpoint.
 * What it does not know: read sessions, basins as resources, access tokens as resources, reconfiguring, deletion that takes
 * time, command records (fencing, trimming), encryption, timestamping modes, retention, limits of rates. It never compresses.
 */
import { once } from 'node:events'
import { createServer as createHttp1Server, type Server as Http1Server } from 'node:http'
import { createServer as createHttp2Server, type Http2Server, type Http2ServerResponse } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Teardown } from './registry.ts'
import { answer, answerAppend, answerRead, readAppend, readBody, toJsonPosition, type Request, type Response } from './s2-stream-answers.ts'
import { frame, FrameReader, terminalFrame } from './s2-stream-frames.ts'
import { S2StreamFront } from './s2-stream-front.ts'
import { decodeAppend, encodeAck, type StoredRecord, type WireAck, type WireAppend } from './s2-stream-proto.ts'
import { appendTo, newStream, S2Refusal, tailOf, type StoredStream } from './s2-stream-store.ts'

interface S2StreamServerOptions {
  token?: string
  basins?: string[]
  /** Streams come to be with their first append. */
  createsOnAppend?: boolean
}

/** Faults; each stays until it is taken back, those with a number for so many appends of sessions. */
interface S2Faults {
  /** Milliseconds between storing and acknowledging. */
  ackDelayMs: number
  /** Stores, and cuts every connection before it says so. */
  loseAcks: number
  /** Acknowledges, and cuts every connection after that. */
  dieAfterAcks: number
  /** Stores, sends half of the acknowledgement, and cuts every connection. */
  halveAcks: number
  /** The next acknowledgements advise to come back on another connection. */
  adviseReconnects: number
  /** Ends the session in the place of storing. */
  failAppends?: { count: number, status: number, code: string }
  /** Answers everything so, appends included, before it looks at anything. */
  refuse?: { status: number, code: string, message: string, retryAfterSeconds?: number }
  /** Whether the token may create streams. */
  mayCreate: boolean
}

type Basin = Map<string, StoredStream>

/** So long a half of a frame or a last acknowledgement has for its way before the connection is cut. */
const cutDelayMs = 20
/** What a client may send before it has to wait: the default of 64 KiB makes every batch wait. */
const windowBytes = 4 * 1024 * 1024

export class S2StreamServer {
  readonly faults: S2Faults = { ackDelayMs: 0, loseAcks: 0, dieAfterAcks: 0, halveAcks: 0, adviseReconnects: 0, mayCreate: true }
  /** The one access token that it accepts. */
  token: string
  /** Method and path of every request so far. */
  readonly requests: string[] = []
  /** Append sessions that are open. */
  sessions = 0
  readonly front: S2StreamFront
  readonly #basins: Map<string, Basin>
  readonly #createsOnAppend: boolean
  readonly #http1: Http1Server
  readonly #http2: Http2Server

  private constructor ({ token = 'token-of-a-test', basins = ['berth-test'], createsOnAppend = false }: S2StreamServerOptions) {
    this.token = token
    this.#createsOnAppend = createsOnAppend
    this.#basins = new Map(basins.map(name => [name, new Map<string, StoredStream>()]))
    const serve = (request: Request, response: Response): void => {
      // A client that is gone is no fault of a test.
      request.on('error', () => undefined)
      response.on('error', () => undefined)
      this.#serve(request, response).catch((error: unknown) => { response.destroy(error as Error) })
    }
    this.#http1 = createHttp1Server(serve)
    this.#http2 = createHttp2Server({ settings: { initialWindowSize: windowBytes } }, serve)
    this.#http2.on('session', session => session.setLocalWindowSize(windowBytes))
    this.#http2.on('sessionError', () => undefined)
    this.front = new S2StreamFront({ http1: this.#http1, http2: this.#http2 })
  }

  static async start (t: Teardown, options: S2StreamServerOptions = {}): Promise<S2StreamServer> {
    const server = new S2StreamServer(options)
    const inner = [server.#http1, server.#http2]
    await Promise.all(inner.map(server => once(server.listen(0, '127.0.0.1'), 'listening')))
    await server.front.comeBack()
    t.after(async () => {
      await server.front.goAway()
      server.#http1.closeAllConnections()
      await Promise.all(inner.map(server => new Promise(resolve => server.close(resolve))))
    })
    return server
  }

  get endpoint (): string { return this.front.endpoint }

  /** What arrived in a stream, in the order of arrival. */
  records (basin: string, stream: string): readonly StoredRecord[] {
    return this.#basins.get(basin)?.get(stream)?.records ?? []
  }

  /** The same as JSON. */
  bodies<T> (basin: string, stream: string): T[] {
    return this.records(basin, stream).map(({ body }) => JSON.parse(body.toString('utf8')) as T)
  }

  /** Writes as somebody else who has the token. */
  intrude (basin: string, stream: string, body: string): void {
    const stored = this.#basins.get(basin)?.get(stream)
    if (stored !== undefined) appendTo(stored, { records: [{ headers: [], body: Buffer.from(body) }] })
  }

  /** Forgets the records, not their numbers, as retention does. */
  trim (basin: string, stream: string): void {
    this.#basins.get(basin)?.get(stream)?.records.splice(0)
  }

  /** Its sessions end with it. */
  deleteStream (basin: string, stream: string): void {
    this.#basins.get(basin)?.delete(stream)
    this.front.cut()
  }

  async #serve (request: Request, response: Response): Promise<void> {
    this.requests.push(`${request.method} ${request.url}`)
    try {
      await this.#route(request, response, this.#admit(request))
    } catch (error) {
      if (!(error instanceof S2Refusal)) throw error
      const { retryAfterSeconds } = this.faults.refuse ?? {}
      answer(response, error.status, error.answer, retryAfterSeconds === undefined ? {} : { 'retry-after': String(retryAfterSeconds) })
    }
  }

  #admit (request: Request): Basin {
    const { refuse } = this.faults
    if (refuse !== undefined) throw new S2Refusal(refuse.status, { code: refuse.code, message: refuse.message })
    const { authorization, 's2-basin': name } = request.headers
    // It repeats the token, so that a test can find it where it must not be.
    if (authorization !== `Bearer ${this.token}`) throw new S2Refusal(401, { code: 'unauthorized', message: `not a valid token: ${authorization}` })
    const basin = this.#basins.get(String(name))
    if (basin === undefined) throw new S2Refusal(404, { code: 'basin_not_found', message: `no basin ${String(name)}` })
    return basin
  }

  async #route (request: Request, response: Response, basin: Basin): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', this.endpoint)
    const [, stream, rest = ''] = /^\/v1\/streams(?:\/([^/]+)(\/records(?:\/tail)?))?$/.exec(pathname) ?? []
    const route = `${request.method} ${rest}`
    if (stream === undefined) {
      if (route === 'POST ') return answer(response, 201, this.#create(basin, JSON.parse((await readBody(request)).toString()) as { stream: string }))
      if (route === 'GET ') return answer(response, 200, { streams: [...basin.values()].map(toInfo), has_more: false })
      throw new S2Refusal(400, { code: 'bad_path', message: `${request.method} ${pathname}` })
    }
    const name = decodeURIComponent(stream)
    if (route === 'GET /records/tail') return answer(response, 200, { tail: toJsonPosition(tailOf(find(basin, name))) })
    if (route === 'GET /records') return answerRead(request, response, find(basin, name), searchParams)
    if (route !== 'POST /records') throw new S2Refusal(400, { code: 'bad_path', message: route })
    const target = find(basin, name, this.#createsOnAppend)
    if (request.headers['content-type'] === 's2s/proto') return await this.#session(request, response as Http2ServerResponse, target)
    answerAppend(request, response, appendTo(target, await readAppend(request)))
  }

  #create (basin: Basin, { stream }: { stream: string }): unknown {
    if (!this.faults.mayCreate) throw new S2Refusal(403, { code: 'permission_denied', message: 'the token may not create streams' })
    if (basin.has(stream)) throw new S2Refusal(409, { code: 'resource_already_exists', message: `${stream} is there` })
    return toInfo(find(basin, stream, true))
  }

  /** An append session: frames of appends in, acknowledgements out. What arrives is stored at once, however late it is acknowledged. */
  async #session (request: Request, response: Http2ServerResponse, stream: StoredStream): Promise<void> {
    this.sessions++
    let acks = Promise.resolve(true)
    try {
      response.writeHead(200, { 'content-type': 's2s/proto' })
      const reader = new FrameReader()
      for await (const chunk of request as AsyncIterable<Buffer>) {
        for (const body of reader.push(chunk)) {
          const ack = this.#store(stream, decodeAppend(body))
          acks = acks.then(async goesOn => goesOn && await this.#acknowledge(response, ack))
        }
      }
      if (await acks) response.end()
    } catch (error) {
      if (!(error instanceof S2Refusal)) throw error
      if (await acks) response.end(terminalFrame(error.status, error.answer))
    } finally {
      this.sessions--
    }
  }

  #store (stream: StoredStream, input: WireAppend): WireAck {
    const { failAppends } = this.faults
    if (failAppends !== undefined && failAppends.count-- > 0) throw new S2Refusal(failAppends.status, { code: failAppends.code, message: 'as the test wants it' })
    return appendTo(stream, input)
  }

  /** Answers false where the session is over with it. */
  async #acknowledge (response: Http2ServerResponse, ack: WireAck): Promise<boolean> {
    const { faults } = this
    if (faults.ackDelayMs > 0) await sleep(faults.ackDelayMs, undefined, { ref: false })
    const isDue = (fault: 'loseAcks' | 'halveAcks' | 'dieAfterAcks' | 'adviseReconnects'): boolean => faults[fault] > 0 && faults[fault]-- > 0
    const isLost = isDue('loseAcks')
    const isHalf = !isLost && isDue('halveAcks')
    const bytes = frame(encodeAck(ack), isDue('adviseReconnects') ? 0x10 : 0)
    if (!isLost) response.write(isHalf ? bytes.subarray(0, bytes.length / 2) : bytes)
    if (!isLost && !isHalf && !isDue('dieAfterAcks')) return true
    if (!isLost) await sleep(cutDelayMs)
    this.front.cut()
    return false
  }
}

function find (basin: Basin, name: string, isMade = false): StoredStream {
  const found = basin.get(name) ?? (isMade ? newStream(name) : undefined)
  if (found === undefined) throw new S2Refusal(404, { code: 'stream_not_found', message: `no stream ${name}` })
  basin.set(name, found)
  return found
}

const toInfo = ({ name, createdAt }: StoredStream): unknown => ({ name, created_at: createdAt })
