import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { Task } from '../../../src/schemas/task.ts'
import { queueStatus } from '../routes/fake-tasks.ts'
import { closingPipe, endedTask, id, line, refuse, run, sandbox, start, startFakeDaemon, task, taskId } from './fake-daemon.ts'

const create = 'POST /v1/tasks'
const get = `GET /v1/tasks/${taskId}`
const wait = `GET /v1/tasks/${taskId}/wait`
const logs = `GET /v1/tasks/${taskId}/logs`
const cancel = `POST /v1/tasks/${taskId}/cancel`
const otherTask = 'tsk_7x2m0tq7t1c8v3h5npdd'
const pending = (other: Partial<Task> = {}) => task({ status: 'pending', sandboxId: undefined, startedAt: undefined, attempts: [], ...other } as Partial<Task>)

function fileOf (t: TestContext, text: string): string {
  const dir = mkdtempSync(join(tmpdir(), 'berth-cli-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'f')
  writeFileSync(path, text)
  return path
}

test('task run queues what the flags say, and prints the id', async t => {
  const secret = fileOf(t, 'whsec_0123456789abcdef\n')
  const fake = await startFakeDaemon(t, { [create]: () => pending() })
  const flags = [
    '-e', 'A=1', '-l', 'team=blue', '-m', '512m', '--cpus', '2', '--requests-memory', '128m', '--requests-cpus', '0.5', '--timeout', '30s', '--priority', '-5', '--delay', '10m',
    '--attempts', '3', '--retry-delay', '2s', '--pool', 'gpu', '--output', 'console', '--output', 'file', '--output', 'file:build.ndjson', '--output', 'file:b:c.log', '--output', 's2',
    '--output', 'webhook:https://hooks.example.com/a:b', '--webhook-secret-file', secret,
  ]
  assert.deepEqual(await run(fake, ['task', 'run', ...flags, 'berth/base', 'make', '-j', '4']), { exitCode: 0, stdout: `${taskId}\n`, stderr: '' })
  assert.deepEqual(fake.calls[0]?.body, {
    image: 'berth/base',
    entrypoint: ['make', '-j', '4'],
    env: { A: '1' },
    resources: { cpuMillis: 2000, memoryBytes: 512 * 1024 ** 2 },
    requests: { cpuMillis: 500, memoryBytes: 128 * 1024 ** 2 },
    labels: { team: 'blue' },
    timeoutMs: 30_000,
    priority: -5,
    delayMs: 600_000,
    maxAttempts: 3,
    retry: { backoffMs: 2000 },
    pool: 'gpu',
    outputs: [
      { type: 'console' }, { type: 'file' }, { type: 'file', name: 'build.ndjson', format: 'ndjson' }, { type: 'file', name: 'b:c.log' }, { type: 's2' },
      { type: 'webhook', url: 'https://hooks.example.com/a:b', secret: 'whsec_0123456789abcdef' },
    ],
  })
  assert.equal(JSON.parse((await run(fake, ['task', 'run', '--json', 'berth/base'])).stdout).id, taskId)
})

test('what task run cannot do is said before anything is queued', async t => {
  const fake = await startFakeDaemon(t, {})
  for (const [argv, message] of [
    [['--output', 'tape', 'i'], /--output: 'tape' is no place for output; write console, file/],
    [['--output', 'console:x', 'i'], /--output: 'console:x'/],
    [['--output', 'webhook:', 'i'], /--output: 'webhook:'/],
    [['--output', 'file:', 'i'], /--output: 'file:'/],
    [['--webhook-secret-file', '/no/such', 'i'], /--webhook-secret-file: signs what is posted/],
    [['--output', 'webhook:https://h', '--webhook-secret-file', '/no/such', 'i'], /--webhook-secret-file: cannot read \/no\/such \(ENOENT\)/],
    [['--priority', 'high', 'i'], /--priority: 'high'/],
    [['--requests-cpus', 'x', 'i'], /--requests-cpus: 'x' is not a number of cores/],
    [['--requests-memory', 'x', 'i'], /--requests-memory: 'x' is not a size/],
    [['--file', 'f', '-a'], /-a: follows one task/],
    [['--file', 'f', 'i'], /--file: each line has its own command; leave out 'i'/],
    [['--file', '/no/such'], /--file: cannot read \/no\/such \(ENOENT\)/],
    [[], /missing required argument 'IMAGE'/],
  ] as Array<[string[], RegExp]>) {
    const ran = await run(fake, ['task', 'run', ...argv])
    assert.equal(ran.exitCode, 125)
    assert.match(ran.stderr, message)
  }
  assert.equal(fake.calls.length, 0)
})

for (const flag of ['-a', '--wait']) {
  test(`task run ${flag} shows the output of all attempts and ends with the exit code`, async t => {
    const fake = await startFakeDaemon(t, {
      [create]: () => pending(),
      [wait]: call => call.query.get('until') === 'running' ? task() : endedTask(7, { attempt: 2 }),
      [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'first') + line(2, 'err', { stream: 'stderr' }) + line(3, 'second', { cursor: '1:10' })) },
      [get]: () => endedTask(7),
    })
    assert.deepEqual(await run(fake, ['task', 'run', flag, '--attempts', '2', 'berth/base', 'x']), { exitCode: 7, stdout: 'first\nsecond\n', stderr: 'err\n' })
  })
}

test('an attached task says why it ended where its command does not, and never ends with 0 unless it is complete', async t => {
  const at = new Date().toISOString()
  for (const [end, exitCode, says] of [
    [{ reason: 'out_of_memory', exitCode: 137 }, 137, 'the task ran out of memory (its limit is 2 GiB); give it more with: -m'],
    [{ reason: 'timed_out' }, 124, 'the task ended: timed_out'],
    [{ reason: 'cancelled', exitCode: 0 }, 125, 'the task was cancelled'],
    [{ reason: 'setup_failed', step: 'image', message: 'no image nope' }, 125, 'the task could not be run (step image): no image nope'],
    [{ reason: 'undeliverable', message: 'handed out 5 times' }, 125, 'the task ended: undeliverable: handed out 5 times'],
  ] as Array<[Omit<NonNullable<Task['end']>, 'at'>, number, string]>) {
    const ended = task({ status: end.reason === 'cancelled' ? 'cancelled' : 'failed', end: { ...end, at } })
    const fake = await startFakeDaemon(t, { [create]: () => pending(), [wait]: () => ended, [logs]: (_call, response) => { response.end() }, [get]: () => ended })
    assert.deepEqual(await run(fake, ['task', 'run', '-a', 'berth/base', 'x']), { exitCode, stdout: '', stderr: `berth: ${says}\n` })
  }
})

test('task run -a --json prints the records and then the end', async t => {
  const fake = await startFakeDaemon(t, { [create]: () => pending(), [wait]: () => endedTask(4), [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'out')) }, [get]: () => endedTask(4) })
  const records = (await run(fake, ['task', 'run', '-a', '--json', 'i'])).stdout.trimEnd().split('\n').map(text => JSON.parse(text))
  assert.deepEqual(records.map(({ type }) => type), ['line', 'exit'])
  assert.deepEqual([records[1].exitCode, records[1].task.id], [4, taskId])
})

test('Ctrl-C of an attached task cancels it once and leaves at the second', async t => {
  const cancelled = Promise.withResolvers<void>()
  const following = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, {
    [create]: () => pending(),
    [wait]: () => task(),
    [logs]: (_call, response) => { response.write(line(1, 'ready'), () => following.resolve()) },
    [cancel]: () => {
      cancelled.resolve()
      return task()
    },
  })
  const running = start(fake, ['task', 'run', '-a', 'i', 'sleep', '9'])
  await following.promise
  running.signal('SIGINT')
  await cancelled.promise
  running.signal('SIGINT')
  const ran = await running.done
  assert.deepEqual([ran.exitCode, ran.stderr], [130, ''])
  assert.equal(fake.callsTo(cancel).length, 1)
})

test('Ctrl-C while an attached task is being queued cancels it as soon as it is there', async t => {
  const at = new Date().toISOString()
  const ended = pending({ status: 'cancelled', end: { reason: 'cancelled', at } })
  const fake = await startFakeDaemon(t, {
    [create]: () => {
      running.signal('SIGTERM')
      return pending()
    },
    [cancel]: () => ended,
    [wait]: () => ended,
    [logs]: (_call, response) => { response.end() },
    [get]: () => ended,
  })
  const running = start(fake, ['task', 'run', '-a', 'i', 'sleep', '9'])
  assert.deepEqual(await running.done, { exitCode: 125, stdout: '', stderr: 'berth: the task was cancelled before it ran\n' })
  assert.equal(fake.callsTo(cancel).length, 1)
})

test('an attached task survives a daemon that goes away, and a closed pipe leaves it', async t => {
  let isBack = false
  const fake = await startFakeDaemon(t, {
    [create]: () => pending(),
    [wait]: call => call.query.get('until') === 'running' ? task() : endedTask(3),
    [get]: () => endedTask(3),
    [logs]: (_call, response) => {
      if (isBack) return void response.end(line(2, 'after'))
      isBack = true
      response.write(line(1, 'before'), () => { void fake.down().then(() => fake.up()) })
    },
  })
  const ran = await run(fake, ['task', 'run', '-a', 'i', 'x'])
  assert.deepEqual([ran.exitCode, ran.stdout], [3, 'before\nafter\n'])
  assert.equal((await run(fake, ['task', 'run', '-a', 'i', 'x'], { stdout: closingPipe(2) })).exitCode, 141)
})

test('run -d queues a task, waits until it runs, and prints its id; --rm is what it does anyway', async t => {
  const fake = await startFakeDaemon(t, { [create]: () => pending(), [wait]: () => task() })
  for (const argv of [['run', '-d', 'berth/base', 'sleep', '9'], ['run', '-d', '--rm', 'berth/base', 'sleep', '9']]) {
    assert.deepEqual(await run(fake, argv), { exitCode: 0, stdout: `${taskId}\n`, stderr: '' })
    assert.deepEqual(fake.callsTo(create).at(-1)?.body, { image: 'berth/base', entrypoint: ['sleep', '9'] })
  }
  assert.equal(fake.callsTo(wait)[0]?.query.get('until'), 'running')
  assert.equal(JSON.parse((await run(fake, ['run', '-d', '--json', 'berth/base'])).stdout).status, 'running')
  const plain = await run(fake, ['run', '-d', '--progress=plain', 'berth/base'])
  assert.equal(plain.stderr, `queueing a task of berth/base …\n${taskId} waits for room, and for its sandbox …\nstarted in 205 ms (rootfs 5 ms, container 200 ms)\n`)
})

test('run -d waits on after a timeout, and says in a pipe too that there is no room', { timeout: 20_000 }, async t => {
  let rounds = 0
  const fake = await startFakeDaemon(t, {
    [create]: () => pending(),
    [wait]: async (_call, response) => {
      if (++rounds === 1) return refuse(response, 504, 'timed_out', 'wait_timed_out', 'not yet')
      await said.promise
      return task()
    },
  })
  const said = Promise.withResolvers<void>()
  const running = start(fake, ['run', '-d', 'berth/base', 'x'])
  const { write } = running.context.stderr
  running.context.stderr.write = ((...args: Parameters<typeof write>) => {
    if (String(args[0]).includes('waits for room')) said.resolve()
    return write.apply(running.context.stderr, args)
  }) as typeof write
  const ran = await running.done
  assert.deepEqual(ran, { exitCode: 0, stdout: `${taskId}\n`, stderr: `${taskId} waits for room, and for its sandbox …\n` })
  assert.equal(rounds, 2)
})

test('Ctrl-C while run -d waits leaves the task queued and says so', async t => {
  for (const when of ['while it is queued', 'while it waits']) {
    const fake = await startFakeDaemon(t, {
      [create]: () => {
        if (when === 'while it is queued') running.signal('SIGINT')
        return pending()
      },
      [wait]: () => { running.signal('SIGINT') },
    })
    const running = start(fake, ['run', '-d', 'berth/base', 'x'])
    assert.deepEqual(await running.done, { exitCode: 130, stdout: '', stderr: `berth: ${taskId} stays queued and will run; see it with: berth task inspect ${taskId}, cancel it with: berth task cancel ${taskId}\n` })
    assert.equal(fake.callsTo(cancel).length, 0)
  }
})

test('run -d of a task that ended before its command ran says why; how a command ends that ran is no matter', async t => {
  const at = new Date().toISOString()
  const refused = pending({ status: 'failed', end: { reason: 'setup_failed', at, step: 'image', message: 'no image nope; use berth/base' } })
  let ended = refused
  const fake = await startFakeDaemon(t, { [create]: () => pending(), [wait]: () => ended })
  assert.deepEqual(await run(fake, ['run', '-d', 'nope']), { exitCode: 125, stdout: `${taskId}\n`, stderr: 'berth: the task could not be run (step image): no image nope; use berth/base\n' })
  ended = endedTask(3)
  assert.deepEqual(await run(fake, ['run', '-d', 'berth/base', 'false']), { exitCode: 0, stdout: `${taskId}\n`, stderr: '' })
})

test('a file of tasks is queued in calls of up to 1000, each with a key, over the defaults of the flags', async t => {
  const fake = await startFakeDaemon(t, {
    [create]: call => ({ items: call.body.tasks.map((one: { labels: { n: string } }) => task({ id: `tsk_${one.labels.n.padStart(20, '0')}` })) }),
  })
  const text = Array.from({ length: 2001 }, (_, n) => JSON.stringify({ labels: { n: String(n) }, ...(n === 1 && { image: 'other', priority: 1 }) })).join('\n\n')
  const ran = await run(fake, ['task', 'run', '--image', 'berth/base', '--priority', '7', '--file', '-'], { input: text })
  assert.deepEqual([ran.exitCode, ran.stderr], [0, ''])
  assert.deepEqual(ran.stdout.trimEnd().split('\n'), Array.from({ length: 2001 }, (_, n) => `tsk_${String(n).padStart(20, '0')}`))
  assert.deepEqual(fake.calls.map(({ body }) => body.tasks.length), [1000, 1000, 1])
  assert.equal(new Set(fake.calls.map(({ headers }) => headers['idempotency-key'])).size, 3)
  assert.deepEqual(fake.calls[0]?.body.tasks.slice(0, 2), [{ image: 'berth/base', priority: 7, labels: { n: '0' } }, { image: 'other', priority: 1, labels: { n: '1' } }])
  const path = fileOf(t, '{"image":"a","labels":{"n":"5"}}\r\n')
  assert.equal(JSON.parse((await run(fake, ['task', 'run', '--json', '--file', path])).stdout).id, 'tsk_00000000000000000005')
  assert.deepEqual(fake.calls.at(-1)?.body, { tasks: [{ image: 'a', labels: { n: '5' } }] })
})

test('a wrong line of a file is named by its number, with how many are queued', async t => {
  let refusal = ''
  const fake = await startFakeDaemon(t, {
    [create]: (call, response) => refusal === '' || call.body.tasks.length === 1000 ? { items: call.body.tasks.map(() => task()) } : refuse(response, 400, 'invalid_argument', 'missing_field', refusal),
  })
  const good = '{"image":"a"}\n'
  for (const [said, shown] of [
    ['tasks[1].image is required', 'line 1003: image is required'],
    ['unknown field "x" in tasks[1]; did you mean y?', 'unknown field "x" in line 1003; did you mean y?'],
    ['tasks[0]: too much', 'line 1002: too much'],
  ] as const) {
    refusal = said
    const refused = await run(fake, ['task', 'run', '--file', '-'], { input: good.repeat(1000) + '\n' + good + '{}\n' })
    assert.deepEqual([refused.exitCode, refused.stderr], [125, `berth: standard input: ${shown}; the 1000 before are queued\n`])
  }
  fake.calls.length = 0
  const path = fileOf(t, good + '[]\n')
  assert.equal((await run(fake, ['task', 'run', '--file', path])).stderr, `berth: ${path}: line 2 is not an object; each line is the object of one task\n`)
  assert.match((await run(fake, ['task', 'run', '--file', '-'], { input: '{"image"\n' })).stderr, /standard input: line 1 is not JSON/)
  assert.equal(fake.calls.length, 0)
})

test('task ls shows what has not ended as a table, ids or JSON, and passes its filters on', async t => {
  const failed = { ...endedTask(3, { maxAttempts: 3, attempt: 3, labels: { team: 'blue' } }), id: otherTask }
  const fake = await startFakeDaemon(t, { 'GET /v1/tasks': call => call.query.has('cursor') ? { items: [failed] } : { items: [task()], nextCursor: 'p2' } })
  const table = (await run(fake, ['task', 'ls', '-a'])).stdout.split('\n')
  assert.match(table[0]!, /^TASK ID +IMAGE +COMMAND +CREATED +STATUS +LABELS$/)
  assert.match(table[1]!, new RegExp(`^${taskId} +berth/base +"echo hello" +5 minutes ago +Running 5 minutes$`))
  assert.match(table[2]!, new RegExp(`^${otherTask} +berth/base +"echo hello" +5 minutes ago +Failed \\(3\\) less than a second ago, attempt 3 of 3 +team=blue$`))
  assert.deepEqual(fake.calls[0]?.query.getAll('status'), [])
  assert.equal((await run(fake, ['task', 'ls', '-q'])).stdout, `${taskId}\n${otherTask}\n`)
  assert.deepEqual(fake.calls.at(-1)?.query.getAll('status'), ['pending', 'scheduled', 'running'])
  assert.deepEqual(JSON.parse((await run(fake, ['task', 'ls', '--json', '--filter', 'label=team'])).stdout).map((one: Task) => one.id), [otherTask])
  await run(fake, ['task', 'ls', '--filter', 'status=failed', '--filter', 'label=team=blue', '--filter', 'pool=gpu', '--since', '2026-03-01T10:00:00+01:00', '--until', '1h'])
  const { query } = fake.calls.at(-1)!
  assert.deepEqual(['status', 'label', 'pool', 'since'].map(name => query.get(name)), ['failed', 'team=blue', 'gpu', '2026-03-01T09:00:00.000Z'])
  assert.ok(Math.abs(Date.now() - 3_600_000 - Date.parse(query.get('until')!)) < 60_000)
  await run(fake, ['task', 'ls', '--dead-letters'])
  assert.deepEqual([fake.calls.at(-1)?.query.get('deadLetter'), fake.calls.at(-1)?.query.get('status')], ['true', null])
  for (const [flags, message] of [[['--filter', 'status=done'], /a status is one of pending, scheduled, running, complete, failed, cancelled/], [['--since', 'yesterday'], /--since: 'yesterday' is not a duration/], [['--since', '2026-99-99'], /is no time/], [['--filter', 'pool=a', '--filter', 'pool=b'], /one pool only/]] as Array<[string[], RegExp]>) {
    assert.match((await run(fake, ['task', 'ls', ...flags])).stderr, message)
  }
})

test('each status of a task is said in its own words', async t => {
  const at = (ms: number) => new Date(Date.now() + ms).toISOString()
  for (const [other, words] of [
    [pending({ availableAt: at(-120_500) }), 'Pending 2 minutes'],
    [pending({ availableAt: at(605_000), attempt: 2, maxAttempts: 3 }), 'Pending, due in 10 minutes, attempt 2 of 3'],
    [pending({ status: 'scheduled' }), 'Scheduled'],
    [task({ cancelRequestedAt: at(0) }), 'Running 5 minutes, being cancelled'],
    [endedTask(0, { endedAt: at(-60_500) }), 'Complete 1 minute ago'],
    [endedTask(1, { endedAt: at(-60_500), end: { reason: 'timed_out', at: at(0), exitCode: 143 } }), 'Failed (timed_out) 1 minute ago'],
    [endedTask(1, { status: 'cancelled', endedAt: at(-60_500) }), 'Cancelled 1 minute ago'],
  ] as Array<[Task, string]>) {
    const fake = await startFakeDaemon(t, { 'GET /v1/tasks': () => ({ items: [other] }) })
    assert.ok((await run(fake, ['task', 'ls'])).stdout.trimEnd().endsWith(words), words)
  }
})

test('task logs shows all attempts, follows to the end of the task, or shows one attempt', async t => {
  const at = new Date().toISOString()
  const attempt = (number: number, logCursor?: string, status: Task['attempts'][number]['status'] = 'failed') => ({ number, status, claimedAt: at, ...(logCursor !== undefined && { logCursor }) })
  const ended = endedTask(3, { attempts: [attempt(1, '0:0'), attempt(2, undefined, 'returned'), attempt(2, '0:10'), attempt(3, '3:0')] })
  const all = [line(10, 'one'), line(40, 'two'), line(0, 'two, rotated', { cursor: '2:50:oe282' }), line(0, 'three', { cursor: '3:20' })]
  const from: Record<string, number> = { '0:0': 0, '0:10': 1, '3:0': 3 }
  const fake = await startFakeDaemon(t, {
    [get]: () => ended,
    [logs]: (call, response) => { response.end(call.query.get('cursor') === '3:20' ? '' : all.slice(from[call.query.get('cursor') ?? '0:0']).join('')) },
    'GET /v1/sandboxes': () => ({ items: [] }),
    'GET /v1/tasks': () => ({ items: [ended] }),
  })
  const whole = 'one\ntwo\ntwo, rotated\nthree\n'
  for (const argv of [['task', 'logs', taskId], ['task', 'logs', '-f', taskId], ['logs', taskId], ['logs', '-f', taskId.slice(4, 9)]]) {
    assert.deepEqual(await run(fake, argv), { exitCode: 0, stdout: whole, stderr: '' }, argv.join(' '))
  }
  for (const [number, text] of [[1, 'one\n'], [2, 'two\ntwo, rotated\n'], [3, 'three\n']] as const) {
    assert.deepEqual(await run(fake, ['task', 'logs', '--attempt', String(number), taskId]), { exitCode: 0, stdout: text, stderr: '' })
  }
  assert.match((await run(fake, ['task', 'logs', '--attempt', '4', taskId])).stderr, /nothing in an attempt 4; it has come to attempt 3/)
  assert.match((await run(fake, ['task', 'logs', '--attempt', '1', '-f', taskId])).stderr, /--attempt: shows all of one attempt/)
  await run(fake, ['task', 'logs', '-n', '5', '--stderr', taskId])
  assert.deepEqual(['tail', 'stream', 'format'].map(name => fake.calls.at(-1)?.query.get(name)), ['5', 'stderr', 'ndjson'])
})

test('task wait prints each exit code and ends with that of the first that failed', async t => {
  let round = 0
  const fake = await startFakeDaemon(t, {
    [wait]: (_call, response) => ++round === 1 ? refuse(response, 504, 'timed_out', 'wait_timed_out', 'not yet') : endedTask(0),
    [`GET /v1/tasks/${otherTask}/wait`]: () => ({ ...endedTask(9), id: otherTask }),
    [`GET /v1/tasks/tsk_${'z'.repeat(20)}/wait`]: (_call, response) => refuse(response, 404, 'not_found', 'task_not_found', 'gone'),
  })
  assert.deepEqual(await run(fake, ['task', 'wait', taskId, otherTask, `tsk_${'z'.repeat(20)}`]), { exitCode: 9, stdout: '0\n9\n', stderr: 'berth: gone\n' })
  assert.equal((await run(fake, ['task', 'wait', `tsk_${'z'.repeat(20)}`, otherTask])).exitCode, 125)
  assert.deepEqual(await run(fake, ['task', 'wait', taskId]), { exitCode: 0, stdout: '0\n', stderr: '' })
  assert.partialDeepStrictEqual(JSON.parse((await run(fake, ['task', 'wait', '--json', otherTask])).stdout), { id: otherTask, exitCode: 9, status: 'failed' })
  assert.deepEqual(await run(fake, ['wait', otherTask]), { exitCode: 0, stdout: '9\n', stderr: '' }, 'as wait does for sandboxes')
})

test('tasks are cancelled, retried and inspected by id or its beginning', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/tasks': () => ({ items: [task(), task({ id: otherTask })] }),
    'GET /v1/sandboxes': () => ({ items: [sandbox()] }),
    [get]: () => task(),
    [`GET /v1/sandboxes/${id}`]: () => sandbox(),
    [cancel]: () => task(),
    [`POST /v1/tasks/${taskId}/retry`]: () => pending(),
  })
  assert.deepEqual(await run(fake, ['task', 'cancel', '7x2m9']), { exitCode: 0, stdout: '7x2m9\n', stderr: '' })
  assert.equal(JSON.parse((await run(fake, ['task', 'retry', '--json', 'tsk_7x2m9'])).stdout).status, 'pending')
  assert.equal(JSON.parse((await run(fake, ['task', 'inspect', taskId])).stdout)[0].id, taskId)
  assert.deepEqual(JSON.parse((await run(fake, ['inspect', '7x2m9', id])).stdout).map((one: { id: string }) => one.id), [taskId, id])
  assert.match((await run(fake, ['task', 'cancel', '7x2m'])).stderr, new RegExp(`'7x2m' stands for ${taskId}, ${otherTask}; give more`))
  assert.match((await run(fake, ['task', 'cancel', id])).stderr, /is not a task id; see them with: berth task ls -a/)
  assert.match((await run(fake, ['task', 'cancel', 'q'])).stderr, /no task has the id 'q'/)
})

test('stop, kill and rm -f end a task itself, and wait for its end', async t => {
  const stops: unknown[] = []
  const fake = await startFakeDaemon(t, {
    [cancel]: () => task({ cancelRequestedAt: new Date().toISOString() }),
    [wait]: () => endedTask(143, { status: 'cancelled' }),
    [`POST /v1/sandboxes/${id}/stop`]: (call, response) => {
      stops.push(call.body)
      return stops.length === 1 ? sandbox() : refuse(response, 409, 'conflict', 'invalid_state', 'it has ended')
    },
    [`DELETE /v1/tasks/${taskId}`]: (_call, response) => fake.callsTo(wait).length > 0 ? void response.writeHead(204).end() : refuse(response, 409, 'conflict', 'invalid_state', 'it runs'),
  })
  for (const argv of [['rm', taskId], ['task', 'rm', taskId]]) assert.match((await run(fake, argv)).stderr, new RegExp(`${taskId} has not ended; cancel it first, or delete it with: berth rm -f ${taskId}`))
  assert.deepEqual(await run(fake, ['stop', taskId]), { exitCode: 0, stdout: `${taskId}\n`, stderr: '' })
  assert.deepEqual([stops, fake.callsTo(wait).length], [[], 1])
  assert.equal((await run(fake, ['kill', taskId])).exitCode, 0)
  assert.equal((await run(fake, ['rm', '-f', taskId])).exitCode, 0)
  assert.deepEqual(stops, [{ force: true }, { force: true }])
  assert.match((await run(fake, ['stop', '-t', '5', taskId])).stderr, /-t: .* is a task/)
  assert.deepEqual(JSON.parse((await run(fake, ['task', 'rm', '--json', taskId])).stdout), { id: taskId, removed: true })
})

test('what acts on a sandbox takes a task whose attempt is under way, and says why it cannot otherwise', async t => {
  let current = task()
  const fake = await startFakeDaemon(t, {
    [get]: () => current,
    [`POST /v1/sandboxes/${id}/pause`]: () => sandbox({ status: 'paused' }),
    [`GET /v1/sandboxes/${id}/ports`]: () => ({ items: [] }),
    [`POST /v1/sandboxes/${id}/execs`]: (_call, response) => { response.end('{"type":"exit","exitCode":4,"timedOut":false,"durationMs":1}\n') },
  })
  assert.deepEqual(await run(fake, ['pause', taskId]), { exitCode: 0, stdout: `${taskId}\n`, stderr: '' })
  assert.equal((await run(fake, ['ports', taskId])).exitCode, 0)
  assert.equal((await run(fake, ['exec', taskId, 'x'])).exitCode, 4)
  current = pending()
  assert.match((await run(fake, ['exec', taskId, 'x'])).stderr, /is still pending and has no sandbox yet; .*berth task inspect/)
  current = endedTask(0)
  assert.match((await run(fake, ['exec', taskId, 'x'])).stderr, /has ended \(complete\), and its sandbox is gone; .*berth logs tsk_/)
})

test('the queue is shown in words, or as JSON', async t => {
  let queue: object = queueStatus
  const fake = await startFakeDaemon(t, { 'GET /v1/queue': () => queue })
  const [heading, row, , free, ...rest] = (await run(fake, ['queue'])).stdout.split('\n')
  assert.match(heading!, /^POOL +DELAYED +PENDING +SCHEDULED +RUNNING +DEAD LETTERS +OLDEST WAITS$/)
  assert.match(row!, /^default +1 +2 +0 +3 +4 +1 second$/)
  assert.equal(free, 'Free: 0.5 of 4 cores, 1 GiB of 8 GiB')
  assert.deepEqual(rest, [''])
  assert.deepEqual(JSON.parse((await run(fake, ['queue', '--json'])).stdout), queueStatus)
  queue = { ...queueStatus, heldBack: 'memory_pressure' }
  assert.match((await run(fake, ['queue'])).stdout, /Nothing is begun at the moment: the memory of the host is under pressure\n$/)
})
