/** A real `bin/berth gateway` on free ports, for tests: its own process, and nothing left behind. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fetch } from 'undici'
import { berth, type Answer, type Teardown } from './test-daemon.ts'

export interface TestGatewayOptions {
  redisUrl: string
  args?: string[]
  env?: Record<string, string>
  /** That of another gateway of the same fleet; its own when absent. */
  tokenFile?: string
}

const readyWithinMs = 60_000

export class TestGateway {
  readonly dir: string
  readonly tokenFile: string
  readonly logPath: string
  readonly #options: TestGatewayOptions
  #child: ChildProcess | undefined
  #listen = '127.0.0.1:0'
  #grpc = '127.0.0.1:0'
  /** Of REST. */
  url = ''
  /** HOST:PORT of gRPC. */
  grpcTarget = ''

  private constructor (dir: string, options: TestGatewayOptions) {
    this.dir = dir
    this.tokenFile = options.tokenFile ?? join(dir, 'gateway.token')
    this.logPath = join(dir, 'gateway.log')
    this.#options = options
  }

  /** Starts one, and ends it at the end of the test. It listens; whether it is ready is up to its Redis: see `ready`. */
  static async start (t: Teardown, options: TestGatewayOptions): Promise<TestGateway> {
    const gateway = new TestGateway(await mkdtemp(join(tmpdir(), 'berth-gateway-')), options)
    t.after(async () => {
      await gateway.end('SIGKILL')
      await rm(gateway.dir, { recursive: true, force: true })
    })
    await gateway.start()
    return gateway
  }

  get pid (): number {
    assert.ok(this.#child?.pid, 'the gateway runs')
    return this.#child.pid
  }

  /** The admin token. */
  get token (): string {
    return readFileSync(this.tokenFile, 'latin1').trim()
  }

  async start (): Promise<void> {
    const { redisUrl, args = [], env = {} } = this.#options
    const child = spawn(berth, ['gateway', '--redis', redisUrl, '--listen', this.#listen, '--grpc', this.#grpc, '--token-file', this.tokenFile, ...args], {
      env: { PATH: process.env['PATH'] ?? '', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    child.stderr?.pipe(createWriteStream(this.logPath, { flags: 'a' }))
    let output = ''
    child.stdout?.setEncoding('utf8').on('data', (text: string) => { output += text })
    let hasEnded = false
    child.once('exit', () => { hasEnded = true })
    for (const until = Date.now() + readyWithinMs; ; await delay(10)) {
      const [, url, grpcTarget] = /^berth gateway listens at (\S+) and, for hosts, at ([^\s;]+);/m.exec(output) ?? []
      if (url !== undefined && grpcTarget !== undefined) {
        this.url = url
        this.grpcTarget = grpcTarget
        break
      }
      if (hasEnded || Date.now() > until) assert.fail(`the gateway did not begin to listen:\n${output}${await readFile(this.logPath, 'utf8')}`)
    }
    // One that is started again is found where it was.
    this.#listen = new URL(this.url).host
    this.#grpc = this.grpcTarget
  }

  /** Waits until it says that it is ready. */
  async ready (): Promise<void> {
    for (const until = Date.now() + readyWithinMs; ; await delay(20)) {
      if ((await fetch(`${this.url}/readyz`).catch(() => undefined))?.status === 200) return
      if (Date.now() > until) assert.fail(`the gateway did not become ready:\n${await readFile(this.logPath, 'utf8')}`)
    }
  }

  /** Ends the process by a signal and waits until it has ended. Answers its exit code. */
  async end (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null
    const exited = once(child, 'exit')
    child.kill('SIGCONT')
    child.kill(signal)
    await exited
    return child.exitCode
  }

  async kill (): Promise<void> {
    await this.end('SIGKILL')
  }

  /** At the same addresses. */
  async restart (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.end(signal)
    await this.start()
  }

  /** It takes connections and answers nothing. */
  pause (): void { this.#child?.kill('SIGSTOP') }
  resume (): void { this.#child?.kill('SIGCONT') }

  /** One request, with the admin token unless told otherwise. A body that is not a string is sent as JSON. */
  async request<T = Record<string, never>> (method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.includes('json') && !response.headers.get('content-type')?.includes('ndjson')
    return { status: response.status, headers: response.headers, text, body: (isJson && text !== '' ? JSON.parse(text) : {}) as T }
  }

  /** Makes a token. */
  async makeToken (scope: 'admin' | 'client' | 'read' | 'worker', pools?: string[]): Promise<string> {
    const answer = await this.request<{ token: string }>('POST', '/v1/tokens', { name: scope, scope, ...(pools ? { pools } : {}) })
    assert.equal(answer.status, 201, answer.text)
    return answer.body.token
  }

  /** What the gateway has logged of errors. */
  errors (): string {
    return readFileSync(this.logPath, 'utf8').split('\n').filter(line => line.startsWith('{"level":50')).join('\n')
  }
}
