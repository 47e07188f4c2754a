/** What happens when what dies; docs/recovery.md says it in prose. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { access, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test } from 'node:test'
import type { Host } from '../../src/schemas/host.ts'
import type { Sandbox, SandboxPage } from '../../src/schemas/sandbox.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { eventually, isRunning, monitorPid, recordPath, runtimePid, simulateReboot } from '../support/host-surgery.ts'
import { findRemains } from '../support/remains.ts'
import { berth, TestDaemon } from '../support/test-daemon.ts'

/** A second daemon on the same directories, which is to fail: its exit code and what it says. */
function tryToServe (daemon: TestDaemon): Promise<{ exitCode: number, stderr: string }> {
  return new Promise(resolve => {
    const args = ['serve', '--state-dir', daemon.stateDir, '--run-dir', daemon.runDir, '--listen', '127.0.0.1:0']
    const child = execFile(berth, args, (_error, _stdout, stderr) => resolve({ exitCode: child.exitCode ?? -1, stderr }))
  })
}

test('fifty running sandboxes are adopted with their monitors, and go on', async t => {
  const daemon = await TestDaemon.start(t)
  const ids = (await Promise.all(Array.from({ length: 50 }, () => daemon.create()))).map(({ id }) => id)
  const monitors = await Promise.all(ids.map(id => monitorPid(daemon, id)))
  await daemon.restart('SIGKILL')
  const { body } = await daemon.request<SandboxPage>('GET', '/v1/sandboxes?limit=1000&status=running')
  assert.deepEqual(body.items.map(({ id }) => id).sort(), [...ids].sort())
  assert.ok(monitors.every(isRunning))
  for (const id of ids.slice(0, 5)) assert.equal((await daemon.exec(id, ['echo', 'on'])).stdout, 'on\n')
  const log = await readFile(daemon.logPath, 'utf8')
  const reconciled = log.split('\n').filter(line => line.includes('the host is reconciled')).map(line => JSON.parse(line) as { adoptedMs: number, sandboxes: object }).at(-1)
  t.diagnostic(`${ids.length} sandboxes were adopted in ${reconciled?.adoptedMs} ms`)
})

const reboots = [
  { what: 'everything but the disk is gone', areMountsKept: false, isRunDirKept: false },
  { what: 'somebody emptied the run directory', areMountsKept: true, isRunDirKept: false },
  { what: 'the run directory is on the disk', areMountsKept: false, isRunDirKept: true },
]

for (const { what, ...kept } of reboots) {
  test(`after a reboot sandboxes say host_restarted, nothing is left, and they start again on their files (${what})`, async t => {
    const daemon = await TestDaemon.start(t)
    const running = await daemon.create()
    const paused = await daemon.create({ resources: { diskBytes: 64 * 1024 ** 2 } })
    const ended = await daemon.create({ entrypoint: ['sh', '-c', 'exit 3'] })
    const created = await daemon.create({ start: false })
    await daemon.wait(ended.id)
    for (const { id } of [running, paused]) await daemon.exec(id, ['sh', '-c', 'echo kept > /workspace/f; sync'])
    const detached = await daemon.request<{ id: string }>('POST', `/v1/sandboxes/${running.id}/execs`, { argv: ['sleep', '1000'], detach: true })
    await daemon.request('POST', `/v1/sandboxes/${paused.id}/pause`)
    await daemon.end('SIGKILL')
    await simulateReboot(daemon, kept)
    await daemon.start()
    for (const { id } of [running, paused, created]) {
      const { status, end } = await daemon.sandbox(id)
      assert.deepEqual([status, end?.reason], ['stopped', 'host_restarted'], id)
    }
    assert.equal((await daemon.sandbox(ended.id)).end?.exitCode, 3)
    const exec = await daemon.request<{ status: string }>('GET', `/v1/sandboxes/${running.id}/execs/${detached.body.id}?wait=true&timeoutMs=60000`)
    assert.equal(exec.body.status, 'lost', exec.text)
    assert.deepEqual((await findRemains(daemon)).filter(line => !line.startsWith('file ')), [])
    for (const { id } of [running, paused]) {
      const started = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)
      assert.equal(started.body.status, 'running', started.text)
      assert.equal((await daemon.exec(id, ['cat', '/workspace/f'])).stdout, 'kept\n')
    }
  })
}

test('a sandbox that ended while no daemon was there has its real exit code and its whole log', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'sleep 3; echo last; exit 9'] })
  await daemon.end('SIGKILL')
  await eventually(() => access(join(daemon.stateDir, 'sandboxes', id, 'exit', id)).then(() => true, () => false), 'the sandbox has ended')
  await daemon.start()
  const { status, end } = await daemon.sandbox(id)
  assert.deepEqual([status, end?.reason, end?.exitCode], ['stopped', 'exited', 9])
  assert.equal((await daemon.request('GET', `/v1/sandboxes/${id}/logs`)).text, 'last\n')
  assert.deepEqual((await findRemains(daemon)).filter(line => !line.startsWith('file ')), [])
})

test('a deadline that passed while no daemon was there is enforced by the next', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, deadlineAt = '' } = await daemon.create({ timeoutMs: 4000 })
  await daemon.end('SIGKILL')
  await eventually(() => Date.now() > Date.parse(deadlineAt), 'the deadline has passed')
  await daemon.start()
  assert.equal((await daemon.wait(id)).end?.reason, 'timed_out')
})

test('a deletion that had begun is finished, and so is a stop', async t => {
  const daemon = await TestDaemon.start(t)
  const [deleting, stopping] = await Promise.all([daemon.create(), daemon.create()])
  await daemon.end('SIGKILL')
  const patch = async (id: string, fields: object) => {
    const record = JSON.parse(await readFile(recordPath(daemon, id), 'utf8')) as object
    await writeFile(recordPath(daemon, id), JSON.stringify({ ...record, ...fields }))
  }
  await patch(deleting.id, { isDeleting: true })
  await patch(stopping.id, { status: 'stopping', stopReason: 'idle' })
  await daemon.start()
  assert.ok((await daemon.sandbox(deleting.id)).deletedAt)
  assert.equal((await daemon.wait(stopping.id)).end?.reason, 'idle')
  assert.deepEqual((await findRemains({ ...pick(daemon), except: [stopping.id] })), [])
})

test('what is asked for again with its key, because the daemon died before it could answer, is there once', async t => {
  const daemon = await TestDaemon.start(t)
  const ask = async (path: string, body: object) => {
    const answer = await daemon.request<{ id: string }>('POST', path, body, { 'idempotency-key': path.slice(-5) })
    assert.equal(answer.status, 201, answer.text)
    return answer.body.id
  }
  const id = await ask('/v1/sandboxes', { image: 'berth/base' })
  const execId = await ask(`/v1/sandboxes/${id}/execs`, { argv: ['sleep', '1000'], detach: true })
  await daemon.end('SIGKILL')
  // A daemon that dies before it answers has not kept its answer.
  const db = new DatabaseSync(join(daemon.stateDir, 'berth.db'))
  assert.equal(db.prepare('DELETE FROM idempotency_keys').run().changes, 2)
  db.close()
  await daemon.start()
  assert.equal(await ask('/v1/sandboxes', { image: 'berth/base' }), id)
  assert.equal(await ask(`/v1/sandboxes/${id}/execs`, { argv: ['sleep', '1000'], detach: true }), execId)
})

test('a second daemon on the same directories is refused, and disturbs nothing', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  const { exitCode, stderr } = await tryToServe(daemon)
  assert.equal(exitCode, 125)
  assert.match(stderr, new RegExp(`another daemon \\(pid ${daemon.pid}\\) holds the state directory`))
  assert.equal((await daemon.exec(id, ['echo', 'undisturbed'])).stdout, 'undisturbed\n')
})

test('daemons with different directories do not touch one another', async t => {
  const [one, other] = await Promise.all([TestDaemon.start(t), TestDaemon.start(t)])
  const [{ id }, { id: reclaimed }] = await Promise.all([one.create(), other.create()])
  await one.restart('SIGKILL')
  assert.equal((await other.sandbox(reclaimed)).status, 'running')
  await other.end('SIGKILL')
  assert.equal(await other.reclaim(), 0)
  assert.deepEqual(await other.leftovers(), [])
  assert.equal((await one.exec(id, ['echo', 'untouched'])).stdout, 'untouched\n')
  const { body } = await one.request<Host>('GET', '/v1/host')
  assert.equal(body.usage.sandboxes['running'], 1)
})

test('SIGTERM ends the daemon cleanly whatever hangs on it, and leaves sandboxes running', async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_SHUTDOWN_GRACE_MS: '1000' } })
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'while :; do echo tick; sleep 0.2; done'] })
  const waited = daemon.request<ErrorBody>('GET', `/v1/sandboxes/${id}/wait`)
  const settled = Promise.allSettled([
    daemon.request('GET', `/v1/sandboxes/${id}/logs?follow=true&format=sse`),
    daemon.request('POST', `/v1/sandboxes/${id}/execs?wait=true`, { argv: ['sleep', '1000'] }),
    daemon.request('GET', '/v1/events?follow=true&format=sse'),
  ])
  // The exec has begun when its directory is there: then the others, which were sent before, hang too.
  await eventually(() => access(join(daemon.runDir, 'sandboxes', id, 'execs')).then(() => true, () => false), 'the exec has begun')
  assert.equal(await daemon.end('SIGTERM'), 0, await readFile(daemon.logPath, 'utf8'))
  await settled
  assert.deepEqual(await waited.then(({ status, body }) => [status, body.code]), [503, 'host_stopping'])
  assert.ok(isRunning(await monitorPid(daemon, id)))
  await daemon.start()
  assert.equal((await daemon.sandbox(id)).status, 'running')
})

test('with --stop-sandboxes SIGTERM ends the sandboxes first, as drained', async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_STOP_SANDBOXES: 'true' } })
  const [idle, busy, paused] = await Promise.all([daemon.create(), daemon.create({ entrypoint: ['sleep', '1000'] }), daemon.create()])
  await daemon.request('POST', `/v1/sandboxes/${paused.id}/pause`)
  assert.equal(await daemon.end('SIGTERM'), 0)
  assert.deepEqual((await daemon.leftovers()).filter(line => !line.includes(' --state-dir ')), [])
  await daemon.start()
  for (const { id } of [idle, busy, paused]) {
    const { status, end } = await daemon.sandbox(id)
    assert.deepEqual([status, end?.reason], ['stopped', 'drained'])
  }
})

test('a sandbox whose monitor is killed ends as lost, and nothing of it is left', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  process.kill(await monitorPid(daemon, id), 'SIGKILL')
  const { status, end } = await daemon.wait(id)
  assert.deepEqual([status, end?.reason], ['failed', 'lost'])
  await eventually(async () => (await findRemains(daemon)).every(line => line.startsWith('file ')), 'everything is given back')
  assert.equal((await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)).body.status, 'running', 'its files are kept')
})

test('a sandbox whose kernel is killed ends with a reason, and nothing of it is left', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ entrypoint: ['sleep', '1000'] })
  process.kill(await runtimePid(daemon, id), 'SIGKILL')
  const { status, end } = await daemon.wait(id)
  assert.ok(status === 'stopped' || status === 'failed')
  assert.ok(end && ['signaled', 'runtime_crashed'].includes(end.reason), JSON.stringify(end))
  await eventually(async () => (await findRemains(daemon)).every(line => line.startsWith('file ')), 'everything is given back')
})

test('a record that cannot be read costs its own sandbox, and no other', async t => {
  const daemon = await TestDaemon.start(t)
  const healthy = await daemon.create()
  const damages = [{ text: '' }, { text: 'not JSON' }, { text: undefined }, { text: '{"version":1}' }, { text: 'null' }]
  const damaged = await Promise.all(damages.map(() => daemon.create()))
  await daemon.end('SIGKILL')
  for (const [index, { text }] of damages.entries()) {
    const path = recordPath(daemon, damaged[index]?.id ?? '')
    const whole = await readFile(path, 'utf8')
    await writeFile(path, text ?? whole.slice(0, whole.length / 2))
  }
  await daemon.start()
  assert.equal((await daemon.exec(healthy.id, ['echo', 'adopted'])).stdout, 'adopted\n')
  for (const { id } of damaged) assert.equal((await daemon.request('GET', `/v1/sandboxes/${id}`)).status, 404)
  assert.deepEqual(await findRemains({ ...pick(daemon), except: [healthy.id] }), [])
})

test('a damaged events database is begun anew; a damaged state database stops the daemon with a message that says what to do', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  await daemon.end('SIGTERM')
  await writeFile(join(daemon.stateDir, 'events.db'), 'garbage '.repeat(1000))
  await daemon.start()
  assert.equal((await daemon.sandbox(id)).status, 'running')
  assert.equal((await daemon.request('GET', '/v1/events')).status, 200)
  await daemon.end('SIGTERM')
  const path = join(daemon.stateDir, 'berth.db')
  const whole = await readFile(path)
  await writeFile(path, 'garbage '.repeat(1000))
  const { exitCode, stderr } = await tryToServe(daemon)
  assert.equal(exitCode, 125)
  assert.match(stderr, /a database in the state directory is damaged; restore it from a backup, or move it away/)
  assert.ok(isRunning(await monitorPid(daemon, id)), 'the sandbox goes on meanwhile')
  await writeFile(path, whole)
  await daemon.start()
  assert.equal((await daemon.sandbox(id)).status, 'running')
})

function pick ({ dir, stateDir, runDir, hostId }: TestDaemon) {
  return { dir, stateDir, runDir, hostId }
}
