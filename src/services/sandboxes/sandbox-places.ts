/** Where everything of a sandbox lies on the host, by its id alone: what is derived cannot be forgotten. */
import { mkdir, readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { removeTrees } from '../../host/remove.ts'
import type { ContainerPlaces, ExecPlaces } from '../../host/oci-runtime.ts'
import type { SandboxRecord } from './sandbox-record.ts'

export interface SandboxPlaces {
  /** Everything that survives a reboot. */
  dir: string
  recordPath: string
  bundleDir: string
  /** Topmost lower layer: files generated for this sandbox. */
  seedDir: string
  upperDir: string
  workDir: string
  rootfsDir: string
  diskImagePath: string
  diskDir: string
  exitDir: string
  execsDir: string
  terminalsDir: string
  /** Gone after a reboot. */
  runDir: string
  runExecsDir: string
  runTerminalsDir: string
}

export class HostPlaces {
  readonly stateDir: string
  readonly runDir: string

  constructor (options: { stateDir: string, runDir: string }) {
    this.stateDir = options.stateDir
    this.runDir = options.runDir
  }

  get sandboxesDir (): string { return join(this.stateDir, 'sandboxes') }
  get tasksDir (): string { return join(this.stateDir, 'tasks') }
  get taskDatabasePath (): string { return join(this.stateDir, 'tasks.db') }
  get imagesDir (): string { return join(this.stateDir, 'images') }
  get layersDir (): string { return join(this.imagesDir, 'layers') }
  get layerMountsDir (): string { return join(this.runDir, 'layers') }
  get imageServerDir (): string { return join(this.runDir, 'image-server') }
  get imageServerLogPath (): string { return join(this.stateDir, 'image-server.log') }
  get networkServerDir (): string { return join(this.runDir, 'network-server') }
  get addressLeasesDir (): string { return join(this.stateDir, 'address-leases') }
  get networkServerLogPath (): string { return join(this.stateDir, 'network-server.log') }
  /** Of all pty-hosts: each has a directory of its own below. */
  get ptyHostDir (): string { return join(this.runDir, 'pty-host') }
  get ptyHostLogPath (): string { return join(this.stateDir, 'pty-host.log') }
  get runSandboxesDir (): string { return join(this.runDir, 'sandboxes') }
  get runtimesDir (): string { return join(this.runDir, 'runtimes') }
  get initDir (): string { return join(this.runDir, 'init') }
  /** Holds the id of the boot in which a daemon last took over; another one, or none, means that the host was restarted since. */
  get bootMarkerPath (): string { return join(this.runDir, 'boot') }
  get lockPath (): string { return join(this.stateDir, 'lock') }
  get runLockPath (): string { return join(this.runDir, 'lock') }

  /** Makes the directories that everything else lies in. Others of this host may go through them, to what they know by name. */
  async make (): Promise<void> {
    for (const dir of [this.stateDir, this.runDir]) await mkdir(dir, { recursive: true, mode: 0o711 })
    for (const dir of [this.sandboxesDir, this.tasksDir, this.imagesDir, this.layersDir, this.runSandboxesDir]) await mkdir(dir, { recursive: true, mode: 0o700 })
  }

  runtimeRoot (name: string): string { return join(this.runtimesDir, name) }

  sandbox (id: string, hasDisk = false): SandboxPlaces {
    const dir = join(this.sandboxesDir, id)
    const runDir = join(this.runSandboxesDir, id)
    // With a disk limit, what is written lies on the sandbox's own file system.
    const writable = hasDisk ? join(dir, 'disk') : dir
    return {
      dir,
      recordPath: join(dir, 'sandbox.json'),
      bundleDir: join(dir, 'bundle'),
      seedDir: join(dir, 'seed'),
      upperDir: join(writable, 'upper'),
      workDir: join(writable, 'work'),
      rootfsDir: join(dir, 'rootfs'),
      diskImagePath: join(dir, 'disk.img'),
      diskDir: join(dir, 'disk'),
      exitDir: join(dir, 'exit'),
      execsDir: join(dir, 'execs'),
      terminalsDir: join(dir, 'terminals'),
      runDir,
      runExecsDir: join(runDir, 'execs'),
      runTerminalsDir: join(runDir, 'terminals'),
    }
  }

  /** Removes everything of a sandbox but its record. What is inside is hostile: rm(1) follows no link, crosses no mount, and takes trees of any depth. */
  async removeSandboxFiles (id: string): Promise<void> {
    const { dir, recordPath, runDir } = this.sandbox(id)
    const names = await readdir(dir).catch(() => [])
    const keep = basename(recordPath)
    const paths = names.filter(name => name !== keep).map(name => join(dir, name))
    await removeTrees([...paths, runDir])
  }

  container (record: Pick<SandboxRecord, 'id' | 'task'>): ContainerPlaces {
    const { bundleDir, runDir, exitDir } = this.sandbox(record.id)
    return { id: record.id, bundleDir, runDir, exitDir, logPath: join(this.logDir(record), 'log') }
  }

  /** What a sandbox prints is its own, unless it is made for a task: then it is the task's, and stays when the sandbox goes. */
  logDir ({ id, task }: Pick<SandboxRecord, 'id' | 'task'>): string {
    return task ? this.task(task.id).dir : this.sandbox(id).dir
  }

  /** Of a task: its log, and how far its outputs have come. */
  task (id: string): { dir: string, outputsDir: string } {
    const dir = join(this.tasksDir, id)
    return { dir, outputsDir: join(dir, 'outputs') }
  }

  exec (sandboxId: string, execId: string): ExecPlaces {
    const sandbox = this.sandbox(sandboxId)
    const dir = join(sandbox.execsDir, execId)
    return { execId, containerId: sandboxId, dir, runDir: join(sandbox.runExecsDir, execId), exitDir: join(dir, 'exit'), logPath: join(dir, 'log') }
  }

  /** Of a terminal: its record and output in `dir`, what is gone after a reboot in `runDir`. It has no monitor. */
  terminal (sandboxId: string, terminalId: string): ExecPlaces {
    const sandbox = this.sandbox(sandboxId)
    const dir = join(sandbox.terminalsDir, terminalId)
    return { execId: terminalId, containerId: sandboxId, dir, runDir: join(sandbox.runTerminalsDir, terminalId), exitDir: dir, logPath: join(dir, 'log') }
  }
}
