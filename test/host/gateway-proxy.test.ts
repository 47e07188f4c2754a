/** A host and its sandboxes by way of a gateway: everything as if there were none between. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { test } from 'node:test'
import { pino } from 'pino'
import { fetch } from 'undici'
import { WebSocket } from 'ws'
import { RedisPlacementKeys } from '../../src/gateway/sandboxes/placement-keys.ts'
import { RedisSandboxIndex } from '../../src/gateway/sandboxes/sandbox-index.ts'
import { randomId } from '../../src/lib/id.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import type { ExecResult } from '../../src/schemas/exec.ts'
import type { FleetSandboxPage } from '../../src/schemas/fleet-sandbox.ts'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { Terminal } from '../../src/schemas/terminal.ts'
import type { Ticket } from '../../src/schemas/ticket.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import { startJoinedHost } from '../support/joined-host.ts'
import { RedisServer } from '../support/redis-server.ts'

const MiB = 1024 ** 2

test('a sandbox is made, used and deleted by way of a gateway', async t => {
  const { gateway, daemon, workerId } = await startJoinedHost(t)
  const create = { image: 'berth/base', labels: { of: 'me' }, resources: { cpuMillis: 500, memoryBytes: 256 * MiB } }
  const client = { authorization: `Bearer ${await gateway.makeToken('client')}` }
  const made = await gateway.request<Sandbox>('POST', '/v1/sandboxes', create, { ...client, 'idempotency-key': 'first' })
  assert.deepEqual([made.status, made.headers.get('x-berth-worker')], [201, workerId], made.text)
  const { id } = made.body
  const path = `/v1/sandboxes/${id}`
  assert.equal((await daemon.sandbox(id)).labels['of'], 'me')

  await t.test('the same request again is the same sandbox, also for another gateway process', async () => {
    await gateway.restart()
    await gateway.ready()
    const again = await gateway.request<Sandbox>('POST', '/v1/sandboxes', create, { ...client, 'idempotency-key': 'first' })
    assert.deepEqual([again.status, again.body.id], [201, id], again.text)
    const { items, unreachable } = (await gateway.request<FleetSandboxPage>('GET', '/v1/sandboxes', undefined, client)).body
    assert.deepEqual([items.map(item => item.id), unreachable], [[id], []])
  })

  await t.test('execs answer in one piece and as events', async () => {
    const plain = await gateway.request<ExecResult>('POST', `${path}/execs`, { argv: ['sh', '-c', 'echo out; echo err >&2; exit 3'] }, client)
    assert.deepEqual([plain.body.exitCode, plain.body.stdout, plain.body.stderr], [3, 'out\n', 'err\n'], plain.text)
    const stream = await fetch(`${gateway.url}${path}/execs`, {
      method: 'POST',
      headers: { ...client, 'content-type': 'application/json', accept: 'text/event-stream' },
      body: JSON.stringify({ argv: ['sh', '-c', 'echo first; sleep 60'] }),
    })
    assert.equal(stream.status, 200)
    let text = ''
    // It comes while the program runs.
    for await (const chunk of stream.body!) {
      text += Buffer.from(chunk as Uint8Array).toString()
      if (text.includes('first')) break
    }
    assert.match(text, /first/)
  })

  await t.test('a file of 64 MiB is the same on the way in and out', async () => {
    const content = randomBytes(64 * MiB)
    const up = await fetch(`${gateway.url}${path}/files?path=/workspace/big`, { method: 'PUT', headers: client, body: content })
    assert.ok(up.ok, await up.text())
    const hash = createHash('sha256')
    for await (const chunk of (await fetch(`${gateway.url}/v1/workers/${workerId}/api${path}/files?path=/workspace/big`, { headers: client })).body!) hash.update(chunk as Uint8Array)
    assert.equal(hash.digest('hex'), createHash('sha256').update(content).digest('hex'))
  })

  await t.test('events of the host are followed', async () => {
    const events = await fetch(`${gateway.url}/v1/workers/${workerId}/api/v1/events?follow=true`, { headers: { ...client, accept: 'text/event-stream' } })
    assert.equal(events.status, 200)
    let text = ''
    const reading = (async () => {
      for await (const chunk of events.body!) {
        text += Buffer.from(chunk as Uint8Array).toString()
        if (text.includes('"to":"paused"')) return
      }
    })()
    await gateway.request('POST', `${path}/pause`, undefined, client)
    await gateway.request('POST', `${path}/resume`, undefined, client)
    await reading
    assert.match(text, /"to":"paused"/)
  })

  await t.test('a terminal is attached with a token, with a ticket of its host, and with neither not at all', async () => {
    const terminal = (await gateway.request<Terminal>('POST', `${path}/terminals`, {}, client)).body
    const attach = `${path}/terminals/${terminal.id}/attach`
    const ticket = (await gateway.request<Ticket>('POST', '/v1/tickets', { scope: 'terminal', sandboxId: id, terminalId: terminal.id, role: 'write' }, client)).body
    const base = gateway.url.replace(/^http/, 'ws')
    const token = client.authorization.slice('Bearer '.length)
    const sockets: [string, string[]][] = [[`${base}${ticket.path}`, []], [`${base}/v1/workers/${workerId}/api${attach}`, ['berth.v1', `bearer.${token}`]]]
    for (const [index, [address, protocols]] of sockets.entries()) {
      const socket = new WebSocket(address, protocols)
      let output = ''
      socket.on('message', (data, isBinary) => { if (isBinary) output += String(data) })
      await once(socket, 'open')
      socket.send(Buffer.from(`echo $((${index} + 41))-typed\n`))
      assert.ok(await pollUntil(async () => output.includes(`${index + 41}-typed`), 15_000), output)
      socket.close()
      await once(socket, 'close')
    }
    const spent = new WebSocket(`${base}${ticket.path}`)
    spent.on('error', () => {})
    const [, refused] = await once(spent, 'unexpected-response') as [unknown, { statusCode: number }]
    assert.equal(refused.statusCode, 401)
  })

  await t.test('a host that is away is named, and its sandbox found when it is back', async () => {
    await daemon.end('SIGKILL')
    const away = await gateway.request('GET', path, undefined, client)
    assert.deepEqual([away.status, (away.body as { code?: string }).code], [503, 'worker_unreachable'])
    assert.deepEqual((await gateway.request<FleetSandboxPage>('GET', '/v1/sandboxes', undefined, client)).body, { items: [], unreachable: [workerId] })
    await daemon.start()
    assert.ok(await pollUntil(async () => (await gateway.request('GET', path, undefined, client)).status === 200, 60_000))
  })

  assert.equal((await gateway.request('DELETE', `${path}?force=true`, undefined, client)).status, 204)
  assert.ok(await pollUntil(async () => (await gateway.request<FleetSandboxPage>('GET', '/v1/sandboxes', undefined, client)).body.items.length === 0, 5000))
  assert.equal((await gateway.request('GET', path, undefined, client)).status, 404)
})

test('where sandboxes lie is found again in Redis, newest first, page by page and pool by pool', async t => {
  const server = await RedisServer.start(t)
  const redis = await openRedis({ url: server.url, prefix: 'berth-test', passwordFile: '', caFile: '', certFile: '', keyFile: '' }, { logger: pino({ level: 'silent' }) })
  t.after(() => redis.close())
  const index = new RedisSandboxIndex(redis)
  const placed = Array.from({ length: 25 }, (_, number) => ({
    id: randomId('sbx'),
    workerId: 'w1',
    pool: number % 2 === 0 ? 'even' : 'odd',
    labels: { n: String(number) },
    // Several in the same millisecond.
    createdAt: new Date(1_780_000_000_000 + Math.floor(number / 4)).toISOString(),
  }))
  for (const sandbox of placed) await index.put(sandbox)
  const newestFirst = [...placed].sort((a, b) => a.createdAt === b.createdAt ? (a.id < b.id ? 1 : -1) : a.createdAt < b.createdAt ? 1 : -1)
  const all = async (pools?: string[]) => {
    const ids: string[] = []
    let cursor: string | undefined
    do {
      const page = await index.page({ limit: 4, pools, cursor })
      ids.push(...page.items.map(({ id }) => id))
      cursor = page.nextCursor
    } while (cursor !== undefined)
    return ids
  }
  assert.deepEqual(await all(), newestFirst.map(({ id }) => id))
  assert.deepEqual(await all(['odd']), newestFirst.filter(({ pool }) => pool === 'odd').map(({ id }) => id))
  assert.deepEqual(await all(['odd', 'even', 'none']), newestFirst.map(({ id }) => id))
  await assert.rejects(index.page({ limit: 4, cursor: 'nonsense' }), { code: 'invalid_cursor' })

  const [gone, fading] = newestFirst as [typeof placed[0], typeof placed[0]]
  assert.deepEqual(await index.find(gone.id), gone)
  await index.drop(gone.id)
  assert.equal(await index.find(gone.id), undefined)
  await index.fade(fading.id)
  const key = `berth-test:{berth}:sandbox:${fading.id}`
  assert.ok(await redis.client.ttl(key) > 0)
  await redis.client.del(key)
  assert.deepEqual(await all(), newestFirst.slice(2).map(({ id }) => id))
  assert.equal(await redis.client.zcard('berth-test:{berth}:sandboxes'), 23)
})

test('a key of a placement is held by one at a time, and remembered', async t => {
  const server = await RedisServer.start(t)
  const redis = await openRedis({ url: server.url, prefix: 'berth-test', passwordFile: '', caFile: '', certFile: '', keyFile: '' }, { logger: pino({ level: 'silent' }) })
  t.after(() => redis.close())
  const [one, two] = [new RedisPlacementKeys(redis), new RedisPlacementKeys(redis)]
  const release = await one.hold('k')
  await assert.rejects(two.hold('k'), { code: 'idempotency_in_progress' })
  await one.write('k', { workerId: 'w1', bodyHash: 'h' })
  await release()
  await (await two.hold('k'))()
  assert.deepEqual(await two.read('k'), { workerId: 'w1', bodyHash: 'h' })
  await two.forget('k')
  assert.equal(await one.read('k'), undefined)
})
