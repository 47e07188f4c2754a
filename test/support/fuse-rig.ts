/** A FUSE mount of random files in a directory of its own, served by a process of its own, and nothing of it left at the end. */
import assert from 'node:assert/strict'
import { fork, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { abortFuse } from '../../src/host/fuse-mount.ts'
import { endImageKeeper, findImageKeeper, startImageKeeper } from '../../src/host/image-keeper.ts'
import type { ProcessIdentity } from '../../src/host/process.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import type { FixtureFile, FixtureOrder, FixtureSettings } from './fuse-server-fixture.ts'
import { findLeftovers } from './leftovers.ts'

const fixture = new URL('./fuse-server-fixture.ts', import.meta.url).pathname
const libexec = new URL('../../libexec/', import.meta.url).pathname

export interface FetchedRange {
  name: string
  startByte: number
  endByte: number
}

export class FuseRig {
  readonly dir: string
  readonly target: string
  readonly fetched: FetchedRange[] = []
  readonly #files: FixtureFile[] = []
  readonly #contents = new Map<string, Buffer>()
  server: ChildProcess | undefined

  private constructor (dir: string) {
    this.dir = dir
    this.target = join(dir, 'blobs')
  }

  static async build (t: TestContext): Promise<FuseRig> {
    const rig = new FuseRig(await mkdtemp(join(tmpdir(), 'berth-fuse-')))
    await mkdir(rig.target)
    t.after(async () => { await rig.#end() })
    return rig
  }

  get stallMarker (): string { return join(this.dir, 'stalled') }
  get outageMarker (): string { return join(this.dir, 'outage') }
  get gateMarker (): string { return join(this.dir, 'gate') }
  get logPath (): string { return join(this.dir, 'keeper.log') }

  pathOf (name: string): string { return join(this.target, name) }

  contentOf (name: string): Buffer {
    const content = this.#contents.get(name)
    assert.ok(content)
    return content
  }

  /** A source, and a sparse local file of the same size. */
  async makeFile (name: string, content: number | Buffer, present: FixtureFile['present'] = 'none', granuleBytes = 64 * 1024): Promise<FixtureFile> {
    const data = typeof content === 'number' ? randomBytes(content) : content
    const [sourcePath, dataPath] = [join(this.dir, `${name}.source`), join(this.dir, `${name}.data`)]
    await writeFile(sourcePath, data)
    await writeFile(dataPath, '')
    await truncate(dataPath, data.length)
    this.#contents.set(name, data)
    const file: FixtureFile = { name, nodeId: String(this.#contents.size + 1), sizeBytes: data.length, sourcePath, dataPath, granuleBytes, present }
    this.#files.push(file)
    return file
  }

  /** Starts a server on a /dev/fuse of its own and waits until it serves. */
  async start (more: Partial<FixtureSettings> = {}): Promise<ChildProcess> {
    const fd = openSync('/dev/fuse', 'r+')
    const server = fork(fixture, [await this.#writeSettings(more), '1'], { stdio: ['ignore', 'inherit', 'inherit', fd, 'ipc'], env: { ...process.env, UV_THREADPOOL_SIZE: '16' } })
    this.server = server
    closeSync(fd)
    server.on('message', (message: { fetched?: FetchedRange }) => { if (message.fetched) this.fetched.push(message.fetched) })
    await once(server, 'message')
    return server
  }

  /** Starts a keeper that runs the server, and waits until it serves. */
  async startKept (more: Partial<FixtureSettings> = {}): Promise<ProcessIdentity> {
    const readyPath = join(this.dir, 'ready')
    const settings = await this.#writeSettings({ ...more, readyPath })
    const keeper = await startImageKeeper({ keeperPath: join(libexec, 'image-keeper'), dir: this.dir, command: [process.execPath, fixture, settings], logPath: this.logPath })
    assert.ok(await pollUntil(async () => await readFile(readyPath, 'utf8').then(text => text !== '', () => false), 20_000), await readFile(this.logPath, 'utf8'))
    return keeper
  }

  /** The pid of the keeper's present server. */
  async serverOf (keeper: ProcessIdentity): Promise<number | undefined> {
    const children = (await readFile(`/proc/${keeper.pid}/task/${keeper.pid}/children`, 'utf8')).trim().split(' ').filter(text => text !== '').map(Number)
    for (const pid of children) {
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      if (command.includes('fuse-server-fixture')) return pid
    }
    return undefined
  }

  async order (order: FixtureOrder): Promise<void> {
    assert.ok(this.server)
    const done = once(this.server, 'message')
    this.server.send(order)
    await done
  }

  async #writeSettings (more: Partial<FixtureSettings>): Promise<string> {
    const path = join(this.dir, 'settings.json')
    const settings: FixtureSettings = { target: this.target, files: this.#files, outageMarker: this.outageMarker, ...more }
    await writeFile(path, JSON.stringify(settings))
    return path
  }

  async #end (): Promise<void> {
    await abortFuse(this.target)
    const keeper = await findImageKeeper(this.dir)
    if (keeper) await endImageKeeper(keeper)
    if (this.server && this.server.exitCode === null && this.server.signalCode === null) {
      this.server.kill('SIGKILL')
      await once(this.server, 'exit')
    }
    assert.ok(await pollUntil(async () => (await findLeftovers({ dir: this.dir, hostId: '' })).length === 0, 5000), `left: ${(await findLeftovers({ dir: this.dir, hostId: '' })).join(', ')}`)
    await rm(this.dir, { recursive: true })
  }
}
