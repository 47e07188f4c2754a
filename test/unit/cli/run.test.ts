import assert from 'node:assert/strict'
import { test } from 'node:test'
import { closingPipe, ended, id, line, refuse, run, sandbox, start, startFakeDaemon } from './fake-daemon.ts'

const logs = `GET /v1/sandboxes/${id}/logs`
const get = `GET /v1/sandboxes/${id}`

test('run prints both streams apart and ends with the exit code of the command', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'out') + line(2, 'err', { stream: 'stderr' }) + line(3, 'no end', { partial: true })) },
    [get]: () => ended(7),
  })
  const ran = await run(fake, ['run', '-e', 'A=1', '-l', 'team=blue', '-m', '512m', '--cpus', '0.5', '--timeout', '30s', 'berth/base', 'sh', '-c', 'exit 7'])
  assert.deepEqual(ran, { exitCode: 7, stdout: 'out\nno end', stderr: 'err\n' })
  assert.deepEqual(fake.callsTo('POST /v1/sandboxes')[0]?.body, {
    image: 'berth/base',
    entrypoint: ['sh', '-c', 'exit 7'],
    env: { A: '1' },
    resources: { cpuMillis: 500, memoryBytes: 512 * 1024 ** 2 },
    labels: { team: 'blue' },
    timeoutMs: 30_000,
  })
  assert.equal(fake.callsTo('DELETE /v1/sandboxes/' + id).length, 0)
})

test('run --rm deletes the sandbox after its end', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (_call, response) => { response.end() },
    [get]: () => ended(0),
    [`DELETE /v1/sandboxes/${id}`]: (_call, response) => { response.writeHead(204).end() },
  })
  assert.deepEqual(await run(fake, ['run', '--rm', 'berth/base', 'true']), { exitCode: 0, stdout: '', stderr: '' })
  assert.equal(fake.callsTo('DELETE /v1/sandboxes/' + id).length, 1)
})

test('run prints the id of a sandbox that idles', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/sandboxes': () => sandbox({ entrypoint: undefined }) })
  assert.deepEqual(await run(fake, ['run', 'berth/base']), { exitCode: 0, stdout: `${id}\n`, stderr: '' })
})

test('run without a command follows the program of the image', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox({ entrypoint: ['greet'] }),
    [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'hello')) },
    [get]: () => sandbox({ status: 'stopped', end: { reason: 'exited', exitCode: 4, at: new Date().toISOString() } }),
  })
  const ran = await run(fake, ['run', 'oci:/images/greeter'])
  assert.deepEqual([ran.stdout, ran.exitCode], ['hello\n', 4])
})

test('run --rm of a sandbox that idles removes it and says why', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox({ entrypoint: undefined }),
    [`DELETE /v1/sandboxes/${id}`]: (_call, response) => { response.writeHead(204).end() },
  })
  const ran = await run(fake, ['run', '--rm', 'berth/base'])
  assert.equal(ran.exitCode, 125)
  assert.match(ran.stderr, /neither you nor the image named one/)
  assert.equal(fake.callsTo(`DELETE /v1/sandboxes/${id}`).length, 1)
})

test('flags behind the image belong to the command', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/sandboxes': () => sandbox({ status: 'created' }) })
  await run(fake, ['create', 'berth/base', 'ls', '-d', '--json', '--', '-x'])
  assert.deepEqual(fake.callsTo('POST /v1/sandboxes')[0]?.body.entrypoint, ['ls', '-d', '--json', '--', '-x'])
})

test('create does not start the sandbox', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/sandboxes': () => sandbox({ status: 'created' }) })
  assert.equal((await run(fake, ['create', 'berth/base'])).stdout, `${id}\n`)
  assert.equal(fake.calls[0]?.body.start, false)
})

test('run says why a sandbox ended that did not end by itself', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (_call, response) => { response.end() },
    [get]: () => sandbox({ status: 'stopped', end: { reason: 'out_of_memory', at: new Date().toISOString(), peakMemoryBytes: 64 * 1024 ** 2 } }),
  })
  const ran = await run(fake, ['run', 'berth/base', 'hog'])
  assert.equal(ran.exitCode, 137)
  assert.equal(ran.stderr, 'berth: the sandbox ran out of memory (its limit is 2 GiB; with the runtime\'s own share it reached 64 MiB); give it more with: -m\n')
})

test('run reads on behind the last record when the stream breaks, and once more when the end was missed', async t => {
  const rounds: Array<string | null> = []
  let isOver = false
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (call, response) => {
      rounds.push(`${call.query.get('cursor')} ${call.query.get('follow')}`)
      if (rounds.length === 1) return void response.write(line(1, 'one') + '{"type":"line","cur', () => response.destroy())
      if (rounds.length === 2) {
        isOver = true
        return void response.end(line(2, 'two'))
      }
      response.end(line(3, 'three'))
    },
    [get]: () => isOver ? ended(0) : sandbox(),
  })
  assert.deepEqual(await run(fake, ['run', 'berth/base', 'count']), { exitCode: 0, stdout: 'one\ntwo\nthree\n', stderr: '' })
  assert.deepEqual(rounds, ['null true', '0:1 true', '0:2 null'])
})

test('run survives a daemon that goes away and comes back', async t => {
  let isBack = false
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (_call, response) => {
      if (isBack) return void response.end(line(2, 'after'))
      isBack = true
      response.write(line(1, 'before'), () => { void fake.down().then(() => fake.up()) })
    },
    [get]: () => ended(3),
  })
  const ran = await run(fake, ['run', 'berth/base', 'count'])
  assert.equal(ran.stdout, 'before\nafter\n')
  assert.equal(ran.exitCode, 3)
})

test('a create whose answer was lost is repeated with the same key', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': (_call, response) => {
      switch (fake.calls.length) {
        case 1: return void response.destroy()
        case 2: return void fake.down().then(() => fake.up())
        case 3: return void response.writeHead(200, { 'content-length': 1000 }).write('{"id"', () => response.destroy())
        case 4: return refuse(response, 409, 'conflict', 'idempotency_key_in_use', 'still under way')
        default: return sandbox()
      }
    },
  })
  assert.equal((await run(fake, ['create', 'berth/base'])).stdout, `${id}\n`)
  const keys = fake.calls.map(call => call.headers['idempotency-key'])
  assert.equal(keys.length, 5)
  assert.equal(new Set(keys).size, 1)
  assert.match(String(keys[0]), /^[0-9a-f-]{36}$/)
})

test('the first Ctrl-C stops the sandbox gracefully, the second by force, and its exit code is still taken home', async t => {
  const stops: unknown[] = []
  const following = Promise.withResolvers<{ end: () => void }>()
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (call, response) => {
      if (call.query.has('cursor')) return void response.end()
      response.write(line(1, 'ready'))
      following.resolve(response)
    },
    [`POST /v1/sandboxes/${id}/stop`]: async call => {
      stops.push(call.body)
      if (stops.length === 1) running.signal('SIGINT')
      else (await following.promise).end()
      return sandbox()
    },
    [get]: () => ended(137, { reason: 'requested' }),
  })
  const running = start(fake, ['run', 'berth/base', 'sleep', '9'])
  await following.promise
  running.signal('SIGINT')
  assert.deepEqual(await running.done, { exitCode: 137, stdout: 'ready\n', stderr: '' })
  assert.deepEqual(stops, [undefined, { force: true }])
})

test('Ctrl-C while the sandbox is being created stops it as soon as it is there', async t => {
  const stopped = Promise.withResolvers<void>()
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => {
      running.signal('SIGINT')
      return sandbox()
    },
    [logs]: async (_call, response) => {
      await stopped.promise
      response.end()
    },
    [`POST /v1/sandboxes/${id}/stop`]: () => {
      stopped.resolve()
      return sandbox()
    },
    [get]: () => ended(143, { reason: 'requested' }),
  })
  const running = start(fake, ['run', 'berth/base', 'sleep', '9'])
  assert.equal((await running.done).exitCode, 143)
})

test('run --rm into a closed pipe ends quietly and leaves no sandbox', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (_call, response) => { response.write(line(1, 'a'.repeat(100)) + line(2, 'b') + line(3, 'c')) },
    [`DELETE /v1/sandboxes/${id}`]: (_call, response) => { response.writeHead(204).end() },
  })
  const ran = await run(fake, ['run', '--rm', 'berth/base', 'yes'], { stdout: closingPipe(50) })
  assert.equal(ran.exitCode, 141)
  assert.equal(ran.stderr, '')
  assert.equal(fake.callsTo('DELETE /v1/sandboxes/' + id)[0]?.query.get('force'), 'true')
})

test('run --json prints the records and then the end', async t => {
  const fake = await startFakeDaemon(t, {
    'POST /v1/sandboxes': () => sandbox(),
    [logs]: (call, response) => { response.end(call.query.has('cursor') ? '' : line(1, 'out')) },
    [get]: () => ended(4),
  })
  const ran = await run(fake, ['run', '--json', 'berth/base', 'x'])
  const records = ran.stdout.trimEnd().split('\n').map(text => JSON.parse(text))
  assert.deepEqual(records.map(({ type }) => type), ['line', 'exit'])
  assert.equal(records[1].exitCode, 4)
  assert.equal(ran.exitCode, 4)
})

test('what run cannot do is said before anything is created', async t => {
  const fake = await startFakeDaemon(t, {})
  for (const [argv, message] of [
    [['-t', 'i', 'sh'], /standard input is not a terminal/],
    [['-i', 'i', 'sh'], /berth exec -i/],
    [['-d', '--timeout', 'soon', 'i', 'sh'], /--timeout/],
    [['--memory', 'lots', 'i', 'sh'], /--memory: 'lots' is not a size/],
    [['--timeout', 'soon', 'i', 'sh'], /--timeout: 'soon' is not a duration/],
    [['--cpus', 'x', 'i', 'sh'], /--cpus/],
    [['--env-file', '/no/such/file', 'i', 'sh'], /--env-file: cannot read .* \(ENOENT\)/],
    [['-e', '=x', 'i', 'sh'], /-e: '=x' has no name/],
    [[], /missing required argument 'IMAGE'\nSee: berth run --help/],
  ] as Array<[string[], RegExp]>) {
    const ran = await run(fake, ['run', ...argv])
    assert.equal(ran.exitCode, 125)
    assert.match(ran.stderr, message)
  }
  assert.equal(fake.calls.length, 0)
})

test('an error of the daemon is shown and ends with 125', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/sandboxes': (_call, response) => refuse(response, 404, 'not_found', 'image_not_found', 'no image nope; use berth/base') })
  assert.deepEqual(await run(fake, ['run', 'nope', 'true']), { exitCode: 125, stdout: '', stderr: 'berth: no image nope; use berth/base\n' })
})
