/** Terminals on a real runtime and a real pty-host, without a daemon: a running container in the place of a sandbox, and managers that come and go. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { pino } from 'pino'
import { buildProcess, initMountPoint } from '../../src/host/oci-spec.ts'
import { findServerProcesses } from '../../src/host/server-process.ts'
import { BerthError } from '../../src/errors.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { randomId } from '../../src/lib/id.ts'
import type { AttachEvent, Terminal, TerminalCreate } from '../../src/schemas/terminal.ts'
import type { SandboxLifecycle } from '../../src/services/sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../../src/services/sandboxes/sandbox-manager.ts'
import { HostPlaces } from '../../src/services/sandboxes/sandbox-places.ts'
import { PtyHostSupervisor } from '../../src/services/terminals/pty-host-supervisor.ts'
import { TerminalManager } from '../../src/services/terminals/terminal-manager.ts'
import type { AttachOptions, TerminalAttachment, TerminalViewer } from '../../src/services/terminals/terminal-types.ts'
import { buildProgramRig, type Teardown } from '../contract/runtime-rig.ts'

const command = [process.execPath, '--disable-warning=ExperimentalWarning', new URL('../../src/pty-host.ts', import.meta.url).pathname]

/** Keeps all that it is sent. */
export class KeepingViewer implements TerminalViewer {
  readonly events: AttachEvent[] = []
  readonly pieces: Buffer[] = []
  receivedBytes = 0

  async sendEvent (event: AttachEvent): Promise<void> { this.events.push(event) }

  async sendOutput (bytes: Buffer): Promise<void> {
    this.pieces.push(Buffer.from(bytes))
    this.receivedBytes += bytes.length
  }

  get output (): string { return Buffer.concat(this.pieces).toString('latin1') }
  get exit (): AttachEvent | undefined { return this.events.find(({ type }) => type === 'exit') }
}

interface Attached {
  viewer: KeepingViewer
  attachment: TerminalAttachment
  run: Promise<void>
  abort: () => void
}

export interface TerminalRig {
  sandboxId: string
  /** Of the newest manager. */
  terminals: TerminalManager
  events: Array<{ type: string, terminalId: string, data: Record<string, unknown> }>
  activities: () => number
  /** Lets the manager go and makes another one, which adopts. */
  restart: (options?: { hasHostRestarted?: boolean }) => Promise<TerminalManager>
  create: (input: Partial<TerminalCreate>) => Promise<Terminal>
  attach: (terminalId: string, options?: Partial<AttachOptions>, viewer?: KeepingViewer) => Attached
  /** Runs a script in the container as root, and answers what it printed. */
  inside: (script: string) => Promise<string>
  ptyHosts: () => Promise<number[]>
  setStatus: (status: SandboxLifecycle['status']) => void
  places: HostPlaces
}

export async function buildTerminalRig (t: Teardown, name: 'runsc' | 'runc', windowBytes = 8 * 1024 ** 2): Promise<TerminalRig> {
  const dir = await mkdtemp(join(tmpdir(), 'berth-terminals-'))
  const { runtime, run } = await buildProgramRig(t, name)
  const container = await run()
  const places = new HostPlaces({ stateDir: join(dir, 'state'), runDir: join(dir, 'run') })
  await places.make()
  let activities = 0
  let status: SandboxLifecycle['status'] = 'running'
  const watchers = new Set<() => void>()
  const record = {
    id: container.id,
    get status () { return status },
    process: { env: { PATH: '/bin' }, cwd: '/', user: '1000', uid: 1000, gid: 1000, additionalGids: [] },
    resources: { pids: 64 },
  }
  const sandbox = {
    record,
    runtime,
    get status () { return status },
    get hasEnded () { return status === 'stopped' },
    clock: {
      beginActivity () {
        activities++
        return () => { activities-- }
      },
    },
    watch (onChange: () => void) {
      watchers.add(onChange)
      return () => watchers.delete(onChange)
    },
  } as unknown as SandboxLifecycle
  const expect = (id: string) => {
    if (id !== container.id) throw new BerthError('not_found', 'sandbox_not_found', 'none')
    return sandbox
  }
  const sandboxes = { get: expect, lifecycle: expect, all: () => [sandbox] } as unknown as SandboxManager
  const events: TerminalRig['events'] = []
  const make = () => new TerminalManager({
    places,
    sandboxes,
    images: { resolveUser: async () => { throw new Error('no users here') } },
    events: { append: event => events.push(event) },
    windowBytes,
    logger: pino({ level: 'silent' }),
    hosts: new PtyHostSupervisor({ dir: places.ptyHostDir, command, logPath: places.ptyHostLogPath, settings: { version: 'test', logLevel: 'info' }, logger: pino({ level: 'silent' }) }),
  })
  const ptyHosts = async () => (await readdir(places.ptyHostDir).catch(() => [])).flatMap(own => findServerProcesses('pty-host.ts', join(places.ptyHostDir, own))).map(({ identity }) => identity.pid)
  const runs: Array<{ run: Promise<void>, abort: () => void }> = []
  t.after(async () => {
    for (const { abort } of runs) abort()
    await Promise.allSettled(runs.map(({ run: ended }) => ended))
    assert.equal(activities, 0, 'every activity is over')
    await rig.terminals.endAll()
    assert.deepEqual(await ptyHosts(), [])
    await rm(dir, { recursive: true, force: true })
  })
  const rig: TerminalRig = {
    sandboxId: container.id,
    terminals: make(),
    events,
    activities: () => activities,
    places,
    ptyHosts,
    setStatus (wanted) {
      status = wanted
      for (const onChange of watchers) onChange()
    },
    async restart ({ hasHostRestarted = false } = {}) {
      await rig.terminals.close()
      rig.terminals = make()
      await rig.terminals.adopt({ hasHostRestarted })
      return rig.terminals
    },
    create: input => rig.terminals.create(container.id, { cols: 80, rows: 24, ...input }, {}),
    attach (terminalId, options = {}, viewer = new KeepingViewer()) {
      const controller = new AbortController()
      const attachment = rig.terminals.attach(container.id, terminalId, { role: 'write', ...options }, viewer)
      const attached = { viewer, attachment, run: attachment.run(controller.signal), abort: () => controller.abort() }
      attached.run.catch(() => {})
      runs.push(attached)
      return attached
    },
    async inside (script) {
      const id = randomId('exe')
      const runDir = join(dir, 'execs', id)
      await mkdir(runDir, { recursive: true })
      const spec = buildProcess({ argv: [`${initMountPoint}/busybox`, 'sh', '-c', script], env: { PATH: '/bin' }, cwd: '/', user: { uid: 0, gid: 0, additionalGids: [] }, pids: 64 })
      const { child, ended } = await runtime.exec({ execId: id, containerId: container.id, dir: runDir, runDir, exitDir: runDir, logPath: join(runDir, 'log') }, spec)
      child.stdin.end()
      child.stderr.resume()
      const printed = await text(child.stdout)
      await ended
      return printed
    },
  }
  return rig
}

export async function soon (isSo: () => boolean | Promise<boolean>, what: string): Promise<void> {
  assert.ok(await pollUntil(async () => await isSo(), 20_000), what)
}
