import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { NetworkDecision } from '../../../src/schemas/network.ts'
import { id, otherId, refuse, run, sandbox, start, startFakeDaemon, task, taskId } from './fake-daemon.ts'

const create = 'POST /v1/sandboxes'
const at = '2026-03-01T09:30:00.000Z'
const network = { ipv4: '10.200.16.7', ipv6: 'fd00:a1b2::1007', egress: 'none', publish: [], gateway: false }

const decision = (seq: number, other: Partial<NetworkDecision> = {}): NetworkDecision => ({ seq, at, sandboxId: id, kind: 'packet', action: 'denied', reason: 'no_rule', count: 1, ...other })
const lines = (...list: object[]) => list.map(one => JSON.stringify(one) + '\n').join('')

/** What `berth create` asks for with these flags, or what it says when it does not ask. */
async function asked (t: TestContext, flags: string[]): Promise<unknown> {
  const fake = await startFakeDaemon(t, { [create]: () => sandbox() })
  const ran = await run(fake, ['create', ...flags, 'berth/base'])
  return ran.exitCode === 0 ? fake.callsTo(create)[0]!.body.network : `${ran.exitCode} ${ran.stderr}`
}

for (const [flags, wanted] of [
  ['', undefined],
  ['--egress none', { egress: 'none' }],
  ['--egress internet', { egress: 'internet' }],
  ['--allow api.example.com --allow *.example.com:22', { egress: { allow: ['api.example.com', '*.example.com:22'] } }],
  ['--allow internet --deny 203.0.113.0/24', { egress: { allow: ['internet'], deny: ['203.0.113.0/24'] } }],
  ['--egress internet --allow 10.1.2.3:5432', { egress: { allow: ['internet', '10.1.2.3:5432'] } }],
  ['--egress internet --allow internet', { egress: { allow: ['internet'] } }],
  ['--egress internet --deny evil.example.com', { egress: { allow: ['internet'], deny: ['evil.example.com'] } }],
  ['-p 8080 --publish 80:8080 -p 5353:53/udp', { publish: [{ port: 8080 }, { port: 8080, hostPort: 80 }, { port: 53, hostPort: 5353, protocol: 'udp' }] }],
  ['--upload 10mbit --download 1.5gbit', { bandwidth: { uploadBitsPerSecond: 10_000_000, downloadBitsPerSecond: 1_500_000_000 } }],
  ['--download 500K', { bandwidth: { downloadBitsPerSecond: 500_000 } }],
  ['--gateway', { gateway: true }],
] as const) {
  test(`the flags ${flags || '(none)'} ask for ${JSON.stringify(wanted)}`, async t => {
    assert.deepEqual(await asked(t, flags.split(' ').filter(Boolean)), wanted)
  })
}

for (const [flags, says] of [
  ['--egress all', /choices are none, internet/i],
  ['--egress none --allow a.example.com', /--egress none: nothing can be reached, so --allow makes no sense/],
  ['--deny a.example.com', /--deny: takes away from what is allowed; say that too, with --allow ENTRY or --egress internet/],
  ['-p 0', /'0' is not a port to publish; write it like 8080, 80:8080/],
  ['-p 80:70000', /not a port to publish/],
  ['-p web', /not a port to publish/],
  ['-p 80/sctp', /not a port to publish/],
  ['-p 127.0.0.1:80:8080', /the address is a setting of the daemon, BERTH_PUBLISH_ADDRESS/],
  ['--upload 10mbps', /--upload: '10mbps' is not a rate in bits a second; write it like 10mbit/],
  ['--download fast', /--download: 'fast' is not a rate/],
] as const) {
  test(`the flags ${flags} are refused with advice`, async t => {
    assert.match(String(await asked(t, flags.split(' '))), says)
  })
}

test('task run takes the same flags', async t => {
  const fake = await startFakeDaemon(t, { 'POST /v1/tasks': () => task() })
  assert.equal((await run(fake, ['task', 'run', '-p', '80', '--egress', 'internet', 'berth/base', 'serve', '-p', '9'])).exitCode, 0)
  assert.deepEqual(fake.calls[0]!.body.network, { egress: 'internet', publish: [{ port: 80 }] })
  assert.deepEqual(fake.calls[0]!.body.entrypoint, ['serve', '-p', '9'])
})

test('a port that the host chose is told where something is told at all', async t => {
  const made = sandbox({ network: { egress: 'none', publish: [{ port: 80, hostPort: 33000, protocol: 'tcp' }], gateway: false } })
  const fake = await startFakeDaemon(t, {
    [create]: () => made,
    [`GET /v1/sandboxes/${id}`]: () => made,
    'POST /v1/tasks': () => task(),
    [`GET /v1/tasks/${taskId}/wait`]: () => task({ network: { publish: [{ port: 80 }] } }),
  })
  for (const command of [['run', '-d'], ['create']]) {
    assert.match((await run(fake, [...command, '-p', '80', '--progress=plain', 'berth/base', 'x'])).stderr, /^published: host port 33000 → 80\/tcp$/m)
    assert.equal((await run(fake, [...command, '-p', '80', '-q', 'berth/base', 'x'])).stderr, '')
  }
})

test('a network is shown in words, or as JSON', async t => {
  const shown = {
    ...network,
    egress: { allow: ['api.example.com', '\u001b[31m*.example.com'], deny: ['x.example.com'] },
    publish: [{ port: 80, hostPort: 8080, protocol: 'tcp' }],
    bandwidth: { uploadBitsPerSecond: 10_000_000, downloadBitsPerSecond: 1_500_000_000 },
    traffic: { receivedBytes: 1536, sentBytes: 10 },
  }
  const fake = await startFakeDaemon(t, { [`GET /v1/sandboxes/${id}/network`]: () => shown, 'GET /v1/sandboxes': () => ({ items: [sandbox()] }), 'GET /v1/tasks': () => ({ items: [] }) })
  assert.equal((await run(fake, ['network', '4k2m9'])).stdout, [
    'addresses   10.200.16.7, fd00:a1b2::1007',
    'egress      what is allowed, and nothing else',
    'allow       api.example.com',
    'allow        [31m*.example.com',
    'deny        x.example.com',
    'published   host port 8080 → 80/tcp',
    'bandwidth   upload 10 Mbit/s, download 1.5 Gbit/s',
    'gateway     no',
    'traffic     1.5 KiB received, 10 B sent',
    '',
  ].join('\n'))
  assert.deepEqual(JSON.parse((await run(fake, ['network', id, '--json'])).stdout), shown)
})

test('a network that is closed and does not run says so', async t => {
  const fake = await startFakeDaemon(t, { [`GET /v1/sandboxes/${id}/network`]: () => ({ egress: 'none', publish: [], gateway: true }) })
  assert.equal((await run(fake, ['network', id])).stdout, [
    'addresses   none while it does not run', 'egress      none: nothing outside can be reached', 'gateway     the API of this host, as gateway.internal', '',
  ].join('\n'))
})

test('network set replaces the network, whole', async t => {
  const put = `PUT /v1/sandboxes/${id}/network`
  const fake = await startFakeDaemon(t, { [put]: call => ({ ...network, egress: call.body.egress }) })
  const ran = await run(fake, ['network', 'set', '--egress', 'internet', id])
  assert.deepEqual([ran.exitCode, fake.calls[0]!.body], [0, { egress: 'internet' }])
  assert.match(ran.stdout, /^egress +internet: every public address$/m)
  assert.deepEqual(JSON.parse((await run(fake, ['network', 'set', id, '--allow', 'a.example.com', '--json'])).stdout).egress, { allow: ['a.example.com'] })
  const nothing = await run(fake, ['network', 'set', id])
  assert.equal(nothing.exitCode, 125)
  assert.match(nothing.stderr, /^berth: network set: say what it shall be, like --egress none/)
  assert.equal(fake.calls.length, 2)
  fake.routes[put] = (_call, response) => refuse(response, 400, 'invalid_argument', 'invalid_egress', 'egress.allow[0]: no')
  assert.deepEqual(await run(fake, ['network', 'set', id, '--allow', 'x']), { exitCode: 125, stdout: '', stderr: 'berth: egress.allow[0]: no\n' })
})

test('decisions are shown from the first to the last page, and what is gone is noted', async t => {
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/network/decisions`]: call => call.query.get('cursor') === '5'
      ? { items: [decision(6, { address: 'fd00::1', port: 443, protocol: 'tcp', count: 12 })] }
      : { items: [decision(5, { kind: 'tls', action: 'allowed', reason: 'rule', name: 'a\u001b[2Jb.example.com', port: 443, address: '203.0.113.7', entry: '*.example.com' })], nextCursor: '5', gap: { type: 'gap', seq: 4, message: 'decisions up to 4 are gone' } },
  })
  const ran = await run(fake, ['network', 'decisions', '--denied', id])
  assert.equal(ran.stderr, 'berth: decisions up to 4 are gone\n')
  assert.deepEqual(ran.stdout.split('\n'), [
    'TIME                      ACTION   KIND    COUNT  REASON                WHAT',
    `${at}  allowed  tls     1      rule                  a [2Jb.example.com:443 at 203.0.113.7  (by *.example.com)`,
    `${at}  denied   packet  12     no_rule               [fd00::1]:443 tcp`,
    '',
  ])
  assert.deepEqual(fake.calls.map(call => call.query.get('action')), ['denied', 'denied'])
  const json = await run(fake, ['network', 'decisions', id, '--json', '--since', '3'])
  assert.deepEqual(json.stdout.trim().split('\n').map(text => JSON.parse(text).seq), [4, 5, 6])
  assert.deepEqual([fake.calls[2]!.query.get('cursor'), fake.calls[2]!.query.get('action')], ['3', null])
  assert.match((await run(fake, ['network', 'decisions', id, '--since', 'x'])).stderr, /--since: 'x' is not a whole number/)
})

test('decisions are followed over a restart of the daemon, each once', async t => {
  const rounds: Array<string | null> = []
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/network/decisions`]: (call, response) => {
      rounds.push(call.query.get('cursor'))
      if (rounds.length === 1) response.write(lines(decision(7), { type: 'gap', seq: 8, message: 'gone' }), () => { void fake.down().then(() => fake.up()) })
      else response.end(lines(decision(9)))
    },
    'GET /v1/host': () => {
      if (rounds.length === 2) running.signal('SIGINT')
      return {}
    },
  })
  const running = start(fake, ['network', 'decisions', '-f', '--json', id])
  const ran = await running.done
  assert.equal(ran.exitCode, 130)
  assert.deepEqual(ran.stdout.trim().split('\n').map(text => JSON.parse(text).seq), [7, 8, 9])
  assert.deepEqual(rounds, [null, '8'])
})

test('ports show what listens and where it is reached', async t => {
  const items = [
    { port: 80, protocol: 'tcp', address: '0.0.0.0', isLoopback: false, hostPort: 8080, path: `/v1/sandboxes/${id}/ports/80/` },
    { port: 5432, protocol: 'tcp', address: '127.0.0.1', isLoopback: true, hostPort: 5432, path: `/v1/sandboxes/${id}/ports/5432/` },
  ]
  const fake = await startFakeDaemon(t, {
    [`GET /v1/sandboxes/${id}/ports`]: () => ({ items }),
    [`GET /v1/sandboxes/${otherId}/ports`]: (_call, response) => refuse(response, 409, 'conflict', 'invalid_state', 'cannot exec in a sandbox that is stopped'),
  })
  assert.deepEqual((await run(fake, ['ports', id])).stdout.split('\n'), [
    'PORT       ADDRESS     HOST PORT   REACHED AT',
    `80/tcp     0.0.0.0     8080        /v1/sandboxes/${id}/ports/80/`,
    '5432/tcp   127.0.0.1   -           only inside: it listens on the loopback',
    '',
  ])
  assert.deepEqual(JSON.parse((await run(fake, ['ports', '--json', id])).stdout), items)
  assert.equal((await run(fake, ['ports', otherId])).exitCode, 125)
})
