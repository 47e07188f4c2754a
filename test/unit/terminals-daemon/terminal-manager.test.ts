import assert from 'node:assert/strict'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import type { OciProcess } from '../../../src/host/oci-spec.ts'
import { pollUntil } from '../../../src/lib/poll.ts'
import type { SandboxLifecycle } from '../../../src/services/sandboxes/sandbox-lifecycle.ts'
import type { SandboxManager } from '../../../src/services/sandboxes/sandbox-manager.ts'
import { HostPlaces } from '../../../src/services/sandboxes/sandbox-places.ts'
import type { PtyHosts, PtyListener } from '../../../src/services/terminals/pty-host-supervisor.ts'
import type { PtyCreate, PtyEnd, PtyStatus } from '../../../src/services/terminals/server/pty-protocol.ts'
import { TerminalManager } from '../../../src/services/terminals/terminal-manager.ts'
import type { TerminalRecord } from '../../../src/services/terminals/terminal-record.ts'

const sandboxId = 'sbx_00000000000000000000'
const at = '2026-01-01T00:00:00.000Z'
const idOf = (name: string) => `trm_${name.padEnd(20, '0')}`
const statusOf = (name: string, end?: PtyEnd): PtyStatus => ({ id: idOf(name), dir: '', cols: 99, rows: 33, pid: 1, offset: 0, ...(end ? { end } : {}) })

/** A pty-host in memory: terminals begin, and end when they are hung up or told to. */
class FakeHosts {
  readonly known = new Map<string, PtyStatus>()
  readonly listeners = new Map<string, PtyListener>()
  readonly discarded: string[] = []
  onCreate: (request: Omit<PtyCreate, 'op'>) => void = () => {}

  end (id: string, exitCode = 0): void {
    this.listeners.get(id)?.onEnded({ at, offset: 0, exitCode })
  }

  readonly face: PtyHosts = {
    adopt: async () => {},
    list: async () => new Map(this.known),
    listen: (id, listener) => { this.listeners.set(id, listener) },
    create: async (id, request) => {
      this.onCreate(request)
      this.known.set(id, { ...statusOf(''), id })
    },
    request: async (id, { op }) => {
      if (op === 'hangUp') this.end(id, 129)
      return {}
    },
    input: () => {},
    forget: async id => { this.known.delete(id) },
    discard: async id => {
      this.discarded.push(id)
      this.known.delete(id)
    },
    sweep: async () => {},
    close: async () => {},
    end: async () => {},
  }
}

function build (t: TestContext) {
  const dir = mkdtempSync(join(tmpdir(), 'berth-manager-'))
  t.after(() => rmSync(dir, { recursive: true, force: true }))
  const places = new HostPlaces({ stateDir: join(dir, 'state'), runDir: join(dir, 'run') })
  const signals: string[] = []
  const processes: OciProcess[] = []
  let status = 'running'
  const watchers = new Set<() => void>()
  const hosts = new FakeHosts()
  const sandbox = {
    record: { id: sandboxId, get status () { return status }, process: { env: { PATH: '/bin', TERM: 'dumb' }, cwd: '/workspace', user: 'box', uid: 1, gid: 1, additionalGids: [] }, resources: { pids: 9 } },
    get status () { return status },
    get hasEnded () { return status === 'stopped' },
    runtime: {
      terminalArgv: async (_places: unknown, process: OciProcess) => {
        processes.push(process)
        return ['client']
      },
      terminalStarted: async () => {},
      innerPid: async () => undefined,
      signalExec: async ({ execId }: { execId: string }, signal: string) => {
        signals.push(`${signal} ${execId}`)
        if (signal === 'HUP') hosts.end(execId, 129)
      },
    },
    clock: { beginActivity: () => () => {} },
    watch: (onChange: () => void) => {
      watchers.add(onChange)
      return () => watchers.delete(onChange)
    },
  } as unknown as SandboxLifecycle
  const events: Array<{ type: string, terminalId: string }> = []
  const terminals = new TerminalManager({
    places,
    sandboxes: { get: () => sandbox, lifecycle: () => sandbox, all: () => [sandbox] } as unknown as SandboxManager,
    images: { resolveUser: async () => { throw new Error('not asked for') } },
    events: { append: event => events.push(event) },
    windowBytes: 1,
    logger: pino({ level: 'silent' }),
    hosts: hosts.face,
  })
  return {
    terminals,
    hosts,
    signals,
    processes,
    events,
    places,
    create: (idempotencyKey?: string) => terminals.create(sandboxId, { cols: 80, rows: 24 }, { idempotencyKey }),
    left (name: string, own: Partial<TerminalRecord>) {
      const { dir: ownDir } = places.terminal(sandboxId, idOf(name))
      mkdirSync(ownDir, { recursive: true })
      const record: TerminalRecord = { version: 1, id: idOf(name), sandboxId, status: 'running', cwd: '/', user: 'box', cols: 80, rows: 24, createdAt: at, ...own }
      writeFileSync(join(ownDir, 'terminal.json'), JSON.stringify(record))
      return { id: idOf(name), dir: ownDir }
    },
    setStatus (wanted: string) {
      status = wanted
      for (const onChange of watchers) onChange()
    },
    get: (id: string) => terminals.get(sandboxId, id),
    ids: () => terminals.list(sandboxId, {}).items.map(({ id }) => id),
  }
}

test('the record is there before the program is asked for, and without argv it is the shell', async t => {
  const { create, hosts, processes, places, get } = build(t)
  let before = ''
  hosts.onCreate = ({ dir }) => { before = dir }
  const { id } = await create()
  assert.equal(before, places.terminal(sandboxId, id).dir)
  assert.deepEqual(processes[0]?.args, ['/.berth/files', 'shell'])
  assert.ok(processes[0]?.env.includes('TERM=xterm-256color') && processes[0].env.includes('COLORTERM=truecolor'))
  assert.ok(!processes[0]?.env.some(text => text.startsWith('LANG=')))
  assert.equal(get(id).user, 'box')
  assert.equal((JSON.parse(await readFile(join(before, 'terminal.json'), 'utf8')) as TerminalRecord).status, 'running')
})

test('a start that fails leaves neither a record nor a terminal', async t => {
  const { create, hosts, ids, places } = build(t)
  let dir = ''
  hosts.onCreate = request => {
    dir = request.dir
    assert.ok(existsSync(join(dir, 'terminal.json')))
    throw new Error('no room')
  }
  await assert.rejects(create(), /no room/)
  assert.deepEqual(ids(), [])
  assert.ok(!existsSync(dir) && dir.startsWith(places.stateDir))
})

test('at most 64 run, and of those that have ended 32 are kept', async t => {
  const { create, hosts, ids, terminals, places } = build(t)
  const created: string[] = []
  for (let count = 0; count < 64; count++) created.push((await create()).id)
  await assert.rejects(create(), { kind: 'exhausted', code: 'too_many_terminals' })
  for (const id of created) hosts.end(id)
  assert.ok(await pollUntil(async () => ids().length === 32, 10_000), `${ids().length} are kept`)
  assert.equal(hosts.known.size, 0)
  assert.ok(await pollUntil(async () => created.filter(id => existsSync(places.terminal(sandboxId, id).dir)).length === 32, 5000))
  assert.equal(terminals.list(sandboxId, { limit: 10, status: ['ended'] }).items.length, 10)
  await create()
})

test('the same key is the same terminal', async t => {
  const { create, ids } = build(t)
  assert.equal((await create('key')).id, (await create('key')).id)
  await create('other')
  assert.equal(ids().length, 2)
})

test('what an earlier daemon left goes on, is settled, or is cleaned up', async t => {
  const { terminals, hosts, left, get, ids, signals, events } = build(t)
  const live = left('live', {})
  const seen = left('seen', {})
  const written = left('written', {})
  const lost = left('lost', {})
  const unanswered = left('unanswered', { status: 'starting' })
  const deleting = left('deleting', { isDeleting: true, ending: 'deleted' })
  const gone = left('gone', { isDeleting: true })
  const old = left('old', { status: 'ended', end: { reason: 'exited', at, exitCode: 1 } })
  writeFileSync(join(written.dir, 'end.json'), JSON.stringify({ at, offset: 0, exitCode: 4 }))
  for (const status of [statusOf('live'), statusOf('seen', { at, offset: 0, exitCode: 3 }), statusOf('deleting'), statusOf('unanswered'), statusOf('stranger')]) hosts.known.set(status.id, status)
  await terminals.adopt({ hasHostRestarted: false })
  assert.ok(await pollUntil(async () => !existsSync(deleting.dir) && !existsSync(gone.dir), 10_000))
  assert.deepEqual(ids().toSorted(), [live, lost, old, seen, written].map(({ id }) => id).toSorted())
  assert.deepEqual([get(live.id).status, get(live.id).cols], ['running', 99])
  assert.equal(get(seen.id).end?.exitCode, 3)
  assert.equal(get(written.id).end?.exitCode, 4)
  assert.equal(get(lost.id).end?.reason, 'pty_host_lost')
  assert.ok(signals.includes(`KILL ${lost.id}`))
  assert.ok(signals.includes(`HUP ${deleting.id}`))
  assert.ok(!existsSync(unanswered.dir))
  assert.deepEqual(hosts.discarded.toSorted(), [idOf('stranger'), unanswered.id].toSorted())
  assert.equal(events.filter(({ type, terminalId }) => type === 'terminal.ended' && terminalId === old.id).length, 0)
  hosts.end(live.id, 7)
  assert.ok(await pollUntil(async () => get(live.id).end?.exitCode === 7, 5000))
})

test('a host that was restarted has none any more', async t => {
  const { terminals, left, get, setStatus } = build(t)
  const { id } = left('one', {})
  setStatus('stopped')
  await terminals.adopt({ hasHostRestarted: true })
  assert.equal(get(id).end?.reason, 'host_restarted')
})

test('a stop of the sandbox hangs up its terminals, and that is why they end', async t => {
  const { terminals, create, get, setStatus, signals } = build(t)
  const { id } = await create()
  setStatus('stopping')
  assert.ok(await pollUntil(async () => get(id).status === 'ended', 5000))
  assert.deepEqual(signals, [`HUP ${id}`])
  assert.equal(get(id).end?.reason, 'sandbox_ended')
  setStatus('stopped')
  await terminals.onSandboxEnded(sandboxId)
})
