import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { findProcess, findProcessesBelow, isAlive, signalProcess } from '../../../src/host/process.ts'
import { pollUntil } from '../../../src/lib/poll.ts'

test('a process is found by its pid, with when it started', () => {
  const found = findProcess(process.pid)
  assert.equal(found?.pid, process.pid)
  assert.match(found?.startTicks ?? '', /^\d+$/)
  assert.ok(found && isAlive(found))
  assert.equal(findProcess(2 ** 22 + 1), undefined, 'no kernel gives such a pid')
})

test('a pid that another process has got is not the one that was meant', async t => {
  const child = spawn('sleep', ['60'])
  t.after(() => child.kill('SIGKILL'))
  await once(child, 'spawn')
  const real = findProcess(child.pid ?? 0)
  assert.ok(real)
  const former = { ...real, startTicks: String(Number(real.startTicks) - 100) }
  assert.equal(isAlive(former), false)
  signalProcess(former, 'SIGKILL')
  assert.ok(isAlive(real), 'the signal went to nobody')
  const exited = once(child, 'exit')
  signalProcess(real, 'SIGKILL')
  assert.deepEqual(await exited, [null, 'SIGKILL'])
  assert.equal(isAlive(real), false)
  signalProcess(real, 'SIGKILL')
})

test('a zombie is not alive', async t => {
  // The shell becomes a sleep that never collects its child.
  const parent = spawn('sh', ['-c', 'true & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.after(() => parent.kill('SIGKILL'))
  const [line] = await once(parent.stdout, 'data') as [Buffer]
  const pid = Number(line.toString())
  assert.ok(pid > 0)
  assert.ok(await pollUntil(async () => findProcess(pid) === undefined, 30_000))
})

test('a name with spaces and brackets does not confuse', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-process-'))
  t.after(() => rm(dir, { recursive: true }))
  const program = join(dir, 'a) R 1 (b')
  await copyFile('/bin/sleep', program)
  const child = spawn(program, ['60'])
  t.after(() => child.kill('SIGKILL'))
  await once(child, 'spawn')
  const found = findProcess(child.pid ?? 0)
  const own = findProcess(process.pid)
  assert.ok(Number(found?.startTicks) >= Number(own?.startTicks), 'it started after this test')
})

test('helpers of sandboxes are found by the directories in their command lines', async t => {
  const runDir = await mkdtemp(join(tmpdir(), 'berth-process-'))
  t.after(() => rm(runDir, { recursive: true }))
  const child = spawn('sh', ['-c', 'read line', 'sh', `${runDir}/sandboxes/sbx_1/pid`])
  const stranger = spawn('sh', ['-c', 'read line', 'sh', `${runDir}-other/sandboxes/sbx_2/pid`])
  t.after(() => { for (const process of [child, stranger]) process.kill('SIGKILL') })
  await Promise.all([once(child, 'spawn'), once(stranger, 'spawn')])
  assert.deepEqual(findProcessesBelow(runDir).map(({ id, identity }) => [id, identity.pid]), [['sbx_1', child.pid]])
})
