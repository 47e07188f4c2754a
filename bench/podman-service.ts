/** podman's REST API (libpod, version 4) with the same runtime and the same userland, on directories of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import { endChild, mustRun } from './child.ts'
import { mustBe, timed, type Contestant } from './contestant.ts'
import { PodmanStorage, type PodmanStorageOptions } from './podman-storage.ts'

export interface PodmanServiceOptions extends PodmanStorageOptions {
  /** Of the program. */
  init: string
  /** Directory with the userland of the base image. */
  rootfsDir: string
  /** linux.resources of our own spec. */
  limits: { memory: object, cpu: object, pids: object }
}

const image = 'localhost/berth-bench:latest'
const readyWithinMs = 20_000

export class PodmanService implements Contestant {
  readonly name = 'podman'
  readonly #options: PodmanServiceOptions
  readonly #storage: PodmanStorage
  readonly #pool: Pool
  #child: ChildProcess | undefined
  #log = ''

  constructor (options: PodmanServiceOptions) {
    this.#options = options
    this.#storage = new PodmanStorage(options)
    this.#pool = new Pool('http://localhost', { socketPath: this.#socketPath, connections: 4, pipelining: 1, headersTimeout: 60_000, bodyTimeout: 60_000 })
  }

  async start (): Promise<void> {
    const { dir, podman, rootfsDir } = this.#options
    const { globalArgs, env } = this.#storage
    await this.#storage.open()
    const archive = join(dir, 'rootfs.tar')
    await mustRun('tar', ['-C', rootfsDir, '-cf', archive, '.'])
    await mustRun(podman, [...globalArgs, 'import', archive, image], { env })
    const child = spawn(podman, [...globalArgs, 'system', 'service', '--time=0', `unix://${this.#socketPath}`], { stdio: ['ignore', 'ignore', 'pipe'], detached: true, env })
    this.#child = child
    child.stderr.setEncoding('utf8').on('data', (text: string) => { this.#log += text })
    const until = Date.now() + readyWithinMs
    while (!await this.#request('GET', '/_ping', 200).then(() => true, () => false)) {
      if (child.exitCode !== null || Date.now() > until) throw new Error(`podman's service did not become ready: ${this.#log}`)
      await delay(10)
    }
  }

  async runEcho (): Promise<number> {
    let id = ''
    let exitCode = ''
    const durationMs = await timed(async () => {
      id = await this.#startContainer(['echo', 'hi'])
      exitCode = await this.#request<string>('POST', `/containers/${id}/wait?condition=stopped&condition=exited`, 200)
    })
    mustBe('the exit code of echo under podman', Number(exitCode), 0)
    await this.remove(id)
    return durationMs
  }

  startIdle (): Promise<string> {
    return this.#startContainer(['sleep', '86400'])
  }

  async execTrue (id: string): Promise<number> {
    let exitCode: number | undefined
    const durationMs = await timed(async () => {
      const { Id } = await this.#request<{ Id: string }>('POST', `/containers/${id}/exec`, 201, { Cmd: ['true'], AttachStdout: true, AttachStderr: true })
      await this.#request('POST', `/exec/${Id}/start`, 200, { Detach: false })
      exitCode = (await this.#request<{ ExitCode: number }>('GET', `/exec/${Id}/json`, 200)).ExitCode
    })
    mustBe('the exit code of true under podman', exitCode, 0)
    return durationMs
  }

  async remove (id: string): Promise<number> {
    return await timed(() => this.#request('DELETE', `/containers/${id}?force=true&timeout=0`, 200))
  }

  async close (): Promise<void> {
    await this.#pool.destroy()
    if (this.#child) await endChild(this.#child, 'SIGTERM')
    await this.#storage.close()
  }

  async #startContainer (command: string[]): Promise<string> {
    const { init, limits } = this.#options
    const spec = { image, command, netns: { nsmode: 'none' }, init: true, init_path: init, user: '1000:1000', no_new_privileges: true, resource_limits: limits }
    const { Id } = await this.#request<{ Id: string }>('POST', '/containers/create', 201, spec)
    await this.#request('POST', `/containers/${Id}/start`, 204)
    return Id
  }

  async #request<T> (method: 'GET' | 'POST' | 'DELETE', path: string, status: number, body?: unknown): Promise<T> {
    const answer = await this.#pool.request({ method, path: `/v4.0.0/libpod${path}`, ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }) })
    const text = await answer.body.text()
    if (answer.statusCode !== status) throw new Error(`podman: ${method} ${path} answered ${answer.statusCode}: ${text} ${this.#log.slice(-1000)}`)
    return (text.startsWith('{') ? JSON.parse(text) : text) as T
  }

  get #socketPath (): string {
    return join(this.#options.dir, 'podman.sock')
  }
}
