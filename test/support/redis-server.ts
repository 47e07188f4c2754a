/** A real Redis of a test's own: a process on a free port, with a directory of its own, that can be killed and started again. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { freePort } from './free-port.ts'
import type { Teardown } from './test-daemon.ts'

export interface RedisServerOptions {
  /** Further settings as on the command line: `['--requirepass', 'secret']`. */
  args?: string[]
  host?: string
  port?: number
  /** Another program that speaks the same, as valkey-server. */
  program?: string
}

const readyWithinMs = 20_000

/** Each write is on the disk before it is answered, so a kill loses nothing that was promised. */
export class RedisServer {
  readonly host: string
  readonly port: number
  readonly dir: string
  readonly #program: string
  readonly #args: string[]
  #child: ChildProcess | undefined
  #output = ''

  private constructor (dir: string, port: number, { args = [], host = '127.0.0.1', program = 'redis-server' }: RedisServerOptions) {
    this.dir = dir
    this.port = port
    this.host = host
    this.#program = program
    // Without a configuration file: what the machine's own Redis is set to says nothing here.
    this.#args = ['--port', String(port), '--bind', host, '--dir', dir, '--save', '', '--appendonly', 'yes', '--appendfsync', 'always', '--loglevel', 'warning', ...args]
  }

  static async start (t: Teardown, options: RedisServerOptions = {}): Promise<RedisServer> {
    const server = new RedisServer(await mkdtemp(join(tmpdir(), 'berth-redis-')), options.port ?? await freePort(), options)
    t.after(async () => {
      await server.kill()
      await rm(server.dir, { recursive: true, force: true })
    })
    await server.run()
    return server
  }

  get url (): string { return `redis://${this.host}:${this.port}` }
  get pid (): number | undefined { return this.#child?.pid }

  /** Starts it (again), on what it wrote down. `wait` false: does not wait until it answers. */
  async run ({ wait = true }: { wait?: boolean } = {}): Promise<void> {
    const child = spawn(this.#program, this.#args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: this.dir })
    this.#child = child
    child.on('error', error => { this.#output += String(error) })
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => { this.#output = (this.#output + text).slice(-4096) })
    if (!wait) return
    for (const until = Date.now() + readyWithinMs; !await this.#canConnect(); await delay(10)) {
      if (child.exitCode !== null || child.pid === undefined || Date.now() > until) throw new Error(`${this.#program} did not become ready: ${this.#output}`)
    }
  }

  /** Ends it without a warning, as a power cut would end it. */
  async kill (): Promise<void> {
    await this.#end('SIGKILL')
  }

  async stop (): Promise<void> {
    await this.#end('SIGTERM')
  }

  /** It takes connections and answers nothing. */
  pause (): void { this.#child?.kill('SIGSTOP') }
  resume (): void { this.#child?.kill('SIGCONT') }

  async #end (signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    this.#child = undefined
    if (child === undefined || child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGCONT')
    child.kill(signal)
    await ended
  }

  #canConnect (): Promise<boolean> {
    return new Promise(resolve => {
      const socket = connect(this.port, this.host)
      socket.once('connect', () => { socket.destroy(); resolve(true) })
      socket.once('error', () => resolve(false))
    })
  }
}
