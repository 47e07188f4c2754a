/** What a sandbox may use, held by the real kernel: processes, memory, CPU, disk, log, time. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { parseCgroupLayout } from '../../src/host/cgroup.ts'
import { runtimeProfiles } from '../../src/host/oci-runtime.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import type { LogRecord } from '../../src/schemas/log.ts'
import type { Exec } from '../../src/schemas/exec.ts'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const MiB = 1024 ** 2
const deadlineMs = 120_000

/** awk goes on where a shell gives up, so that every process there may be is taken, and taken again. */
const forkBomb = [
  { what: 'a fork bomb', argv: ['sh', '-c', 'bomb() { bomb | bomb & }; bomb; while :; do bomb; done'] },
  { what: 'a program that forks for ever', argv: ['awk', 'BEGIN { while (1) system("sleep 600 &") }'] },
]

for (const runtime of ['runsc', 'runc']) {
  for (const { what, argv } of forkBomb) {
    test(`${runtime}: ${what} is held to its processes, and harms nobody else`, async t => {
      const daemon = await TestDaemon.start(t)
      const pids = 32
      const neighbour = await daemon.create({ runtime })
      const { id } = await daemon.create({ runtime, resources: { pids, cpuMillis: 500, memoryBytes: 256 * MiB } })
      const bomb = await daemon.request<Exec>('POST', `/v1/sandboxes/${id}/execs`, { argv, detach: true, timeoutMs: 300_000 })
      assert.equal(bomb.status, 201, bomb.text)
      const log = () => daemon.request('GET', `/v1/sandboxes/${id}/execs/${bomb.body.id}/logs?tail=50`)
      assert.ok(await pollUntil(async () => (await log()).text.includes('can\'t fork'), deadlineMs), 'it meets its limit')
      assert.equal((await daemon.exec(neighbour.id, ['echo', 'fine'])).stdout, 'fine\n')
      assert.equal((await daemon.sandbox(id)).status, 'running', 'the limit ends processes, not the sandbox')
      // Root inside is not counted with the user of the bomb.
      const { stdout } = await daemon.exec(id, ['sh', '-c', 'set -- /proc/[0-9]*; echo $#'], { user: '0' })
      assert.ok(Number(stdout) <= pids + 3, `${stdout.trim()} processes are inside`)
      const stopped = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 1000 })
      assert.equal(stopped.body.end?.reason, 'requested', stopped.text)
      await daemon.remove(id)
      assert.deepEqual((await daemon.leftovers()).filter(line => line.includes(id)), [])
    })
  }

  test(`${runtime}: a program that takes all memory ends as out_of_memory, with its peak`, async t => {
    const daemon = await TestDaemon.start(t)
    const memoryBytes = 96 * MiB
    const neighbour = await daemon.create({ runtime })
    const { id } = await daemon.create({ runtime, resources: { memoryBytes }, entrypoint: ['tail', '/dev/zero'] })
    const { end, status } = await daemon.wait(id, deadlineMs)
    assert.equal(end?.reason, 'out_of_memory', JSON.stringify(end))
    assert.equal(status, 'stopped')
    const limit = memoryBytes + (runtimeProfiles[runtime]?.overhead.memoryBytes ?? 0)
    const peak = end.peakMemoryBytes ?? 0
    assert.ok(peak > 0.8 * memoryBytes && peak <= 1.02 * limit, `a peak of ${peak} with a limit of ${limit}`)
    assert.equal((await daemon.exec(neighbour.id, ['echo', 'fine'])).stdout, 'fine\n')
  })
}

test('runsc: an exec that takes all memory takes its sandbox with it, and each exec in it is told', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ resources: { memoryBytes: 96 * MiB } })
  const detached = await daemon.request<Exec>('POST', `/v1/sandboxes/${id}/execs`, { argv: ['sleep', '600'], detach: true })
  const hog = await daemon.request<ErrorBody>('POST', `/v1/sandboxes/${id}/execs?wait=true`, { argv: ['tail', '/dev/zero'] })
  assert.equal(hog.status, 409, hog.text)
  assert.equal(hog.body.code, 'sandbox_ended')
  assert.equal((await daemon.wait(id)).end?.reason, 'out_of_memory')
  const exec = () => daemon.request<Exec>('GET', `/v1/sandboxes/${id}/execs/${detached.body.id}`)
  assert.ok(await pollUntil(async () => (await exec()).body.status !== 'running', deadlineMs))
  assert.notEqual((await exec()).body.exitCode, 128, 'the client\'s own code is not the process\'s')
  const again = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)
  assert.equal(again.body.status, 'running', again.text)
})

test('runc: an exec that takes all memory ends alone', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ runtime: 'runc', resources: { memoryBytes: 96 * MiB } })
  const hog = await daemon.exec(id, ['tail', '/dev/zero'])
  assert.deepEqual([hog.exitCode, hog.signal], [137, 'SIGKILL'])
  assert.equal((await daemon.exec(id, ['echo', 'fine'])).stdout, 'fine\n')
  assert.equal((await daemon.sandbox(id)).status, 'running')
})

test('a program that takes all CPU gets its share of it', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ resources: { cpuMillis: 300 }, entrypoint: ['sh', '-c', 'while :; do :; done'] })
  const shares: number[] = []
  // A busy host may give less in one window; it never gives more.
  const isServed = await pollUntil(async () => {
    shares.push(await cpuShare(daemon.hostId, id))
    return (shares.at(-1) ?? 0) >= 0.15
  }, deadlineMs)
  assert.ok(isServed, `shares of ${shares.join(', ')}`)
  assert.ok(Math.max(...shares) <= 0.45, `shares of ${shares.join(', ')}`)
})

test('a full disk is an error inside; files survive a stop, and the disk is given back', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ resources: { diskBytes: 32 * MiB } })
  assert.notEqual(loopDevices(daemon.stateDir), '', 'the disk is a loop device')
  const full = await daemon.exec(id, ['dd', 'if=/dev/zero', 'of=/workspace/big', 'bs=1M', 'count=64'])
  assert.match(full.stderr, /No space left on device/)
  assert.notEqual(full.exitCode, 0)
  await daemon.exec(id, ['sh', '-c', 'rm /workspace/big; echo kept > /workspace/small'])
  await daemon.request('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 1000 })
  await daemon.request('POST', `/v1/sandboxes/${id}/start`)
  assert.equal((await daemon.exec(id, ['cat', '/workspace/small'])).stdout, 'kept\n')
  await daemon.remove(id)
  assert.ok(await pollUntil(async () => loopDevices(daemon.stateDir) === '', deadlineMs), 'the loop device is free')
})

test('a flood of output is bounded by rotation, and who follows it reads each line or is told of the gap', async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_MAX_LOG_BYTES: String(MiB), BERTH_LOG_KEEP_BYTES: String(4 * MiB) } })
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'for k in 1 2 3 4 5 6 7 8; do seq $((k*100000)) $((k*100000+19999)); sleep 1; done'] })
  const followed = daemon.request('GET', `/v1/sandboxes/${id}/logs?follow=true&format=ndjson`)
  await daemon.wait(id, deadlineMs)
  const files = (await readdir(join(daemon.stateDir, 'sandboxes', id))).filter(name => /^log(\.\d+)?$/.test(name))
  assert.ok(files.length >= 2 && files.length <= 4, `the log and at most three before it: ${files.join(', ')}`)
  const records = (await followed).text.split('\n').filter(Boolean).map(line => JSON.parse(line) as LogRecord)
  assert.deepEqual(records.pop(), { type: 'end', reason: 'exited', exitCode: 0 })
  const { gaps, last } = countThrough(records, 100_000)
  assert.equal(last, 819_999, `the follower comes to the end, over ${gaps} gaps`)
})

test('a sandbox ends when its time is over', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ timeoutMs: 2000 })
  const { status, end } = await daemon.wait(id, deadlineMs)
  assert.deepEqual([status, end?.reason], ['stopped', 'timed_out'])
})

test('a sandbox in which nothing is done ends as idle, but not while an exec runs', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, idleDeadlineAt } = await daemon.create({ idleTimeoutMs: 3000 })
  assert.ok(idleDeadlineAt)
  // Longer than the time allowed for doing nothing.
  assert.equal((await daemon.exec(id, ['sleep', '5'])).exitCode, 0)
  const after = await daemon.sandbox(id)
  assert.equal(after.status, 'running')
  assert.ok(Date.parse(after.idleDeadlineAt ?? '') > Date.parse(idleDeadlineAt), 'an exec renews it')
  assert.equal((await daemon.wait(id, deadlineMs)).end?.reason, 'idle')
})

test('paused time does not count', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, deadlineAt } = await daemon.create({ timeoutMs: 600_000 })
  const paused = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/pause`)
  assert.equal(paused.body.deadlineAt, undefined, 'there is no deadline while it is paused')
  const pausedMs = 1500
  await delay(pausedMs)
  const resumed = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/resume`)
  const movedMs = Date.parse(resumed.body.deadlineAt ?? '') - Date.parse(deadlineAt ?? '')
  assert.ok(movedMs >= pausedMs - 10, `the deadline moved by ${movedMs} ms`)
})

test('a deadline is extended, never shortened', async t => {
  const daemon = await TestDaemon.start(t)
  const { id, deadlineAt } = await daemon.create({ timeoutMs: 600_000 })
  const patch = async (timeoutMs: number) => (await daemon.request<Sandbox>('PATCH', `/v1/sandboxes/${id}`, { timeoutMs })).body.deadlineAt
  assert.equal(await patch(1000), deadlineAt)
  const later = await patch(1_200_000)
  assert.ok(Date.parse(later ?? '') > Date.parse(deadlineAt ?? ''))
  assert.equal((await daemon.sandbox(id)).deadlineAt, later)
})

for (const runtime of ['runsc', 'runc']) {
  test(`${runtime}: a stop lets a program end in its own way`, async t => {
    const daemon = await TestDaemon.start(t)
    const { id } = await daemon.create({ runtime, entrypoint: ['sh', '-c', 'trap "echo bye; exit 4" TERM; echo ready; while :; do sleep 0.1; done'] })
    await waitForOutput(daemon, id, 'ready')
    const { body } = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 60_000 })
    assert.deepEqual([body.status, body.end?.reason, body.end?.exitCode], ['stopped', 'requested', 4])
    await waitForOutput(daemon, id, 'bye')
  })
}

test('a program that does not end within the grace is killed', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'trap "echo no" TERM; echo ready; while :; do sleep 0.1; done'] })
  await waitForOutput(daemon, id, 'ready')
  const { body } = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 1000 })
  assert.deepEqual([body.end?.reason, body.end?.exitCode, body.end?.signal], ['requested', 137, 'SIGKILL'])
  await waitForOutput(daemon, id, 'no')
})

test('force ends a sandbox at once, and hurries a stop that is under way', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create({ entrypoint: ['sh', '-c', 'trap "echo no" TERM; echo ready; while :; do sleep 0.1; done'] })
  await waitForOutput(daemon, id, 'ready')
  const patient = daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 600_000 })
  await waitForOutput(daemon, id, 'no')
  assert.equal((await daemon.sandbox(id)).status, 'stopping')
  const forced = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { force: true })
  assert.equal(forced.body.status, 'stopped', forced.text)
  assert.equal((await patient).body.end?.exitCode, 137)
})

async function waitForOutput (daemon: TestDaemon, id: string, text: string): Promise<void> {
  assert.ok(await pollUntil(async () => (await daemon.request('GET', `/v1/sandboxes/${id}/logs`)).text.includes(text), deadlineMs), `the sandbox says ${text}`)
}

/** Asserts that the numbers in a log follow each other, but for announced gaps, as `seq` of the flood writes them. */
function countThrough (records: readonly LogRecord[], first: number): { gaps: number, last: number } {
  let [expected, last, gaps, part]: [number | undefined, number, number, string] = [first, 0, 0, '']
  for (const record of records) {
    if (record.type === 'gap') {
      gaps++
      expected = undefined
      part = ''
    } else if (record.partial) {
      part += record.text
    } else {
      const text = part + record.text
      part = ''
      if (expected !== undefined) assert.equal(text, String(expected))
      last = Number(text)
      // What follows a gap may be the rest of a line.
      if (expected !== undefined || text.length === 6) expected = last % 100_000 === 19_999 ? last + 80_001 : last + 1
    }
  }
  return { gaps, last }
}

/** CPU time per time over a window of three seconds, by the kernel's own account. */
async function cpuShare (hostId: string, id: string): Promise<number> {
  const [beforeMs, startedMs] = [await cpuMs(hostId, id), performance.now()]
  await delay(3000)
  return (await cpuMs(hostId, id) - beforeMs) / (performance.now() - startedMs)
}

async function cpuMs (hostId: string, id: string): Promise<number> {
  const layout = parseCgroupLayout(await readFile('/proc/self/mountinfo', 'utf8'))
  const dir = (controller: 'cpuacct' | 'memory') => join(layout?.mounts.get(controller) ?? '', 'berth', hostId, id)
  if (layout?.version === 1) return Number(await readFile(join(dir('cpuacct'), 'cpuacct.usage'), 'latin1')) / 1e6
  return Number(/^usage_usec (\d+)$/m.exec(await readFile(join(dir('memory'), 'cpu.stat'), 'latin1'))?.[1]) / 1e3
}

function loopDevices (stateDir: string): string {
  return execFileSync('losetup', ['-a'], { encoding: 'utf8' }).split('\n').filter(line => line.includes(stateDir)).join('\n')
}
