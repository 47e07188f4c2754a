/** The runtime as a user runs it by hand: the same bundle as ours, runsc's own cgroup handling, no daemon, no monitor. */
import { randomBytes } from 'node:crypto'
import { mkdir, readdir, rm, rmdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { readExitCode, startMonitored } from '../src/host/conmon.ts'
import { mountOverlay, unmount } from '../src/host/mount.ts'
import { runtimeProfiles } from '../src/host/oci-runtime.ts'
import type { Template } from './berth-daemon.ts'
import { mustRun, runChild, type ChildEnd } from './child.ts'
import { mustBe, timed, type Contestant } from './contestant.ts'

export interface BareRunscOptions {
  dir: string
  path: string
  /** Bundles of ours: one that runs echo, one that idles. */
  echo: Template
  idle: Template
  /** The path of a network namespace that they enter; without it they have no network. */
  netnsPath?: string
}

/** As ours runs it, but for the network: by hand nobody has one without making it first. */
export function flagsWithoutNetwork (): string[] {
  return (runtimeProfiles['runsc']?.globalArgs ?? []).map(flag => flag.startsWith('--network=') ? '--network=none' : flag)
}

const loggedWithinMs = 120_000
const withoutNetSysctls = new URL('../libexec/without-net-sysctls', import.meta.url).pathname

interface BareProcess { args: string[] }
interface BareLinux { namespaces: Array<{ type: string, path?: string }> }

export class BareRunsc implements Contestant {
  readonly name = 'bare'
  readonly #options: BareRunscOptions
  /** The runtime with its flags. */
  readonly #command: string[]
  readonly #cgroupParent = `/berth-bench-${randomBytes(4).toString('hex')}`
  readonly #ids = new Set<string>()
  /** Of those that run attached. */
  readonly #clients = new Map<string, Promise<ChildEnd>>()

  constructor (options: BareRunscOptions) {
    this.#options = options
    const flags = options.netnsPath === undefined ? flagsWithoutNetwork() : runtimeProfiles['runsc']?.globalArgs ?? []
    // What needs a network needs what hides the host's settings from a runsc that is old.
    const before = options.netnsPath === undefined ? [] : [withoutNetSysctls]
    this.#command = [...before, options.path, '--root', join(options.dir, 'root'), ...flags.filter(flag => flag !== '--ignore-cgroups')]
  }

  async runEcho (): Promise<number> {
    const id = await this.#prepare(this.#options.echo)
    let stdout = ''
    const durationMs = await timed(async () => { stdout = (await this.#runsc('run', '--bundle', this.#bundle(id), id)).stdout })
    mustBe('the output of echo', stdout, 'hi\n')
    await this.#release(id)
    return durationMs
  }

  /** Makes a bundle with its overlay mounted; that is outside of every time. */
  async prepareIdle (): Promise<string> {
    return await this.#prepare(this.#options.idle)
  }

  /** Runs a prepared bundle detached; answers when its process runs. */
  async startPrepared (id: string): Promise<void> {
    await this.#runscQuietly('run', '--detach', '--bundle', this.#bundle(id), id)
  }

  /** Runs a bundle under a client that stays, as its parent: init may take its time to reap a detached one, and runsc takes a zombie for alive. */
  async startIdle (): Promise<string> {
    const id = await this.prepareIdle()
    const end = runChild(...this.#call('run', '--bundle', this.#bundle(id), id), { stdio: 'ignore', timeout: 0 })
    this.#clients.set(id, end)
    while (!(await runChild(...this.#call('state', id))).stdout.includes('"running"')) await delay(20)
    return id
  }

  async execTrue (id: string): Promise<number> {
    return await timed(() => this.#runsc('exec', '--process', join(this.#bundle(id), 'exec.json'), id))
  }

  /** Runs a program in a running sandbox; answers what it said. */
  async exec (id: string, argv: string[]): Promise<string> {
    const path = join(this.#bundle(id), 'exec-program.json')
    await writeFile(path, JSON.stringify({ ...this.#options.idle.config['process'] as BareProcess, args: argv }))
    return (await this.#runsc('exec', '--process', path, id)).stdout
  }

  /** Kills; the client sees the end, deletes the container and ends. */
  async remove (id: string): Promise<number> {
    const durationMs = await timed(async () => {
      await this.#runsc('kill', id, 'KILL')
      await this.#clients.get(id)
    })
    this.#clients.delete(id)
    await this.#release(id)
    return durationMs
  }

  /** Runs a bundle under a monitor that writes its output to a log, with nobody reading it; answers how long it took from the first byte to its end, in milliseconds. */
  async runLogged (template: Template, conmonPath: string): Promise<number> {
    const id = await this.#prepare(template)
    const bundleDir = this.#bundle(id)
    const logPath = join(bundleDir, 'log')
    const [program = '', ...args] = this.#command
    const giveUpAtMs = Date.now() + loggedWithinMs
    const until = async (isSo: () => Promise<boolean>) => {
      for (; !await isSo(); await delay(2)) if (Date.now() > giveUpAtMs) throw new Error('the printer under a monitor did not come to its end')
    }
    await startMonitored({ conmonPath, containerId: id, runtime: [program, ...args], bundleDir, runDir: bundleDir, exitDir: bundleDir, logPath })
    await this.#runscQuietly('start', id)
    await until(async () => (await stat(logPath)).size > 0 || await readExitCode(bundleDir, id) !== undefined)
    const durationMs = await timed(() => until(async () => await readExitCode(bundleDir, id) !== undefined))
    mustBe('the exit code of the printer', await readExitCode(bundleDir, id), 0)
    await this.removeDetached(id)
    return durationMs
  }

  /** Ends and removes a detached one; nobody asks how quickly. */
  async removeDetached (id: string): Promise<void> {
    await runChild(...this.#call('delete', '--force', id))
    await this.#release(id)
  }

  /** Ends and removes whatever is left. */
  async close (): Promise<void> {
    await Promise.all([...this.#ids].map(id => this.removeDetached(id)))
    for (const hierarchy of await readdir('/sys/fs/cgroup')) {
      const parent = join('/sys/fs/cgroup', hierarchy, this.#cgroupParent)
      for (const child of await readdir(parent).catch(() => [])) await rmdir(join(parent, child)).catch(() => {})
      await rmdir(parent).catch(() => {})
    }
    await rmdir(join('/sys/fs/cgroup', this.#cgroupParent)).catch(() => {})
  }

  async #prepare (template: Template): Promise<string> {
    const id = `bare-${randomBytes(8).toString('hex')}`
    this.#ids.add(id)
    const dir = this.#bundle(id)
    const overlay = { lowerDirs: template.lowerDirs, upperDir: join(dir, 'upper'), workDir: join(dir, 'work'), target: join(dir, 'rootfs') }
    for (const path of [overlay.upperDir, overlay.workDir, overlay.target]) await mkdir(path, { recursive: true })
    const { process, linux } = template.config as { process: BareProcess, linux: BareLinux }
    const { netnsPath } = this.#options
    const namespaces = linux.namespaces.map(({ type }) => type === 'network' && netnsPath !== undefined ? { type, path: netnsPath } : { type })
    const config = { ...template.config, root: { path: overlay.target, readonly: false }, linux: { ...linux, namespaces, cgroupsPath: `${this.#cgroupParent}/${id}` } }
    await writeFile(join(dir, 'config.json'), JSON.stringify(config))
    await writeFile(join(dir, 'exec.json'), JSON.stringify({ ...process, args: ['true'] }))
    mountOverlay(overlay)
    return id
  }

  async #release (id: string): Promise<void> {
    await unmount(join(this.#bundle(id), 'rootfs'))
    await rm(this.#bundle(id), { recursive: true, force: true })
    this.#ids.delete(id)
  }

  #call (...args: string[]): [string, string[]] {
    const [program = '', ...before] = this.#command
    return [program, [...before, ...args]]
  }

  #runsc (...args: string[]) {
    return mustRun(...this.#call(...args))
  }

  /** Without pipes, which a detached container would hold open. */
  #runscQuietly (...args: string[]) {
    return mustRun(...this.#call(...args), { stdio: 'ignore' })
  }

  #bundle (id: string): string {
    return join(this.#options.dir, 'bundles', id)
  }
}
