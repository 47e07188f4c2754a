/** podman's REST API (libpod, version 4) with the same runtime and the same userland, on directories of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdir, readdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Pool } from 'undici'
import { cleanEnv } from '../src/host/command.ts'
import { runtimeProfiles } from '../src/host/oci-runtime.ts'
import { endChild, mustRun, runChild } from './child.ts'
import { findPids } from './machine.ts'
import { mustBe, timed, type Contestant } from './contestant.ts'

export interface PodmanServiceOptions {
  dir: string
  /** Of the programs. */
  podman: string
  runsc: string
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
  readonly #pool: Pool
  #child: ChildProcess | undefined
  #log = ''

  constructor (options: PodmanServiceOptions) {
    this.#options = options
    this.#pool = new Pool('http://localhost', { socketPath: this.#socketPath, connections: 4, pipelining: 1, headersTimeout: 60_000, bodyTimeout: 60_000 })
  }

  async start (): Promise<void> {
    const { dir, podman, rootfsDir } = this.#options
    await mkdir(dir, { recursive: true })
    // Locks in shared memory would be one set for every podman of the host.
    await writeFile(this.#configPath, '[engine]\nlock_type = "file"\n')
    const archive = join(dir, 'rootfs.tar')
    await mustRun('tar', ['-C', rootfsDir, '-cf', archive, '.'])
    await mustRun(podman, [...this.#globalArgs(), 'import', archive, image], { env: this.#env() })
    const child = spawn(podman, [...this.#globalArgs(), 'system', 'service', '--time=0', `unix://${this.#socketPath}`], { stdio: ['ignore', 'ignore', 'pipe'], detached: true, env: this.#env() })
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
    const { podman } = this.#options
    // Ends what an interrupted run left, then its storage: overlay's own mount point is below --root.
    await runChild(podman, [...this.#globalArgs(), 'rm', '--all', '--force', '--time', '0'], { env: this.#env() })
    await runChild(podman, [...this.#globalArgs(), 'rmi', '--all', '--force'], { env: this.#env() })
    // The monitor of an exec stays for five minutes, then cleans up in directories that are gone.
    for (const pid of await findPids('conmon', this.#options.dir)) process.kill(pid, 'SIGKILL')
    await runChild('umount', ['--no-canonicalize', join(this.#options.dir, 'storage', 'overlay')])
    // The parent of its groups stays empty; one that another podman of this host uses is not, and stays.
    for (const hierarchy of await readdir('/sys/fs/cgroup')) {
      for (const group of ['libpod_parent/conmon', 'libpod_parent']) await rmdir(join('/sys/fs/cgroup', hierarchy, group)).catch(() => {})
    }
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

  get #configPath (): string {
    return join(this.#options.dir, 'containers.conf')
  }

  #env (): Record<string, string> {
    return { ...cleanEnv, CONTAINERS_CONF: this.#configPath }
  }

  #globalArgs (): string[] {
    const { dir, runsc } = this.#options
    const flags = (runtimeProfiles['runsc']?.globalArgs ?? []).filter(flag => flag !== '--ignore-cgroups')
    return [
      '--root', join(dir, 'storage'), '--runroot', join(dir, 'run'), '--tmpdir', join(dir, 'tmp'),
      '--cgroup-manager=cgroupfs', '--events-backend=none', '--runtime', runsc,
      ...flags.map(flag => `--runtime-flag=${flag.replace(/^--/, '')}`),
    ]
  }
}
