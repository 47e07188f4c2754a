/** Pty-hosts as the daemon looks after them: real processes, with programs of the host at their terminals. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { findServerProcesses } from '../../src/host/server-process.ts'
import { isAlive } from '../../src/host/process.ts'
import { randomId } from '../../src/lib/id.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { PtyHostSupervisor, type PtyListener } from '../../src/services/terminals/pty-host-supervisor.ts'
import type { PtyEnd, PtyStatus } from '../../src/services/terminals/server/pty-protocol.ts'

const command = [process.execPath, '--disable-warning=ExperimentalWarning', new URL('../../src/pty-host.ts', import.meta.url).pathname]

class Listener implements PtyListener {
  output = ''
  takenBytes = 0
  readonly heard: string[] = []
  end: PtyEnd | undefined

  onOutput (_offset: number, bytes: Buffer): void { this.output += bytes.toString('latin1') }
  onAdvanced (): void {}
  onTaken (bytes: number): void { this.takenBytes += bytes }
  onLost (): void { this.heard.push('lost') }
  onEnded (end: PtyEnd): void {
    this.end = end
    this.heard.push('ended')
  }

  onReconnected (status: PtyStatus | undefined): void { this.heard.push(status ? 'reconnected' : 'reconnected to nothing') }
}

async function build (t: TestContext) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-pty-'))
  const hostsDir = join(dir, 'pty-host')
  const supervisors: PtyHostSupervisor[] = []
  const make = (version = '1') => {
    const supervisor = new PtyHostSupervisor({ dir: hostsDir, command, logPath: join(dir, 'log'), settings: { version, logLevel: 'info' }, logger: pino({ level: 'silent' }) })
    supervisors.push(supervisor)
    return supervisor
  }
  const running = async () => {
    const found = (await readdir(hostsDir).catch(() => [])).flatMap(name => findServerProcesses('pty-host.ts', join(hostsDir, name)))
    // A program that is being started is a copy of its pty-host for a moment.
    return found.filter(({ identity: { pid } }) => !found.some(({ identity }) => identity.pid === parentOf(pid)))
  }
  t.after(async () => {
    for (const supervisor of supervisors) await supervisor.close()
    await make().end()
    const left = await running()
    await rm(dir, { recursive: true, force: true })
    assert.deepEqual(left, [])
  })
  const open = async (supervisor: PtyHostSupervisor, argv: string[]) => {
    const id = randomId('trm')
    const listener = new Listener()
    supervisor.listen(id, listener)
    await supervisor.create(id, { argv, dir: join(dir, id), cols: 80, rows: 24, windowBytes: 1024 ** 2 })
    return { id, listener }
  }
  return { make, open, running }
}

function parentOf (pid: number): number {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1])
  } catch {
    return NaN
  }
}

const soon = async (isSo: () => boolean, what: string) => assert.ok(await pollUntil(async () => isSo(), 20_000), what)

test('nothing runs before the first terminal; input reaches it, and its end is told', async t => {
  const { make, open, running } = await build(t)
  const hosts = make()
  await hosts.adopt()
  assert.deepEqual(await running(), [])
  const { id, listener } = await open(hosts, ['/bin/sh', '-c', 'read line; echo "got $line"; exit 3'])
  await hosts.request(id, { op: 'subscribe' })
  hosts.input(id, Buffer.from('word\n'))
  await soon(() => listener.end !== undefined, 'it ends')
  assert.match(listener.output, /got word/)
  assert.equal(listener.takenBytes, 5)
  assert.equal(listener.end?.exitCode, 3)
})

test('a pty-host that is killed is told to its terminals, and another takes new ones', async t => {
  const { make, open, running } = await build(t)
  const hosts = make()
  const { id, listener } = await open(hosts, ['/bin/sleep', '1000'])
  const [first] = await running()
  assert.ok(first)
  process.kill(first.identity.pid, 'SIGKILL')
  await soon(() => listener.heard.includes('lost'), 'it is told')
  await assert.rejects(hosts.request(id, { op: 'screen' }), { code: 'pty_host_unavailable' })
  const second = await open(hosts, ['/bin/sh', '-c', 'exit 0'])
  await soon(() => second.listener.heard.includes('ended'), 'the next one works')
  assert.equal((await running()).length, 1)
})

test('the next daemon finds the terminals where they were', async t => {
  const { make, open, running } = await build(t)
  const first = make()
  const { id, listener: earlier } = await open(first, ['/bin/sh', '-c', 'read line; echo "before $line"; read line; echo "after $line"'])
  await first.request(id, { op: 'subscribe' })
  first.input(id, Buffer.from('x\n'))
  await soon(() => earlier.output.includes('before x'), 'it runs')
  await first.close()
  const before = await running()
  const second = make()
  await second.adopt()
  const listener = new Listener()
  second.listen(id, listener)
  const status = (await second.list()).get(id)
  assert.equal(status?.end, undefined)
  await second.request(id, { op: 'subscribe' })
  second.input(id, Buffer.from('x\n'))
  await soon(() => listener.end !== undefined, 'it goes on')
  assert.match(listener.output, /after x/)
  assert.deepEqual(await running(), before)
})

test('a pty-host of another version keeps its terminals, and goes with the last of them', async t => {
  const { make, open, running } = await build(t)
  const old = make('1')
  const { id } = await open(old, ['/bin/sh', '-c', 'read line; exit 7'])
  const idle = await open(old, ['/bin/sh', '-c', 'exit 0'])
  await soon(() => idle.listener.heard.includes('ended'), 'one has ended')
  await old.close()
  const [elder] = await running()
  assert.ok(elder)
  const upgraded = make('2')
  await upgraded.adopt()
  const listener = new Listener()
  upgraded.listen(id, listener)
  assert.ok((await upgraded.list()).has(id))
  const fresh = await open(upgraded, ['/bin/sleep', '1000'])
  assert.equal((await running()).length, 2)
  await upgraded.sweep()
  assert.ok(isAlive(elder.identity))
  upgraded.input(id, Buffer.from('\n'))
  await soon(() => listener.end?.exitCode === 7, 'it ends as ever')
  await upgraded.sweep()
  assert.ok(!isAlive(elder.identity))
  assert.equal((await running()).length, 1)
  assert.deepEqual(fresh.listener.heard, [])
  assert.deepEqual(listener.heard, ['ended'])
})

test('a connection that breaks is made again, and terminals are told', async t => {
  const { make, open } = await build(t)
  const first = make()
  const { id, listener } = await open(first, ['/bin/sleep', '1000'])
  // One that connects takes the place of the one before.
  const other = make()
  await other.adopt()
  await soon(() => listener.heard.includes('reconnected'), 'it is there again')
  assert.ok((await first.list()).has(id))
  await other.close()
})

test('a terminal of nobody is ended, whether it minds or has ended long ago', async t => {
  const { make, open } = await build(t)
  const hosts = make()
  const stubborn = await open(hosts, ['/bin/sh', '-c', 'trap "" HUP TERM; while :; do sleep 1; done'])
  const ended = await open(hosts, ['/bin/sh', '-c', 'exit 0'])
  await soon(() => ended.listener.heard.includes('ended'), 'one has ended')
  await Promise.all([hosts.discard(stubborn.id), hosts.discard(ended.id), hosts.discard(randomId('trm'))])
  assert.ok(await pollUntil(async () => (await hosts.list()).size === 0, 5000))
})
