/** A real registry on loopback, and a proxy that misbehaves in front of it. */
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { freePort } from './free-port.ts'

const run = promisify(execFile)

/** What registers a teardown: a TestContext, or something of a bench. */
export interface Teardown {
  after: (release: () => void | Promise<void>) => void
}

interface RegistryOptions {
  /** With a certificate for 127.0.0.1 and localhost of an authority of its own. */
  tls?: boolean
  basicAuth?: { username: string, password: string }
  /** In place of a directory that goes with the test. */
  dir?: string
}

/** `docker-registry serve` on a free port of 127.0.0.1. */
export class TestRegistry {
  readonly dir: string
  readonly port: number
  readonly options: RegistryOptions
  #process: ChildProcess | undefined

  private constructor (dir: string, port: number, options: RegistryOptions) {
    this.dir = dir
    this.port = port
    this.options = options
  }

  static async start (t: Teardown, options: RegistryOptions = {}): Promise<TestRegistry> {
    const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'berth-registry-'))
    const registry = new TestRegistry(dir, await freePort(), options)
    t.after(async () => {
      await registry.kill()
      if (options.dir === undefined) rmSync(dir, { recursive: true, force: true })
    })
    await registry.#writeConfig()
    await registry.#launch()
    return registry
  }

  /** As an image reference has it: `127.0.0.1:PORT`. */
  get host (): string {
    return `127.0.0.1:${this.port}`
  }

  get url (): string {
    return `${this.options.tls === true ? 'https' : 'http'}://${this.host}`
  }

  /** The certificate of its authority. */
  get caFile (): string {
    return join(this.dir, 'ca.pem')
  }

  /** Its root directory; blobs lie below docker/registry/v2/blobs. */
  get storage (): string {
    return join(this.dir, 'storage')
  }

  /** Where the content of a blob lies. */
  blobPath (digest: string): string {
    const hex = digest.replace('sha256:', '')
    return join(this.storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data')
  }

  /** Ends it with time for what it does. */
  async stop (): Promise<void> {
    await this.#end('SIGTERM')
  }

  async kill (): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** Starts it anew on the same port and storage. */
  async restart (): Promise<void> {
    await this.kill()
    await this.#launch()
  }

  async #end (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process
    this.#process = undefined
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const closed = once(child, 'close')
    child.kill(signal)
    await closed
  }

  async #launch (): Promise<void> {
    const child = spawn('docker-registry', ['serve', join(this.dir, 'config.yml')], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#process = child
    const said: string[] = []
    for await (const line of createInterface({ input: child.stderr! })) {
      said.push(line)
      // Listening sockets exist before this line; nothing reads on, so what follows must not fill the pipe.
      if (line.includes('listening on')) return void child.stderr!.resume()
    }
    throw new Error(`docker-registry did not start: ${said.join('\n')}`)
  }

  async #writeConfig (): Promise<void> {
    const { tls, basicAuth } = this.options
    mkdirSync(this.storage, { recursive: true })
    if (tls === true) await makeCertificates(this.dir)
    if (basicAuth) {
      const { stdout } = await run('htpasswd', ['-nbB', '-C', '4', basicAuth.username, basicAuth.password])
      writeFileSync(join(this.dir, 'htpasswd'), stdout)
    }
    // JSON is YAML.
    writeFileSync(join(this.dir, 'config.yml'), JSON.stringify({
      version: '0.1',
      log: { level: 'info', accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: this.storage }, delete: { enabled: true } },
      http: { addr: this.host, secret: 'x', ...(tls === true ? { tls: { certificate: join(this.dir, 'server.pem'), key: join(this.dir, 'server.key') } } : {}) },
      ...(basicAuth ? { auth: { htpasswd: { realm: 'test', path: join(this.dir, 'htpasswd') } } } : {}),
    }))
  }
}

/** Writes ca.pem, server.pem and server.key for 127.0.0.1 and localhost into a directory. */
export async function makeCertificates (dir: string): Promise<void> {
  const openssl = (...args: string[]) => run('openssl', args, { cwd: dir })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  await openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=Berth test authority')
  await openssl('req', ...key, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=localhost')
  writeFileSync(join(dir, 'server.ext'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  await openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'server.ext', '-out', 'server.pem')
}

/** How the proxy misbehaves; what is not given, it does not. */
export interface Faults {
  /** Before each answer. */
  latencyMs?: number
  /** Of all bodies together. */
  bytesPerSecond?: number
  /** Sends this many bytes of a blob and then nothing, keeping the connection open. */
  stallAfterBytes?: number
  /** Sends this many bytes of a blob and cuts the connection. */
  dropAfterBytes?: number
  /** To how many further blobs the last two apply; all if not given. */
  times?: number
  /** Answers whole blobs where ranges are asked for. */
  ignoresRange?: boolean
  /** Changes the first byte of every blob. */
  corrupts?: boolean
}

interface Seen {
  method: string
  path: string
  headers: IncomingMessage['headers']
  /** Of the answer's body that were sent. */
  bodyBytes: number
}

const pieceBytes = 16 * 1024

/** An HTTP proxy on 127.0.0.1 in front of one plain HTTP server. */
export class FaultyProxy {
  /** Every request, in order. */
  readonly seen: Seen[] = []
  readonly #target: string
  readonly #server: Server
  #port = 0
  #faults: Faults = {}
  readonly #statuses: Array<{ status: number, headers: Record<string, string> }> = []
  /** Until when the wire is busy. */
  #busyUntil = 0

  private constructor (target: string) {
    this.#target = target
    this.#server = createHttpServer((incoming, answer) => {
      this.#serve(incoming, answer).catch(() => answer.destroy())
    })
  }

  /** `target` is host:port of a plain HTTP server. */
  static async start (t: Teardown, target: string, faults: Faults = {}): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(target)
    proxy.set(faults)
    await proxy.accept()
    t.after(() => proxy.refuse())
    return proxy
  }

  get host (): string {
    return `127.0.0.1:${this.#port}`
  }

  /** Misbehaves so from here on, and in no other way; answers under way stay as they are. */
  set (faults: Faults): void {
    this.#faults = { ...faults }
  }

  /** Answers the next requests with this status. */
  failNext (count: number, status: number, headers: Record<string, string> = {}): void {
    for (let i = 0; i < count; i++) this.#statuses.push({ status, headers })
  }

  /** Cuts all connections and refuses further ones. */
  async refuse (): Promise<void> {
    if (!this.#server.listening) return
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }

  /** Takes connections (again), on the same port. */
  async accept (): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1')
    await once(this.#server, 'listening')
    this.#port = (this.#server.address() as AddressInfo).port
  }

  /** How many connections are open to it. */
  async connections (): Promise<number> {
    return promisify(this.#server.getConnections.bind(this.#server))()
  }

  /** How many requests had a path that matches. */
  requestsOf (pattern: RegExp): number {
    return this.seen.filter(({ path }) => pattern.test(path)).length
  }

  /** How many bytes of bodies went out for paths that match. */
  bytesOf (pattern: RegExp): number {
    return this.seen.filter(({ path }) => pattern.test(path)).reduce((sum, { bodyBytes }) => sum + bodyBytes, 0)
  }

  async #serve (incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const { method = 'GET', url: path = '/', headers } = incoming
    const seen: Seen = { method, path, headers, bodyBytes: 0 }
    this.seen.push(seen)
    const { latencyMs = 0 } = this.#faults
    if (latencyMs > 0) await sleep(latencyMs)
    const failure = this.#statuses.shift()
    if (failure) return void answer.writeHead(failure.status, failure.headers).end()
    const sent = { ...headers }
    if (this.#faults.ignoresRange === true) delete sent.range
    const [hostname, port] = this.#target.split(':')
    const upstream = request({ hostname, port, method, path, headers: sent, agent: false })
    incoming.pipe(upstream)
    answer.on('close', () => upstream.destroy())
    const [from] = await once(upstream, 'response') as [IncomingMessage]
    answer.writeHead(from.statusCode ?? 502, from.headers)
    const isBlob = method === 'GET' && /\/blobs\//.test(path) && (from.statusCode ?? 500) < 300
    await this.#copy(from, answer, seen, isBlob)
  }

  async #copy (from: IncomingMessage, answer: ServerResponse, seen: Seen, isBlob: boolean): Promise<void> {
    const { stallAfterBytes, dropAfterBytes, corrupts } = this.#faults
    const limit = isBlob && this.#takeTurn() ? stallAfterBytes ?? dropAfterBytes ?? Infinity : Infinity
    for await (const chunk of from as AsyncIterable<Buffer>) {
      if (isBlob && corrupts === true && seen.bodyBytes === 0) chunk[0]! ^= 1
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        const piece = chunk.subarray(at, Math.min(at + pieceBytes, chunk.length, at + limit - seen.bodyBytes))
        await this.#pace(piece.length)
        seen.bodyBytes += piece.length
        if (piece.length > 0 && !answer.write(piece)) await drained(answer)
        if (answer.destroyed) return
        if (seen.bodyBytes < limit) continue
        if (stallAfterBytes === undefined) answer.destroy()
        return
      }
    }
    answer.end()
  }

  #takeTurn (): boolean {
    const { stallAfterBytes, dropAfterBytes, times = Infinity } = this.#faults
    if ((stallAfterBytes === undefined && dropAfterBytes === undefined) || times <= 0) return false
    this.#faults.times = times - 1
    return true
  }

  async #pace (bytes: number): Promise<void> {
    const { bytesPerSecond } = this.#faults
    if (bytesPerSecond === undefined) return
    const now = performance.now()
    this.#busyUntil = Math.max(this.#busyUntil, now) + bytes / bytesPerSecond * 1000
    // Timers are no finer than a millisecond or two.
    if (this.#busyUntil - now > 3) await sleep(this.#busyUntil - now)
  }
}

/** Waits until more can be written, or nothing any more. */
function drained (answer: ServerResponse): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      answer.off('drain', done).off('close', done)
      resolve()
    }
    if (answer.destroyed) resolve()
    else answer.on('drain', done).on('close', done)
  })
}
