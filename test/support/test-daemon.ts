/** A real `bin/berth serve` on temporary directories, for tests: its own process, a free port, and nothing left behind. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, readFileSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Agent, fetch, type Headers } from 'undici'
import type { Sandbox, SandboxCreate } from '../../src/schemas/sandbox.ts'
import type { ExecCreate, ExecResult } from '../../src/schemas/exec.ts'
import { findLeftovers } from './leftovers.ts'

export const berth = new URL('../../bin/berth', import.meta.url).pathname

/** What a test needs of node:test's context. */
export interface Teardown {
  after: (release: () => Promise<void>) => void
}

export interface TestDaemonOptions {
  args?: string[]
  env?: Record<string, string>
  /** Another program in the place of bin/berth, given the same arguments. */
  command?: string[]
  /** Requests go through its unix socket: its TCP port is in another network namespace, or speaks TLS. */
  isRemote?: boolean
}

export interface Answer<T = Record<string, never>> {
  status: number
  headers: Headers
  body: T
  text: string
}

const readyWithinMs = 60_000
const endsWithinMs = 60_000

export class TestDaemon {
  readonly dir: string
  readonly stateDir: string
  readonly runDir: string
  readonly socketPath: string
  readonly logPath: string
  readonly #options: TestDaemonOptions
  #child: ChildProcess | undefined
  #socketAgent: Agent | undefined
  url = ''

  private constructor (dir: string, options: TestDaemonOptions) {
    this.dir = dir
    this.stateDir = join(dir, 'state')
    this.runDir = join(dir, 'run')
    this.socketPath = join(this.runDir, 'berth.sock')
    this.logPath = join(dir, 'daemon.log')
    this.#options = options
  }

  /** Starts one, and at the end of the test ends it with all that belongs to it and asserts that nothing is left. */
  static async start (t: Teardown, options: TestDaemonOptions = {}): Promise<TestDaemon> {
    const daemon = new TestDaemon(await mkdtemp(join(tmpdir(), 'berth-')), options)
    t.after(() => daemon.#remove())
    await daemon.start()
    return daemon
  }

  get pid (): number {
    assert.ok(this.#child?.pid, 'the daemon runs')
    return this.#child.pid
  }

  get token (): string {
    return readFileSync(join(this.stateDir, 'admin.token'), 'latin1').trim()
  }

  /** The environment of a client. */
  get clientEnv (): Record<string, string> {
    return { PATH: process.env['PATH'] ?? '', HOME: '/root', BERTH_SOCKET: this.socketPath }
  }

  /** Starts the process and waits until it is ready. */
  async start (): Promise<void> {
    const child = this.#spawn(this.#options.args ?? [])
    this.#child = child
    let hasEnded = false
    child.once('exit', () => { hasEnded = true })
    const before = await this.#readyLines()
    const until = Date.now() + readyWithinMs
    for (;;) {
      const lines = await this.#readyLines()
      const last = lines.at(-1)
      if (lines.length > before.length && last) {
        this.url = last.url
        return
      }
      if (hasEnded || Date.now() > until) assert.fail(`the daemon did not become ready:\n${await readFile(this.logPath, 'utf8')}`)
      await delay(10)
    }
  }

  /** Ends the process by a signal and waits until it has ended. Answers its exit code. */
  async end (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
    return child.exitCode
  }

  async restart (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await this.end(signal)
    await this.start()
  }

  /** Runs `serve --reclaim-and-exit` on the directories. Answers its exit code. */
  async reclaim (): Promise<number | null> {
    const child = this.#spawn(['--reclaim-and-exit'])
    const timer = setTimeout(() => child.kill('SIGKILL'), endsWithinMs)
    await once(child, 'exit')
    clearTimeout(timer)
    return child.exitCode
  }

  /** One request. A body that is not a string is sent as JSON. */
  async request<T = Record<string, never>> (method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
    // The unix socket never speaks TLS.
    const response = await fetch(`${this.#options.isRemote ? 'http://berth' : this.url}${path}`, {
      ...(this.#options.isRemote ? { dispatcher: this.#socketAgent ??= new Agent({ connect: { socketPath: this.socketPath } }) } : {}),
      method,
      headers: { authorization: `Bearer ${this.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.includes('json') && !response.headers.get('content-type')?.includes('ndjson')
    return { status: response.status, headers: response.headers, text, body: (isJson && text !== '' ? JSON.parse(text) : {}) as T }
  }

  /** Creates a sandbox, on the base image unless told otherwise. */
  async create (input: Partial<SandboxCreate> = {}): Promise<Sandbox> {
    const answer = await this.request<Sandbox>('POST', '/v1/sandboxes', { image: 'berth/base', ...input })
    assert.equal(answer.status, 201, `${answer.text}\n${answer.status === 500 ? this.errors() : ''}`)
    return answer.body
  }

  /** What the daemon has logged of errors. */
  errors (): string {
    return readFileSync(this.logPath, 'utf8').split('\n').filter(line => line.startsWith('{"level":50')).join('\n')
  }

  async sandbox (id: string): Promise<Sandbox> {
    const answer = await this.request<Sandbox>('GET', `/v1/sandboxes/${id}`)
    assert.equal(answer.status, 200, answer.text)
    return answer.body
  }

  /** Waits for the end of a sandbox. */
  async wait (id: string, timeoutMs = 60_000): Promise<Sandbox> {
    const answer = await this.request<Sandbox>('GET', `/v1/sandboxes/${id}/wait?timeoutMs=${timeoutMs}`)
    assert.equal(answer.status, 200, answer.text)
    return answer.body
  }

  /** Runs an attached exec to its end. */
  async exec (id: string, argv: string[], input: Partial<ExecCreate> = {}): Promise<ExecResult> {
    const answer = await this.request<ExecResult>('POST', `/v1/sandboxes/${id}/execs?wait=true`, { argv, ...input })
    assert.equal(answer.status, 200, answer.text)
    return answer.body
  }

  async remove (id: string): Promise<void> {
    const answer = await this.request('DELETE', `/v1/sandboxes/${id}?force=true`)
    assert.equal(answer.status, 204, answer.text)
  }

  /** The id that names this state directory's cgroups. */
  get hostId (): string {
    return readFileSync(join(this.stateDir, 'host-id'), 'latin1').trim()
  }

  /** What there is on the host that belongs to these directories: mounts, cgroups, processes. Empty means none. */
  leftovers (): Promise<string[]> {
    let hostId = ''
    try { hostId = this.hostId } catch { /* it never came so far */ }
    return findLeftovers({ dir: this.dir, hostId })
  }

  #spawn (args: string[]): ChildProcess {
    const [program = berth, ...programArgs] = this.#options.command ?? [berth, 'serve']
    const log = createWriteStream(this.logPath, { flags: 'a' })
    const child = spawn(program, [...programArgs, '--state-dir', this.stateDir, '--run-dir', this.runDir, '--listen', '127.0.0.1:0', ...args], {
      // Most tests make one sandbox after the other: one network ahead is enough.
      env: { PATH: process.env['PATH'] ?? '', BERTH_NETWORK_POOL_SIZE: '1', ...this.#options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    child.stdout?.pipe(log, { end: false })
    child.stderr?.pipe(log, { end: false })
    return child
  }

  async #readyLines (): Promise<Array<{ url: string }>> {
    const text = await readFile(this.logPath, 'utf8').catch(() => '')
    return text.split('\n').filter(line => line.includes('"berth is ready"') && line.endsWith('}')).map(line => JSON.parse(line) as { url: string })
  }

  async #remove (): Promise<void> {
    await this.#socketAgent?.destroy()
    await this.end('SIGKILL')
    const exitCode = await this.reclaim()
    const leftovers = await this.leftovers()
    const log = exitCode === 0 ? '' : await readFile(this.logPath, 'utf8')
    if (leftovers.length === 0) await rm(this.dir, { recursive: true, force: true })
    assert.deepEqual(leftovers, [], 'nothing is left on the host')
    assert.equal(exitCode, 0, log)
  }
}
