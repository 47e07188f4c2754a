import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import { closingPipe, ended, execId, id, line, otherId, refuse, run, sandbox, start, startFakeDaemon, taskId } from './fake-daemon.ts'

const execs = `POST /v1/sandboxes/${id}/execs`
const logs = `GET /v1/sandboxes/${id}/logs`
const base64 = (text: string) => Buffer.from(text).toString('base64')
const events = (...list: object[]) => list.map(event => JSON.stringify(event) + '\n').join('')

test('ps shows what has not ended as a table, ids or JSON', async t => {
  const other = sandbox({ ...ended(3), id: otherId, entrypoint: undefined, labels: { team: 'blue', b: '' } })
  const fake = await startFakeDaemon(t, {
    'GET /v1/sandboxes': call => call.query.get('cursor') === 'p2' ? { items: [other] } : { items: [sandbox({ taskId })], nextCursor: 'p2' },
  })
  const table = (await run(fake, ['ps', '-a'])).stdout.split('\n')
  assert.match(table[0]!, /^SANDBOX ID +IMAGE +COMMAND +CREATED +STATUS +TASK +LABELS$/)
  assert.match(table[1]!, new RegExp(`^${id} +berth/base +"echo hello" +5 minutes ago +Up 5 minutes +${taskId}$`))
  assert.match(table[2]!, new RegExp(`^${otherId} +berth/base +- +5 minutes ago +Exited \\(3\\) less than a second ago +- +team=blue,b$`))
  assert.equal((await run(fake, ['ps', '-q'])).stdout, `${id}\n`)
  assert.equal((await run(fake, ['ps', '-aq'])).stdout, `${id}\n${otherId}\n`)
  assert.deepEqual(JSON.parse((await run(fake, ['ps', '--json'])).stdout).map((one: { id: string }) => one.id), [id])
  assert.equal((await run(fake, ['ps', '-q', '--filter', 'status=stopped'])).stdout, `${otherId}\n`)
  assert.equal((await run(fake, ['ps', '-aq', '--filter', 'label=team=blue'])).stdout, `${otherId}\n`)
  assert.equal(fake.calls.at(-1)?.query.get('label'), 'team=blue')
  assert.match((await run(fake, ['ps', '--filter', 'name=x'])).stderr, /label=team=blue or status=paused/)
})

test('control characters of a command line do not reach the terminal', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/sandboxes': () => ({ items: [sandbox({ entrypoint: ['echo', '\u001b[31mred\n'] })] }) })
  // eslint-disable-next-line no-control-regex
  assert.doesNotMatch((await run(fake, ['ps'])).stdout, /\u001b/)
})

test('an id may be a unique beginning, with or without sbx_', async t => {
  const fake = await startFakeDaemon(t, {
    'GET /v1/sandboxes': () => ({ items: [sandbox(), sandbox({ id: otherId })] }),
    'GET /v1/tasks': () => ({ items: [] }),
    [`GET /v1/sandboxes/${id}`]: () => sandbox(),
  })
  for (const text of ['4k2m9', 'sbx_4k2m9', id]) assert.equal(JSON.parse((await run(fake, ['inspect', text])).stdout)[0].id, id)
  assert.match((await run(fake, ['inspect', '4k2m'])).stderr, new RegExp(`'4k2m' stands for ${id}, ${otherId}; give more`))
  assert.match((await run(fake, ['inspect', '9'])).stderr, /no sandbox or task has the id '9'/)
  assert.match((await run(fake, ['inspect', '../x'])).stderr, /is not a sandbox or a task id/)
  assert.equal((await run(fake, ['inspect', ''])).exitCode, 125)
})

test('inspect shows what there is and says what there is not', async t => {
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}`]: () => sandbox(),
    [`GET /v1/sandboxes/${otherId}`]: (_call, response) => refuse(response, 404, 'not_found', 'sandbox_not_found', 'no such sandbox'),
  })
  const ran = await run(fake, ['inspect', otherId, id])
  assert.equal(ran.exitCode, 125)
  assert.equal(ran.stderr, 'berth: no such sandbox\n')
  assert.equal(JSON.parse(ran.stdout).length, 1)
})

test('exec passes bytes through unharmed and ends with the exit code', async t => {
  const bytes = Buffer.from([0, 255, 10, 128])
  const fake = await startFakeDaemon(t, {
    [execs]: (_call, response) => {
      response.end(events({ type: 'started', id: execId }, { type: 'stdout', data: bytes.toString('base64') }, { type: 'stderr', data: base64('bad\n') }, { type: 'exit', exitCode: 9, timedOut: false, durationMs: 3 }))
    },
  })
  const ran = await run(fake, ['exec', '-i', '-w', '/tmp', '-u', '0', '-e', 'HOMELESS', id, 'cat', '-e'], { input: bytes, env: { BERTH_SOCKET: fake.socket, HOMELESS: 'yes' } })
  assert.equal(ran.exitCode, 9)
  assert.equal(ran.stdout, bytes.toString())
  assert.equal(ran.stderr, 'bad\n')
  assert.deepEqual(fake.calls[0]?.body, { argv: ['cat', '-e'], env: { HOMELESS: 'yes' }, cwd: '/tmp', user: '0', stdin: bytes.toString('base64'), encoding: 'base64' })
  assert.equal(fake.calls[0]?.headers.accept, 'application/x-ndjson')
})

test('exec -d prints the id of the exec, and -it wants a terminal here', async t => {
  const fake = await startFakeDaemon(t, { [execs]: () => ({ id: execId, status: 'running' }) })
  assert.equal((await run(fake, ['exec', '-d', id, 'sleep', '9'])).stdout, `${execId}\n`)
  assert.equal(fake.calls[0]?.body.detach, true)
  const refused = await run(fake, ['exec', '-it', id, 'sh'])
  assert.equal(refused.exitCode, 125)
  assert.match(refused.stderr, /^berth: -t: standard input is not a terminal; run it from one/)
  assert.match((await run(fake, ['exec', '-di', id, 'cat'])).stderr, /a detached exec has no standard input/)
})

test('Ctrl-C in exec goes to the process inside, each time more insistently', async t => {
  const sent: string[] = []
  let stream: { end: (text: string) => void } | undefined
  const fake = await startFakeDaemon(t, {
    [execs]: (_call, response) => {
      stream = response
      running.signal('SIGINT') // Before its id is known.
      response.write(events({ type: 'started', id: execId }))
    },
    [`POST /v1/sandboxes/${id}/execs/${execId}/signal`]: (call, response) => {
      sent.push(call.body.signal)
      if (sent.length < 3) running.signal('SIGINT')
      else stream!.end(events({ type: 'exit', exitCode: 137, signal: 'SIGKILL', timedOut: false, durationMs: 1 }))
      response.writeHead(204).end()
    },
  })
  const running = start(fake, ['exec', id, 'sleep', '9'])
  assert.equal((await running.done).exitCode, 137)
  assert.deepEqual(sent, ['SIGINT', 'SIGTERM', 'SIGKILL'])
})

test('exec says that the exit code is unknown when the connection breaks', async t => {
  for (const end of ['destroy', 'end'] as const) {
    const fake = await startFakeDaemon(t, {
      [execs]: (_call, response) => { response.write(events({ type: 'started', id: execId }), () => response[end]()) },
    })
    const ran = await run(fake, ['exec', id, 'x'])
    assert.equal(ran.exitCode, 125)
    assert.match(ran.stderr, /exit code is unknown/)
    assert.equal(fake.calls.length, 1)
  }
})

test('exec into a closed pipe ends quietly and leaves, at which the daemon ends the process', async t => {
  const left = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, {
    [execs]: (_call, response) => {
      response.write(events({ type: 'started', id: execId }, ...Array(9).fill({ type: 'stdout', data: base64('y\n') })))
      response.on('close', () => left.resolve())
    },
  })
  assert.deepEqual(await run(fake, ['exec', id, 'yes'], { stdout: closingPipe(3) }), { exitCode: 141, stdout: '', stderr: '' })
  await left.promise
})

test('a program that is not there gives 127, as in a shell', async t => {
  const fake = await startFakeDaemon(t, {
    [execs]: (_call, response) => { response.end(events({ type: 'error', code: 'command_not_found', message: 'no program nope' })) },
  })
  assert.deepEqual(await run(fake, ['exec', id, 'nope']), { exitCode: 127, stdout: '', stderr: 'berth: no program nope\n' })
  fake.routes[execs] = (_call, response) => refuse(response, 400, 'invalid_argument', 'command_not_executable', 'not this one')
  assert.deepEqual(await run(fake, ['exec', id, '/etc']), { exitCode: 126, stdout: '', stderr: 'berth: not this one\n' })
})

test('logs takes its flags to the daemon and prints times', async t => {
  const fake = await startFakeDaemon(t, { [logs]: (_call, response) => { response.end(line(1, 'a', { partial: true }) + line(2, 'b') + JSON.stringify({ type: 'gap', cursor: '1:0', message: 'rotated' }) + '\n') } })
  const ran = await run(fake, ['logs', '-t', '--tail', '5', '--since', '0:9', '--stdout', id])
  assert.equal(ran.stdout, '2026-03-01T09:30:00.000Z ab\n')
  assert.equal(ran.stderr, 'berth: rotated\n')
  assert.equal(fake.calls[0]?.query.toString(), 'cursor=0%3A9&tail=5&stream=stdout&format=ndjson')
  assert.equal((await run(fake, ['logs', '--json', id])).stdout.split('\n').length, 4)
  assert.match((await run(fake, ['logs', '--tail', 'x', id])).stderr, /--tail: 'x' is not a whole number/)
})

test('logs -f ends with the sandbox, and at Ctrl-C', async t => {
  const fake = await startFakeDaemon(t, {
    [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'a')) },
    [`GET /v1/sandboxes/${id}`]: () => ended(0),
  })
  assert.deepEqual(await run(fake, ['logs', '-f', id]), { exitCode: 0, stdout: 'a\n', stderr: '' })
  fake.routes[logs] = (_call, response) => { response.write(line(1, 'a'), () => running.signal('SIGINT')) }
  const running = start(fake, ['logs', '-f', id])
  assert.equal((await running.done).exitCode, 130)
})

test('an error amid a log is an error', async t => {
  const fake = await startFakeDaemon(t, { [logs]: (_call, response) => { response.end(line(1, 'a') + events({ type: 'error', code: 'internal', message: 'disk is gone' })) } })
  assert.deepEqual(await run(fake, ['logs', id]), { exitCode: 125, stdout: 'a\n', stderr: 'berth: disk is gone\n' })
})

test('logs into a closed pipe ends quietly', async t => {
  const fake = await startFakeDaemon(t, { [logs]: (_call, response) => { response.write(line(1, 'a') + line(2, 'b') + line(3, 'c')) } })
  assert.deepEqual(await run(fake, ['logs', '-f', id], { stdout: closingPipe(1) }), { exitCode: 141, stdout: '', stderr: '' })
})

test('the verbs act on each id, print it, and go on after a failure', async t => {
  const fake = await startFakeDaemon(t, {
    [`POST /v1/sandboxes/${otherId}/pause`]: (_call, response) => refuse(response, 409, 'conflict', 'invalid_state', 'it is not running'),
    [`DELETE /v1/sandboxes/${id}`]: (_call, response) => { response.writeHead(204).end() },
  })
  for (const verb of ['start', 'stop', 'pause', 'resume']) fake.routes[`POST /v1/sandboxes/${id}/${verb}`] = () => sandbox()
  for (const verb of ['start', 'stop', 'kill', 'pause', 'resume', 'rm']) assert.deepEqual(await run(fake, [verb, id]), { exitCode: 0, stdout: `${id}\n`, stderr: '' })
  assert.deepEqual(await run(fake, ['pause', otherId, id]), { exitCode: 125, stdout: `${id}\n`, stderr: 'berth: it is not running\n' })
  assert.deepEqual(fake.callsTo(`POST /v1/sandboxes/${id}/stop`).map(({ body }) => body), [undefined, { force: true }])
  fake.routes[`DELETE /v1/sandboxes/${otherId}`] = (_call, response) => {
    response.writeHead(409, { 'content-type': 'application/json' }).end(JSON.stringify({ kind: 'conflict', code: 'invalid_state', message: 'cannot', requestId: 'r', details: { status: 'running' } }))
  }
  assert.equal((await run(fake, ['rm', otherId])).stderr, `berth: ${otherId} is running; stop it first, or delete it with: berth rm -f ${otherId}\n`)
  await run(fake, ['stop', '-t', '3', id])
  assert.deepEqual(fake.calls.at(-1)?.body, { graceMs: 3000 })
  await run(fake, ['rm', '-f', id])
  assert.equal(fake.calls.at(-1)?.query.get('force'), 'true')
  assert.deepEqual(JSON.parse((await run(fake, ['rm', '--json', id])).stdout), { id, removed: true })
})

test('wait asks again after a timeout and while the daemon restarts, and prints the exit code', async t => {
  let round = 0
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/wait`]: (_call, response) => {
      round++
      if (round === 1) return refuse(response, 504, 'timed_out', 'wait_timed_out', 'not yet')
      if (round === 2) return void fake.down().then(() => fake.up())
      if (round === 3) return refuse(response, 503, 'unavailable', 'starting', 'starting')
      return ended(5)
    },
  })
  const ran = await run(fake, ['wait', id])
  assert.equal(ran.exitCode, 0)
  assert.equal(ran.stdout, '5\n')
  assert.match(ran.stderr, /^berth: the daemon at .* is away; waiting for it to come back\n$/)
})

test('wait takes a refused connection for a restart', async t => {
  const fake = await startFakeDaemon(t, { [`GET /v1/sandboxes/${id}/wait`]: () => ended(5) }, { tcp: true })
  const port = Number(new URL(fake.url).port)
  await fake.down()
  const waiting = run(fake, ['wait', id], {
    stderr: new Writable({
      write (chunk, _encoding, done) {
        if (chunk.length === 0) done()
        else void fake.up(port).then(() => done())
      },
    }),
  })
  assert.deepEqual(await waiting, { exitCode: 0, stdout: '5\n', stderr: '' })
})

test('events are printed page by page, and followed across a broken connection', async t => {
  const event = (seq: number) => ({ seq, at: '2026-03-01T09:30:00.000Z', type: 'sandbox.status', sandboxId: id, data: { from: 'created', to: 'running' } })
  const cursors: Array<string | null> = []
  const fake = await startFakeDaemon(t, {
    'GET /v1/host': () => ({}),
    'GET /v1/events': (call, response) => {
      const cursor = call.query.get('cursor')
      if (!call.query.has('follow')) return cursor === '1' ? { items: [event(2)] } : { items: [event(1)], nextCursor: '1' }
      cursors.push(cursor)
      if (cursor === null) return void response.write(events(event(1)), () => response.destroy())
      response.write(events(event(2)))
    },
  })
  assert.equal((await run(fake, ['events'])).stdout, `2026-03-01T09:30:00.000Z  sandbox.status   ${id}  from=created to=running\n`.repeat(2))
  const seen: number[] = []
  const stdout = new Writable({
    write (chunk, _encoding, done) {
      if (chunk.length > 0) seen.push(JSON.parse(chunk).seq)
      if (seen.at(-1) === 2) running.signal('SIGINT')
      done()
    },
  })
  const running = start(fake, ['events', '-f', '--json'], { stdout })
  assert.equal((await running.done).exitCode, 130)
  assert.deepEqual(seen, [1, 2])
  assert.deepEqual(cursors, [null, '1'])
})

test('host and version show the daemon', async t => {
  const host = {
    id: 'host_1',
    hostname: 'box',
    version: '0.1.0',
    status: 'ready',
    startedAt: new Date().toISOString(),
    pid: 7,
    kernel: '6.18',
    node: 'v24.21.0',
    cgroupVersion: 1,
    runtimes: [{ name: 'runsc', path: '/usr/bin/runsc', version: '20240729', platform: 'systrap', isDefault: true }],
    capacity: { cpuMillis: 2000, memoryBytes: 8 * 1024 ** 3, diskBytes: 1024 ** 4 },
    usage: {
      sandboxes: { running: 2, stopped: 0 },
      requestedCpuMillis: 500,
      requestedMemoryBytes: 1024 ** 3,
      memoryBytes: 1024 ** 3,
      diskBytes: 1024,
      loadAverage: [0.5, 1, 2],
    },
  }
  const fake = await startFakeDaemon(t, { 'GET /v1/host': () => host })
  const { stdout } = await run(fake, ['host'])
  assert.match(stdout, /^Sandboxes: +2 running$/m)
  assert.match(stdout, /^Memory: +8 GiB, 1 GiB promised, 1 GiB in use$/m)
  assert.match(stdout, /^runsc +20240729 +systrap +\/usr\/bin\/runsc +default$/m)
  assert.deepEqual(JSON.parse((await run(fake, ['host', '--json'])).stdout), host)
  assert.match((await run(fake, ['version'])).stdout, /^Client: berth 0\.1\.0 .*\nServer: berth 0\.1\.0 .*\n {2}runsc 20240729 \(default\)\n$/)
})
