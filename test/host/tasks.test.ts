/** Tasks on the real runtime, through REST alone. */
import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import type { EventPage } from '../../src/schemas/event.ts'
import type { SandboxPage } from '../../src/schemas/sandbox.ts'
import type { QueueStatus, Task, TaskBatchResult, TaskCreate, TaskPage } from '../../src/schemas/task.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const small = { resources: { cpuMillis: 500, memoryBytes: 64 * 1024 ** 2 } }

async function push (daemon: TestDaemon, input: Partial<TaskCreate>, headers: Record<string, string> = {}): Promise<Task> {
  const answer = await daemon.request<Task>('POST', '/v1/tasks', { image: 'berth/base', ...small, ...input }, headers)
  assert.equal(answer.status, 201, answer.text)
  return answer.body
}

async function ended (daemon: TestDaemon, id: string): Promise<Task> {
  const answer = await daemon.request<Task>('GET', `/v1/tasks/${id}/wait?timeoutMs=60000`)
  assert.equal(answer.status, 200, answer.text)
  return answer.body
}

async function until (daemon: TestDaemon, id: string, status: string): Promise<Task> {
  for (;;) {
    const { body } = await daemon.request<Task>('GET', `/v1/tasks/${id}`)
    if (body.status === status) return body
    await delay(50)
  }
}

const sh = (script: string) => ({ entrypoint: ['sh', '-c', script] })

test('tasks', async t => {
  const daemon = await TestDaemon.start(t, { env: { BERTH_TASK_LABEL_LIMITS: 'alone:1', BERTH_TASK_CPU_OVERCOMMIT: '8' } })

  await t.test('a task runs in a sandbox of its own, reports its exit code, keeps its log, and leaves no sandbox', async () => {
    const { id, status } = await push(daemon, { ...sh('echo out; echo err >&2; printf "\\377\\r\\n"; exit 3'), labels: { team: 'blue' } })
    assert.equal(status, 'pending')
    const task = await ended(daemon, id)
    assert.equal(task.status, 'failed')
    assert.deepEqual({ reason: task.end?.reason, exitCode: task.end?.exitCode }, { reason: 'exited', exitCode: 3 })
    assert.equal(task.attempts.length, 1)
    assert.ok(task.attempts[0]?.timings?.some(({ step }) => step === 'container'))
    const { body: page } = await daemon.request<SandboxPage>('GET', '/v1/sandboxes?label=team=blue')
    for (const { id: sandboxId } of page.items) await daemon.request('GET', `/v1/sandboxes/${sandboxId}/wait`)
    const log = await fetch(`${daemon.url}/v1/tasks/${id}/logs?stream=stdout`, { headers: { authorization: `Bearer ${daemon.token}` } })
    assert.deepEqual(Buffer.from(await log.arrayBuffer()), Buffer.from('out\n\xff\r\n', 'latin1'))
    const { text } = await daemon.request('GET', `/v1/tasks/${id}/logs?stream=stderr&format=ndjson&follow=true`)
    const [line, end] = text.trim().split('\n').map(record => JSON.parse(record))
    assert.equal(line.text, 'err')
    assert.deepEqual(end, { type: 'end', reason: 'exited', exitCode: 3 })
  })

  await t.test('a batch is queued whole or not at all, and each of its tasks is found by its labels', async () => {
    const tasks = Array.from({ length: 5 }, (_value, index) => ({ image: 'berth/base', ...small, ...sh(`exit ${index}`), labels: { batch: 'one', n: String(index) } }))
    const bad = await daemon.request('POST', '/v1/tasks', { tasks: [...tasks, { image: 'berth/base', resources: { memoryBytes: 128 * 1024 ** 3 } }] })
    assert.equal(bad.status, 400)
    assert.match(bad.text, /tasks\[5\]/)
    const { body } = await daemon.request<TaskBatchResult>('POST', '/v1/tasks', { tasks }, { 'idempotency-key': 'batch-one' })
    const again = await daemon.request<TaskBatchResult>('POST', '/v1/tasks', { tasks }, { 'idempotency-key': 'batch-one' })
    assert.deepEqual(again.body.items.map(({ id }) => id), body.items.map(({ id }) => id))
    const done = await Promise.all(body.items.map(({ id }) => ended(daemon, id)))
    assert.deepEqual(done.map(task => task.end?.exitCode), [0, 1, 2, 3, 4])
    assert.deepEqual(done.map(task => task.status), ['complete', 'failed', 'failed', 'failed', 'failed'])
    const { body: page } = await daemon.request<TaskPage>('GET', '/v1/tasks?label=batch=one&status=failed')
    assert.equal(page.items.length, 4)
  })

  await t.test('a daemon that dies loses nothing: what runs is adopted, what ended meanwhile has its real exit code, what waits is run', async () => {
    const runs = await push(daemon, sh('i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 7'))
    const ends = await push(daemon, sh('echo short; sleep 0.6; exit 9'))
    await Promise.all([until(daemon, runs.id, 'running'), until(daemon, ends.id, 'running')])
    const waits = await push(daemon, { ...sh('echo later'), delayMs: 1500 })
    await daemon.end('SIGKILL')
    await delay(1000)
    await daemon.start()
    const [ran, hadEnded, waited] = await Promise.all([runs, ends, waits].map(({ id }) => ended(daemon, id)))
    assert.deepEqual([ran?.end?.exitCode, hadEnded?.end?.exitCode, waited?.end?.exitCode], [7, 9, 0])
    for (const task of [ran, hadEnded, waited]) assert.equal(task?.attempts.length, 1)
    const { text } = await daemon.request('GET', `/v1/tasks/${runs.id}/logs`)
    assert.equal(text, Array.from({ length: 30 }, (_value, index) => `line ${index}\n`).join(''))
  })

  await t.test('attempts: a task that fails is tried again, its log has them all, and each can be read alone', async () => {
    const { id } = await push(daemon, { ...sh('echo try; exit 1'), maxAttempts: 2, retry: { backoffMs: 50 } })
    const task = await ended(daemon, id)
    assert.deepEqual({ status: task.status, attempts: task.attempts.map(({ number, status }) => `${number} ${status}`), isDeadLetter: task.isDeadLetter },
      { status: 'failed', attempts: ['1 failed', '2 failed'], isDeadLetter: true })
    assert.equal((await daemon.request('GET', `/v1/tasks/${id}/logs`)).text, 'try\ntry\n')
    assert.equal((await daemon.request('GET', `/v1/tasks/${id}/logs?attempt=1`)).text, 'try\n')
    assert.equal((await daemon.request('GET', `/v1/tasks/${id}/logs?attempt=2`)).text, 'try\n')
    assert.equal((await daemon.request('GET', `/v1/tasks/${id}/logs?attempt=3`)).status, 404)
    const { body: dead } = await daemon.request<TaskPage>('GET', '/v1/tasks?deadLetter=true')
    assert.ok(dead.items.some(item => item.id === id))
    const retried = await daemon.request<Task>('POST', `/v1/tasks/${id}/retry`)
    assert.equal(retried.body.status, 'pending')
    assert.equal((await ended(daemon, id)).attempts.length, 4)
  })

  await t.test('cancelling: at once where it waits, with its end where it runs, and never twice', async () => {
    const first = await push(daemon, { ...sh('sleep 60'), labels: { alone: 'x' } })
    const second = await push(daemon, { ...sh('sleep 60'), labels: { alone: 'x' } })
    await until(daemon, first.id, 'running')
    const { body: waiting } = await daemon.request<Task>('GET', `/v1/tasks/${second.id}`)
    assert.equal(waiting.status, 'pending', 'the limit of the label holds it back')
    const { body: cancelled } = await daemon.request<Task>('POST', `/v1/tasks/${second.id}/cancel`)
    assert.equal(cancelled.status, 'cancelled')
    await daemon.request('POST', `/v1/tasks/${first.id}/cancel`)
    const task = await ended(daemon, first.id)
    assert.deepEqual({ status: task.status, reason: task.end?.reason }, { status: 'cancelled', reason: 'cancelled' })
    assert.equal((await daemon.request('POST', `/v1/tasks/${first.id}/cancel`)).status, 200)
  })

  await t.test('a time limit, a missing program, an unknown image: each ends with its reason', async () => {
    const [late, missing, unknown] = await Promise.all([
      push(daemon, { ...sh('sleep 60'), timeoutMs: 300 }),
      push(daemon, { entrypoint: ['/no/such/program'] }),
      push(daemon, { image: 'dir:/no/such/directory', maxAttempts: 5 }),
    ])
    assert.deepEqual((await ended(daemon, late.id)).end?.reason, 'timed_out')
    assert.equal((await ended(daemon, missing.id)).end?.exitCode, 127)
    const neverRan = await ended(daemon, unknown.id)
    assert.deepEqual({ status: neverRan.status, reason: neverRan.end?.reason, isDeadLetter: neverRan.isDeadLetter }, { status: 'failed', reason: 'setup_failed', isDeadLetter: true })
  })

  await t.test('bad input is refused with what is wrong', async () => {
    for (const [input, message] of [
      [{ image: 'berth/base', requests: { memoryBytes: 4 * 1024 ** 3 } }, /above the limit/],
      [{ image: 'berth/base', resources: { memoryBytes: 128 * 1024 ** 3 } }, /this host has/],
      [{ image: 'berth/base', runtime: 'kata' }, /runsc/],
      [{ image: 'berth/base', outputs: [{ type: 's2' }] }, /S2|s2/],
      [{ image: 'berth/base', colour: 'red' }, /colour/],
      [{ image: 'berth/base', outputs: [{ type: 'file', url: 'http://127.0.0.1/' }] }, /url/],
      [{ image: 'NOT AN IMAGE' }, /image/],
    ] as const) {
      const answer = await daemon.request('POST', '/v1/tasks', input)
      assert.equal(answer.status, 400, `${JSON.stringify(input)}: ${answer.text}`)
      assert.match(answer.text, message)
    }
    assert.equal((await daemon.request('GET', '/v1/tasks/tsk_00000000000000000000')).status, 404)
  })

  await t.test('an output of the type file has the bytes; the task says how far it is', async () => {
    const { id } = await push(daemon, { ...sh('echo one; echo two >&2; printf three'), outputs: [{ type: 'file' }, { type: 'console' }] })
    await ended(daemon, id)
    for (;;) {
      const { body } = await daemon.request<Task>('GET', `/v1/tasks/${id}`)
      if (body.outputStates?.every(({ status }) => status === 'complete')) break
      await delay(50)
    }
    const text = await readFile(join(daemon.stateDir, 'outputs', `${id}.log`), 'utf8')
    assert.deepEqual(text.split('\n').sort(), ['one', 'three', 'two'])
    assert.match(await readFile(daemon.logPath, 'utf8'), new RegExp(`"taskId":"${id}".*"one"`))
  })

  await t.test('the sandbox of a task that is deleted by hand, or stopped, ends it as failed', async () => {
    const [deleted, stopped] = await Promise.all([push(daemon, { ...sh('sleep 60'), maxAttempts: 3 }), push(daemon, { ...sh('sleep 60'), maxAttempts: 3 })])
    const { sandboxId } = await until(daemon, deleted.id, 'running')
    const { sandboxId: stoppedSandbox } = await until(daemon, stopped.id, 'running')
    await daemon.remove(sandboxId ?? '')
    await daemon.request('POST', `/v1/sandboxes/${stoppedSandbox}/stop`, { force: true })
    assert.equal((await ended(daemon, deleted.id)).end?.reason, 'sandbox_deleted')
    assert.deepEqual((await ended(daemon, stopped.id)).end?.reason, 'requested')
  })

  await t.test('deleting: refused while it runs; afterwards nothing of it is left, nor of what an interrupted deletion left', async () => {
    const { id } = await push(daemon, sh('echo x; sleep 0.5'))
    await until(daemon, id, 'running')
    assert.equal((await daemon.request('DELETE', `/v1/tasks/${id}`)).status, 409)
    await ended(daemon, id)
    assert.equal((await daemon.request('DELETE', `/v1/tasks/${id}`)).status, 204)
    assert.equal((await daemon.request('GET', `/v1/tasks/${id}`)).status, 404)
    assert.ok(!(await readdir(join(daemon.stateDir, 'tasks'))).includes(id))
    const stray = join(daemon.stateDir, 'tasks', 'tsk_aaaaaaaaaaaaaaaaaaaa')
    await mkdir(stray)
    await writeFile(join(stray, 'log'), 'x')
    await daemon.restart()
    assert.ok(!(await readdir(join(daemon.stateDir, 'tasks'))).includes('tsk_aaaaaaaaaaaaaaaaaaaa'))
  })

  await t.test('events tell each change once, in order', async () => {
    const { id } = await push(daemon, { ...sh('exit 1'), maxAttempts: 2, retry: { backoffMs: 10 } })
    await ended(daemon, id)
    let changes: string[] = []
    for (let round = 0; round < 100 && changes.at(-1) !== 'running→failed'; round++) {
      const { body } = await daemon.request<EventPage>('GET', `/v1/events?taskId=${id}&limit=1000`)
      changes = body.items.map(({ type, data }) => type === 'task.status' ? `${data['from']}→${data['to']}` : type)
      if (changes.filter(change => change === 'scheduled→running').length < 2) changes = []
      await delay(20)
    }
    assert.deepEqual(changes, ['task.created', 'pending→scheduled', 'scheduled→running', 'running→pending', 'pending→scheduled', 'scheduled→running', 'running→failed'])
  })

  await t.test('the queue says what waits and what room there is', async () => {
    const { body } = await daemon.request<QueueStatus>('GET', '/v1/queue')
    const pool = body.pools.find(candidate => candidate.pool === 'default')
    assert.equal(pool?.isServed, true)
    assert.equal(pool?.running, 0)
    assert.ok((pool?.deadLetters ?? 0) > 0)
    assert.ok(body.free.memoryBytes > 0 && body.free.memoryBytes <= body.capacity.memoryBytes)
  })

  await t.test('no sandbox is left of any task', async () => {
    for (let round = 0; round < 100; round++) {
      const { body } = await daemon.request<SandboxPage>('GET', '/v1/sandboxes?deleted=true')
      if (body.items.length === 0) return
      await delay(50)
    }
    assert.fail('sandboxes of tasks are left')
  })
})
