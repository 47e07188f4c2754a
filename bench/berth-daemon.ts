/** Ours: a real `bin/berth serve` in a process of its own, spoken to over its unix socket with kept connections. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import type { ExecResult } from '../src/schemas/exec.ts'
import type { Sandbox, SandboxCreate } from '../src/schemas/sandbox.ts'
import { endChild } from './child.ts'
import { mustBe, timed, type Contestant } from './contestant.ts'

const berth = new URL('../bin/berth', import.meta.url).pathname
const readyWithinMs = 120_000
const connections = 32

export interface LogLine { msg: string, adoptedMs?: number }

export class BerthDaemon implements Contestant {
  readonly name = 'ours'
  readonly stateDir: string
  readonly runDir: string
  readonly #settings: Readonly<Record<string, string>>
  readonly #command: readonly string[]
  readonly #args: readonly string[]
  readonly #pool: Pool
  #child: ChildProcess | undefined
  #log = ''

  /** Settings are variables of its environment; `command` comes before the program, as in `nsenter --net=…`, `args` behind the usual ones. */
  constructor (dir: string, settings: Readonly<Record<string, string>> = {}, { command = [], args = [] }: { command?: readonly string[], args?: readonly string[] } = {}) {
    this.#settings = settings
    this.#command = command
    this.#args = args
    this.stateDir = join(dir, 'state')
    this.runDir = join(dir, 'run')
    this.#pool = new Pool('http://localhost', { socketPath: join(this.runDir, 'berth.sock'), connections, pipelining: 1, headersTimeout: 120_000, bodyTimeout: 120_000 })
  }

  get pid (): number {
    if (this.#child?.pid === undefined) throw new Error('the daemon does not run')
    return this.#child.pid
  }

  /** Starts the process; answers how long it took until it said that it is ready, in milliseconds. */
  async start (): Promise<number> {
    await mkdir(this.runDir, { recursive: true, mode: 0o711 })
    this.#log = ''
    return await timed(async () => {
      this.#child = this.#spawn([])
      const until = Date.now() + readyWithinMs
      while (!await this.#isReady()) {
        if (this.#child.exitCode !== null || Date.now() > until) throw new Error(`the daemon did not become ready:\n${this.#log}`)
        await delay(10)
      }
    })
  }

  /** Ends the process as its user does; sandboxes go on. */
  async end (): Promise<void> {
    if (this.#child) await endChild(this.#child, 'SIGTERM')
  }

  async kill (): Promise<void> {
    if (this.#child) await endChild(this.#child, 'SIGKILL')
  }

  /** Ends the process and everything that belongs to its directories. */
  async close (): Promise<void> {
    await this.kill()
    await this.#pool.destroy()
    const child = this.#spawn(['--reclaim-and-exit'])
    const timer = setTimeout(() => child.kill('SIGKILL'), 120_000)
    const [exitCode] = await once(child, 'exit') as [number | null]
    clearTimeout(timer)
    mustBe(`the exit code of --reclaim-and-exit (${this.#log.slice(-2000)})`, exitCode, 0)
  }

  /** The lines that the daemon logged since its start. */
  logLines (): LogLine[] {
    return this.#log.split('\n').filter(line => line.startsWith('{') && line.endsWith('}')).map(line => JSON.parse(line) as LogLine)
  }

  async request<T> (method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, status: number, body?: unknown): Promise<T> {
    const answer = await this.#pool.request({ method, path, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) })
    const text = await answer.body.text()
    if (answer.statusCode !== status) throw new Error(`${method} ${path} answered ${answer.statusCode}: ${text}`)
    return (text.startsWith('{') ? JSON.parse(text) : text) as T
  }

  create (input: Partial<SandboxCreate> = {}): Promise<Sandbox> {
    return this.request('POST', '/v1/sandboxes', 201, { image: 'berth/base', ...input })
  }

  /** Creates a sandbox and waits for the first piece of its output; answers how long that took, in milliseconds. */
  async startUntilOutput (input: Partial<SandboxCreate>, expected: string, onOutput?: () => void): Promise<{ sandbox: Sandbox, durationMs: number }> {
    const startedMs = performance.now()
    const sandbox = await this.create(input)
    const answer = await this.#pool.request({ method: 'GET', path: `/v1/sandboxes/${sandbox.id}/logs?follow=true` })
    let durationMs = NaN
    let text = ''
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      if (text === '') {
        durationMs = performance.now() - startedMs
        onOutput?.()
      }
      text += chunk.toString()
    }
    mustBe(`the output of ${input.image}`, text, expected)
    return { sandbox, durationMs }
  }

  async runEcho (): Promise<number> {
    let ended: Sandbox | undefined
    const durationMs = await timed(async () => {
      const { id } = await this.create({ entrypoint: ['echo', 'hi'] })
      ended = await this.request<Sandbox>('GET', `/v1/sandboxes/${id}/wait?timeoutMs=60000`, 200)
    })
    const id = ended?.id ?? ''
    mustBe('the exit code of echo', ended?.end?.exitCode, 0)
    mustBe('the log of echo', await this.request('GET', `/v1/sandboxes/${id}/logs`, 200), 'hi\n')
    await this.request('DELETE', `/v1/sandboxes/${id}`, 204)
    return durationMs
  }

  async startIdle (): Promise<string> {
    const { id, status } = await this.create()
    mustBe('the status of a sandbox', status, 'running')
    return id
  }

  async execTrue (id: string): Promise<number> {
    let result: ExecResult | undefined
    const durationMs = await timed(async () => {
      result = await this.request<ExecResult>('POST', `/v1/sandboxes/${id}/execs?wait=true`, 200, { argv: ['true'] })
    })
    mustBe('the exit code of true', result?.exitCode, 0)
    return durationMs
  }

  async remove (id: string): Promise<number> {
    return await timed(() => this.request('DELETE', `/v1/sandboxes/${id}?force=true`, 204))
  }

  async #isReady (): Promise<boolean> {
    try {
      await this.request('GET', '/readyz', 200)
      return true
    } catch {
      return false
    }
  }

  #spawn (args: string[]): ChildProcess {
    const [program = '', ...before] = [...this.#command, berth]
    const child = spawn(program, [...before, 'serve', '--state-dir', this.stateDir, '--run-dir', this.runDir, '--socket', join(this.runDir, 'berth.sock'), '--listen', '127.0.0.1:0', ...this.#args, ...args], {
      env: { ...passedOn(), ...this.#settings },
      detached: true,
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => { this.#log += text })
    return child
  }
}

/** Settings to compare come by the environment: BERTH_MAX_CONCURRENT_STARTS=4 npm run bench. */
function passedOn (): Record<string, string> {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(PATH|BERTH_.*|UV_.*|NODE_OPTIONS)$/.test(name)).map(([name, value]) => [name, value ?? '']))
}

/** The bundle of a sandbox of ours, for another contestant to run the same. */
export interface Template {
  config: Record<string, unknown>
  lowerDirs: string[]
}

export async function readTemplate (daemon: BerthDaemon, entrypoint?: string[], input: Partial<SandboxCreate> = {}): Promise<Template> {
  const { id } = await daemon.create({ ...input, start: false, ...(entrypoint ? { entrypoint } : {}) })
  const dir = join(daemon.stateDir, 'sandboxes', id)
  const [config, record] = await Promise.all(['bundle/config.json', 'sandbox.json'].map(async name => JSON.parse(await readFile(join(dir, name), 'utf8')) as Record<string, unknown>))
  // The sandbox stays as it is: its seed and its lease on the image serve whoever mounts them too.
  return { config: config ?? {}, lowerDirs: [join(dir, 'seed'), ...record?.['lowerDirs'] as string[]] }
}
