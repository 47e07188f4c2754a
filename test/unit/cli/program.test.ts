import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { test } from 'node:test'
import type { Command } from 'commander'
import { buildProgram } from '../../../src/cli/program.ts'
import { describeSize, describeSpan, parseDuration, parseSize } from '../../../src/cli/units.ts'
import { closingPipe, id, refuse, run, sandbox, start, startFakeDaemon } from './fake-daemon.ts'

test('serve, gateway and doctor get what was typed, and nothing else', async () => {
  const seen: unknown[] = []
  const keep = async (options: object) => seen.push(options)
  const other = { serve: keep, gateway: keep, doctor: keep }
  assert.equal((await run(undefined, ['serve'], other)).exitCode, 1)
  await run(undefined, ['serve', '--state-dir', '/s', '--run-dir', '/r', '--listen', '127.0.0.1:0', '--socket', '/x', '--stop-sandboxes', '--reclaim-and-exit'], other)
  await run(undefined, ['gateway', '--redis', 'redis://r', '--listen', 'a:1', '--grpc', 'a:2', '--token-file', '/t'], other)
  await run(undefined, ['doctor', '--json', '--no-self-test'], other)
  const gateway = { redis: 'redis://r', listen: 'a:1', grpc: 'a:2', tokenFile: '/t' }
  assert.deepEqual(seen, [{}, { stateDir: '/s', runDir: '/r', listen: '127.0.0.1:0', socket: '/x', stopSandboxes: true, reclaimAndExit: true }, gateway, { selfTest: false, json: true }])
})

test('usage errors say what is wrong, where help is, and end with 125', async () => {
  for (const [argv, message] of [
    [['bogus'], /^berth: unknown command 'bogus'.*\nSee: berth help\n$/],
    [['ps', '--bogus'], /^berth: unknown option '--bogus'\nSee: berth ps --help\n$/],
    [['rm'], /^berth: missing required argument 'ID'\nSee: berth rm --help\n$/],
    [['stop', '-t', 'x', id], /--time: 'x' is not a duration/],
  ] as Array<[string[], RegExp]>) {
    const ran = await run(undefined, argv)
    assert.match(ran.stderr, message)
    assert.deepEqual([ran.exitCode, ran.stdout], [125, ''])
  }
})

test('help is no error', async () => {
  for (const argv of [[], ['help'], ['--help'], ['run', '--help'], ['help', 'run']]) {
    const ran = await run(undefined, argv)
    assert.deepEqual([ran.exitCode, ran.stderr], [0, ''])
    assert.match(ran.stdout, /^Usage: berth/)
  }
  assert.equal((await run(undefined, ['--version'])).stdout, '0.1.0\n')
})

test('every command that prints takes --json', () => {
  const program = buildProgram(start(undefined, []).context)
  const leaves = (command: Command): Command[] => command.commands.length === 0 ? [command] : command.commands.flatMap(leaves)
  // What these print is somebody else's: the daemon's log, a screen, a file.
  for (const command of leaves(program).filter(one => !['serve', 'gateway', 'attach', 'cat'].includes(one.name()))) {
    assert.ok(command.options.some(option => option.long === '--json'), command.name())
  }
})

test('without a daemon each command says how to start it', async () => {
  const env = { BERTH_SOCKET: '/no/such/socket' }
  for (const argv of [['ps'], ['run', 'berth/base', 'true'], ['exec', id, 'x'], ['logs', '-f', id], ['wait', id], ['events', '-f'], ['host']]) {
    const ran = await run(undefined, argv, { env })
    assert.equal(ran.exitCode, 125, argv[0])
    assert.equal(ran.stderr, 'berth: no daemon answers on /no/such/socket; start it with: berth serve (or point BERTH_SOCKET or BERTH_URL to one that runs)\n')
  }
  const version = await run(undefined, ['version', '--json'], { env })
  assert.equal(version.exitCode, 0)
  assert.equal(JSON.parse(version.stdout).server, null)
})

test('BERTH_URL wins over the socket and brings the token', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/sandboxes': () => ({ items: [sandbox()] }) }, { tcp: true })
  for (const BERTH_URL of [fake.url, `${fake.url}/`, `${fake.url}/v1`]) {
    assert.equal((await run(fake, ['ps', '-q'], { env: { BERTH_URL, BERTH_TOKEN: 'secret', BERTH_SOCKET: '/no/such' } })).stdout, `${id}\n`)
  }
  assert.equal(fake.calls[0]?.headers.authorization, 'Bearer secret')
  assert.match((await run(fake, ['ps'], { env: { BERTH_URL: 'nonsense' } })).stderr, /BERTH_URL: 'nonsense' is not an address/)
})

test('a refused token is followed by where the right one is; the token itself is not shown', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/sandboxes': (_call, response) => refuse(response, 401, 'unauthenticated', 'unauthenticated', 'a token is needed') }, { tcp: true })
  assert.match((await run(fake, ['ps'])).stderr, /^berth: a token is needed\nSet BERTH_TOKEN: .*admin\.token/)
  const wrong = await run(fake, ['ps'], { env: { BERTH_URL: fake.url, BERTH_TOKEN: 'hunter2' } })
  assert.match(wrong.stderr, /admin\.token/)
  assert.doesNotMatch(wrong.stderr, /hunter2/)
})

test('a peer that is no berth daemon is named as such', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/sandboxes': (_call, response) => void response.writeHead(502).end('<html>') }, { tcp: true })
  assert.match((await run(fake, ['ps'])).stderr, /answered with HTTP 502 and no error of berth's/)
  fake.routes['GET /v1/sandboxes'] = (_call, response) => void response.end('<html>')
  assert.match((await run(fake, ['ps'])).stderr, /the answer is not JSON/)
})

test('a peer that speaks no HTTP fails at once', async t => {
  const server = createServer(socket => socket.end('220 mail\r\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const ran = await run(undefined, ['ps'], { env: { BERTH_URL: `http://127.0.0.1:${(server.address() as AddressInfo).port}` } })
  assert.deepEqual([ran.exitCode, ran.stdout], [125, ''])
  assert.match(ran.stderr, /^berth: the connection to the daemon at .* broke/)
})

test('an internal error names the request', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/host': (_call, response) => refuse(response, 500, 'internal', 'internal', 'something went wrong') })
  assert.equal((await run(fake, ['host'])).stderr, 'berth: something went wrong (request req-7)\n')
})

test('a full disk behind standard output is an error, a closed pipe is not worth a word', async t => {
  const fake = await startFakeDaemon(t, { 'GET /v1/sandboxes': () => ({ items: [sandbox()] }) })
  const full = new Writable({ write: (_chunk, _encoding, done) => done(Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })) })
  assert.deepEqual(await run(fake, ['ps'], { stdout: full }), { exitCode: 125, stdout: '', stderr: 'berth: ENOSPC: no space left on device, write\n' })
  assert.deepEqual(await run(fake, ['ps'], { stdout: closingPipe(1) }), { exitCode: 141, stdout: '', stderr: '' })
})

test('a slow reader holds the stream back', async t => {
  const total = 20_000
  let sent = 0
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/logs`]: async (_call, response) => {
      const text = JSON.stringify({ type: 'line', cursor: '0:1', at: '', stream: 'stdout', text: 'x'.repeat(1000), partial: false }) + '\n'
      for (; sent < total; sent++) if (!response.write(text)) await new Promise(resolve => response.once('drain', resolve))
      response.end()
    },
  })
  const [blocked, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  let taken = 0
  const slow = new Writable({
    highWaterMark: 1,
    write (chunk, _encoding, done) {
      if (chunk.length > 0) taken++
      if (taken !== 10) return done()
      blocked.resolve()
      void released.promise.then(() => done())
    },
  })
  const running = start(fake, ['logs', id], { stdout: slow })
  await blocked.promise
  for (let before = -1; before !== sent;) {
    before = sent
    await new Promise(resolve => setTimeout(resolve, 50)) // Until the sender, too, is stuck.
  }
  assert.ok(sent < total / 2, `${sent} of ${total} records were sent to a reader that took ten`)
  released.resolve()
  assert.equal((await running.done).exitCode, 0)
  assert.equal(taken, total)
})

test('durations and sizes are read and written as people do', () => {
  for (const [text, ms] of [['30s', 30_000], ['5m', 300_000], ['1h30m', 5_400_000], ['500ms', 500], ['1.5s', 1500], ['10', 10_000], ['2d', 172_800_000]] as Array<[string, number]>) assert.equal(parseDuration(text, '-t'), ms)
  for (const text of ['', 's', '5x', '-1s', '1s2', 'NaN']) assert.throws(() => parseDuration(text, '-t'), /is not a duration/)
  for (const [text, bytes] of [['512m', 2 ** 29], ['1g', 2 ** 30], ['1.5GiB', 1.5 * 2 ** 30], ['100', 100], ['64MB', 2 ** 26], ['1k', 1024]] as Array<[string, number]>) assert.equal(parseSize(text, '-m'), bytes)
  for (const text of ['', 'm', '1x', '-1m']) assert.throws(() => parseSize(text, '-m'), /is not a size/)
  assert.deepEqual([0, 1000, 59_000, 60_000, 7_200_000, 86_400_000 * 3].map(describeSpan), ['less than a second', '1 second', '59 seconds', '1 minute', '2 hours', '3 days'])
  assert.deepEqual([0, 1024, 1536, 2 ** 30].map(describeSize), ['0 B', '1 KiB', '1.5 KiB', '1 GiB'])
})
