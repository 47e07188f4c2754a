/** podman with directories of its own: nothing of it is shared with the podman of this host, and all of it can be given back. */
import { mkdir, readdir, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cleanEnv } from '../src/host/command.ts'
import { flagsWithoutNetwork } from './bare-runsc.ts'
import { runChild } from './child.ts'
import { findPids } from './machine.ts'

export interface PodmanStorageOptions {
  dir: string
  /** Of the programs. */
  podman: string
  runsc: string
  /** Further sections of containers.conf(5). */
  config?: string
}

export class PodmanStorage {
  readonly #options: PodmanStorageOptions
  readonly env: Record<string, string>

  constructor (options: PodmanStorageOptions) {
    this.#options = options
    this.env = { ...cleanEnv, CONTAINERS_CONF: this.#configPath }
  }

  async open (): Promise<void> {
    await mkdir(this.#options.dir, { recursive: true })
    // Locks in shared memory would be one set for every podman of the host.
    await writeFile(this.#configPath, `[engine]\nlock_type = "file"\n${this.#options.config ?? ''}`)
  }

  /** What every call has before its command. */
  get globalArgs (): string[] {
    const { dir, runsc } = this.#options
    const flags = flagsWithoutNetwork().filter(flag => flag !== '--ignore-cgroups')
    return [
      '--root', join(dir, 'storage'), '--runroot', join(dir, 'run'), '--tmpdir', join(dir, 'tmp'),
      '--cgroup-manager=cgroupfs', '--events-backend=none', '--runtime', runsc,
      ...flags.map(flag => `--runtime-flag=${flag.replace(/^--/, '')}`),
    ]
  }

  /** Ends what runs and removes what is stored. */
  async close (): Promise<void> {
    const { dir, podman } = this.#options
    // Ends what an interrupted run left, then its storage: overlay's own mount point is below --root.
    await runChild(podman, [...this.globalArgs, 'rm', '--all', '--force', '--time', '0'], { env: this.env })
    await runChild(podman, [...this.globalArgs, 'rmi', '--all', '--force'], { env: this.env })
    // The monitor of an exec stays for five minutes, then cleans up in directories that are gone.
    for (const pid of await findPids('conmon', dir)) process.kill(pid, 'SIGKILL')
    await runChild('umount', ['--no-canonicalize', join(dir, 'storage', 'overlay')])
    // The parent of its groups stays empty; one that another podman of this host uses is not, and stays.
    for (const hierarchy of await readdir('/sys/fs/cgroup')) {
      for (const group of ['libpod_parent/conmon', 'libpod_parent']) await rmdir(join('/sys/fs/cgroup', hierarchy, group)).catch(() => {})
    }
  }

  get #configPath (): string {
    return join(this.#options.dir, 'containers.conf')
  }
}
