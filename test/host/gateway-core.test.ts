/** Gateways of one fleet over a real Redis: workers, tokens, addresses and limits are shared, and Redis may go away. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Worker } from '../../src/schemas/fleet.ts'
import type { FleetPoolList } from '../../src/schemas/fleet-gateway.ts'
import type { Task } from '../../src/schemas/task.ts'
import { GatewayClient, type Registration } from '../../src/worker/gateway-client.ts'
import { RedisServer } from '../support/redis-server.ts'
import type { Teardown } from '../support/test-daemon.ts'
import { TestGateway, type TestGatewayOptions } from '../support/test-gateway.ts'

const GiB = 1024 ** 3

/** Two gateways over one Redis, which share a token. */
async function fleet (t: Teardown, options: Partial<TestGatewayOptions> = {}) {
  const redis = await RedisServer.start(t)
  const dir = await mkdtemp(join(tmpdir(), 'berth-fleet-'))
  t.after(async () => await rm(dir, { recursive: true, force: true }))
  const tokenFile = join(dir, 'gateway.token')
  await writeFile(tokenFile, 'berth_0123456789012345678901234567890123456789', { mode: 0o600 })
  const start = async (): Promise<TestGateway> => await TestGateway.start(t, { redisUrl: redis.url, tokenFile, ...options })
  const [one, other] = await Promise.all([start(), start()])
  await Promise.all([one.ready(), other.ready()])
  return { redis, one, other }
}

/** A host's end of a gateway, with a token of its own. */
async function joinFleet (t: Teardown, gateway: TestGateway, hostId: string, pools?: string[]): Promise<GatewayClient> {
  const tokenFile = join(gateway.dir, `${hostId}.token`)
  await writeFile(tokenFile, await gateway.makeToken('worker', pools), { mode: 0o600 })
  const client = await GatewayClient.open({ target: gateway.grpcTarget, workerId: hostId, tokenFile })
  t.after(async () => client.close())
  return client
}

function registration (hostId: string, facts: Partial<Registration['facts']> = {}): Registration {
  const room = { cpuMillis: 8000, memoryBytes: 16 * GiB }
  return {
    hostId,
    status: 'available',
    apiToken: 'berth_of_the_host',
    facts: { hostname: hostId, pool: 'default', capacity: room, free: room, version: '1.0.0', labels: { zone: 'a' }, apiUrl: 'http://127.0.0.1:1', apiCa: '', sandboxes: 0, tasks: 0, ...facts },
  }
}

test('gateways of one fleet are one', { timeout: 120_000 }, async t => {
  const { redis, one, other } = await fleet(t, { env: { BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/28' } })

  await t.test('what a worker tells one gateway, all know', async () => {
    const client = await joinFleet(t, one, 'hst_one')
    assert.deepEqual(await client.register(registration('hst_one')), { workerId: 'hst_one', heartbeatMs: 10_000 })

    const { body: worker } = await other.request<Worker>('GET', '/v1/workers/hst_one')
    assert.equal(worker.status, 'available')
    assert.deepEqual(worker.labels, { zone: 'a' })
    assert.equal(worker.hasApi, true)
    assert.equal((await other.request('DELETE', '/v1/workers/hst_one')).status, 409, 'it is heard of')

    assert.equal((await other.request('POST', '/v1/workers/hst_one/drain')).status, 202)
    const news = { free: { cpuMillis: 500, memoryBytes: GiB }, sandboxes: 3, tasks: 2 }
    const drain = await client.heartbeat('hst_one', news)
    assert.equal(drain?.wish, 'drain')
    assert.deepEqual(await client.heartbeat('hst_one', news), drain)
    await client.updateStatus('hst_one', 'draining')
    assert.equal((await other.request('POST', '/v1/workers/hst_one/undrain')).status, 202)
    const undrain = await client.heartbeat('hst_one', news)
    assert.equal(undrain?.wish, 'undrain')
    assert.ok(undrain.number > drain.number)

    const { body: after } = await other.request<Worker>('GET', '/v1/workers/hst_one')
    assert.deepEqual({ status: after.status, free: after.free, sandboxes: after.sandboxes, tasks: after.tasks }, { status: 'draining', ...news })
    const { body: { items: pools } } = await other.request<FleetPoolList>('GET', '/v1/pools')
    assert.deepEqual(pools.map(({ pool, workers, capacity }) => ({ pool, workers, capacity })), [
      { pool: 'default', workers: { available: 0, draining: 1, lost: 0 }, capacity: { cpuMillis: 8000, memoryBytes: 16 * GiB } },
    ])
    assert.match((await other.request('GET', '/metrics')).text, /berth_fleet_workers\{pool="default",status="draining"\} 1/)

    // A worker that moves to another pool is in that one alone.
    await client.register(registration('hst_one', { pool: 'blue' }))
    assert.deepEqual((await other.request<{ items: Worker[] }>('GET', '/v1/workers')).body.items.map(({ id, pool }) => ({ id, pool })), [{ id: 'hst_one', pool: 'blue' }])

    await client.deregister('hst_one')
    assert.equal((await other.request('GET', '/v1/workers/hst_one')).status, 404)
    await assert.rejects(client.heartbeat('hst_one', news), { kind: 'unavailable' })
    const keys = await dump(redis)
    assert.ok(!keys.includes('berth_of_the_host'), 'no token lies in Redis as it is')
    assert.ok(!keys.includes(one.token))
  })

  await t.test('a token is good at every gateway, for its pools and what its scope allows, until it is revoked', async () => {
    const red = await joinFleet(t, one, 'hst_red')
    await red.register(registration('hst_red', { pool: 'red' }))
    const blue = await joinFleet(t, other, 'hst_blue', ['blue'])
    await blue.register(registration('hst_blue', { pool: 'blue' }))
    await assert.rejects(blue.register(registration('hst_red', { pool: 'blue' })), { kind: 'unavailable' })

    const made = await one.request<{ id: string, token: string }>('POST', '/v1/tokens', { name: 'app', scope: 'client', pools: ['blue'] })
    const asClient = { authorization: `Bearer ${made.body.token}` }
    const visible = await other.request<{ items: Worker[] }>('GET', '/v1/workers', undefined, asClient)
    assert.deepEqual(visible.body.items.map(({ id }) => id), ['hst_blue'])
    assert.equal((await other.request('GET', '/v1/workers/hst_red', undefined, asClient)).status, 404)
    assert.equal((await other.request('POST', '/v1/workers/hst_blue/drain', undefined, asClient)).status, 403)
    assert.equal((await other.request('GET', '/v1/tokens', undefined, asClient)).status, 403)
    const asReader = { authorization: `Bearer ${await other.makeToken('read')}` }
    assert.equal((await one.request('GET', '/v1/pools', undefined, asReader)).status, 200)
    assert.equal((await one.request('POST', '/v1/tasks', { image: 'berth/base' }, asReader)).status, 403)
    const asWorker = { authorization: `Bearer ${await other.makeToken('worker')}` }
    assert.equal((await one.request('GET', '/v1/workers', undefined, asWorker)).status, 403)

    const listed = await other.request<{ items: Array<{ id: string, token?: string }> }>('GET', '/v1/tokens')
    assert.ok(listed.body.items.some(({ id }) => id === made.body.id))
    assert.ok(listed.body.items.every(({ token }) => token === undefined))
    assert.equal((await one.request('DELETE', `/v1/tokens/${made.body.id}`)).status, 204)
    assert.equal((await one.request('GET', '/v1/workers', undefined, asClient)).status, 401)
    assert.ok(await pollUntil(async () => (await other.request('GET', '/v1/workers', undefined, asClient)).status === 401, 5000))
    assert.equal((await one.request('DELETE', `/v1/tokens/${made.body.id}`)).status, 404)
  })

  await t.test('a request that is sent twice happens once, whichever gateways it reaches', async () => {
    const headers = { 'idempotency-key': 'once' }
    const send = async (index: number, image = 'berth/base') => await [one, other][index]!.request<Task>('POST', '/v1/tasks', { image }, headers)
    const answers = [await send(0), await send(1), await send(0)]
    assert.deepEqual(answers.map(({ status }) => status), [201, 201, 201])
    assert.equal(new Set(answers.map(({ body }) => body.id)).size, 1)
    assert.equal(answers[1]!.headers.get('idempotency-replayed'), 'true')
    assert.equal((await send(1, 'other')).status, 409)
    assert.equal((await one.request<{ items: Task[] }>('GET', '/v1/tasks')).body.items.length, 1)
  })

  await t.test('no two sandboxes of a fleet have one address, and one that was given back is used last', async () => {
    const clients = [await joinFleet(t, one, 'hst_three'), await joinFleet(t, other, 'hst_two')] as const
    for (const [index, client] of clients.entries()) await client.register(registration(['hst_three', 'hst_two'][index]!))
    const lent = await Promise.all(Array.from({ length: 12 }, async (_, index) => await clients[index % 2]!.allocate(`sandbox-${index}`)))
    assert.equal(new Set(lent.map(({ ipv4 }) => ipv4)).size, 12)
    assert.ok(lent.every(({ gateway4, prefixLength }) => gateway4 === '10.64.0.1' && prefixLength === 28))
    assert.deepEqual(await clients[0].allocate('sandbox-0'), lent[0], 'the same sandbox, the same address')

    await assert.rejects(clients[0].release('sandbox-3'), { code: 'addresses_unavailable' })
    await clients[1].release('sandbox-3')
    await clients[1].release('sandbox-3')
    await clients[1].release('sandbox-5')
    const next = [await clients[0].allocate('a'), await clients[1].allocate('b'), await clients[0].allocate('c')].map(({ ipv4 }) => ipv4)
    assert.deepEqual(next, ['10.64.0.14', lent[3]!.ipv4, lent[5]!.ipv4], 'what nobody had yet, then what was given back longest ago')
    await assert.rejects(clients[0].allocate('d'), { code: 'addresses_exhausted' })
    const all = new Set([...lent.map(({ ipv4 }) => ipv4), ...next])
    for (const never of ['10.64.0.0', '10.64.0.1', '10.64.0.15']) assert.ok(!all.has(never))

    // What a host has that will not come back is free once it is forgotten.
    await clients[0].deregister('hst_three')
    assert.equal((await one.request('DELETE', '/v1/workers/hst_three')).status, 204)
    assert.equal((await one.request('DELETE', '/v1/workers/hst_three')).status, 404)
    assert.ok((await clients[1].allocate('e')).ipv4)
  })
})

test('a gateway without Redis starts, says so, knows the admin, and serves when Redis is there', { timeout: 120_000 }, async t => {
  const redis = await RedisServer.start(t)
  const gateway = await TestGateway.start(t, { redisUrl: redis.url })
  await gateway.ready()
  const asClient = { authorization: `Bearer ${await gateway.makeToken('client')}` }
  await redis.kill()
  await gateway.restart()
  assert.equal((await gateway.request('GET', '/healthz')).status, 200)
  assert.equal((await gateway.request('GET', '/readyz')).status, 503)
  const { status, body } = await gateway.request<{ isRedisConnected: boolean }>('GET', '/v1/gateway')
  assert.deepEqual({ status, isRedisConnected: body.isRedisConnected }, { status: 200, isRedisConnected: false })
  assert.equal((await gateway.request('GET', '/metrics')).status, 200)
  const refused = await gateway.request<{ code: string }>('GET', '/v1/gateway', undefined, asClient)
  assert.deepEqual({ status: refused.status, code: refused.body.code }, { status: 503, code: 'redis_unavailable' })

  await redis.run()
  await gateway.ready()
  assert.equal((await gateway.request('GET', '/v1/gateway', undefined, asClient)).status, 200)
  assert.equal(await gateway.end('SIGTERM'), 0)
  assert.equal(gateway.errors(), '')
})

test('a token that asks too often, and an address that is wrong too often, are told to wait', { timeout: 120_000 }, async t => {
  const { one, other } = await fleet(t, { env: { BERTH_GATEWAY_RATE_LIMIT: '20' } })
  const asClient = { authorization: `Bearer ${await one.makeToken('client')}` }
  const burst = async (count: number, headers: Record<string, string>) =>
    await Promise.all(Array.from({ length: count }, async (_, index) => await [one, other][index % 2]!.request<{ code: string }>('GET', '/v1/gateway', undefined, headers)))
  const limited: Array<Awaited<ReturnType<typeof burst>>[number]> = []
  assert.ok(await pollUntil(async () => {
    limited.push(...(await burst(60, asClient)).filter(({ status }) => status === 429))
    return limited.length > 0
  }, 20_000))
  assert.ok(await pollUntil(async () => (await one.request('GET', '/v1/gateway', undefined, asClient)).status === 200, 20_000), 'only for a while')
  assert.ok(limited.every(({ body, headers }) => body.code === 'rate_limited' && Number(headers.get('retry-after')) >= 1))

  const wrong = await burst(80, { authorization: 'Bearer nobody' })
  assert.deepEqual([...new Set(wrong.map(({ status }) => status))].sort(), [401, 429])
  assert.equal((await one.request('GET', '/v1/gateway')).status, 200, 'who is known comes in from there all the same')
})

/** Everything in a Redis as one text. */
async function dump (redis: RedisServer): Promise<string> {
  const { Redis } = await import('ioredis')
  const client = new Redis(redis.url)
  try {
    const keys = await client.keys('*')
    const values = await Promise.all(keys.map(async key => (await client.dumpBuffer(key)).toString('latin1')))
    return [...keys, ...values].join('\n')
  } finally {
    client.disconnect()
  }
}
