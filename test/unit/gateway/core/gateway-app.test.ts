/** The HTTP face of a gateway without anything behind it: who may what, and what is answered when Redis is away. */
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { Registry } from 'prom-client'
import { buildGatewayApp, type GatewayServices } from '../../../../src/gateway/gateway-app.ts'
import { ProxyDoor } from '../../../../src/gateway/proxy/proxy-door.ts'
import type { FleetPrincipal, WorkerRecord } from '../../../../src/gateway/worker-record.ts'
import { notFound } from '../../../../src/gateway/worker-registry.ts'
import { absentRedis } from './absent-redis.ts'

const principals: Record<string, FleetPrincipal> = {
  admin: { id: 'admin', scope: 'admin' },
  client: { id: 'tok_c', scope: 'client' },
  blue: { id: 'tok_b', scope: 'client', pools: ['blue'] },
  read: { id: 'tok_r', scope: 'read' },
  worker: { id: 'tok_w', scope: 'worker' },
}

const room = { cpuMillis: 1, memoryBytes: 2 }

function worker (id: string, pool: string, other: Partial<WorkerRecord> = {}): WorkerRecord {
  const times = { registeredAtMs: 1, lastSeenAtMs: 2 }
  return { id, pool, hostname: id, version: '1', status: 'available', labels: {}, capacity: room, free: room, sandboxes: 0, tasks: 0, apiUrl: '', apiCa: '', isLost: false, ...times, ...other }
}

async function build (t: TestContext): Promise<{ app: FastifyInstance, asked: string[] }> {
  const asked: string[] = []
  const known = [worker('a', 'blue'), worker('b', 'red', { isLost: true }), worker('c', 'red', { status: 'draining', labels: { zone: 'x' } })]
  const redis = absentRedis()
  const services = {
    redis,
    tokens: { verify: async (token: string) => token === 'away' ? await redis.run(async () => undefined) : principals[token], list: async () => [], revoke: async () => {} },
    workers: {
      get: async (id: string) => {
        const found = known.find(one => one.id === id)
        if (!found) throw notFound(id)
        return found
      },
      list: async ({ pool, pools }: { pool?: string, pools?: string[] }) => known.filter(one => (!pool || one.pool === pool) && (pools?.includes(one.pool) ?? true)),
      wish: async (id: string, wish: string) => { asked.push(`${wish} ${id}`) },
      remove: async (id: string) => { asked.push(`remove ${id}`) },
    },
    addresses: { releaseOf: async () => 0 },
    queue: { stats: async () => [{ pool: 'green', delayed: 1, pending: 2, scheduled: 0, running: 0, deadLetters: 0 }] },
    gateway: { describe: () => ({ id: 'gtw', version: '1', isRedisConnected: false }), readiness: async () => ({ ready: false, problems: ['Redis is away'] }) },
    idempotency: { begin: () => ({ state: 'new' }), complete: () => {}, abandon: () => {} },
    sandboxes: {},
    metrics: new Registry(),
  } as unknown as GatewayServices
  const app = buildGatewayApp({ services, logger: pino({ level: 'silent' }), version: '1.0.0', rateLimit: 10, door: new ProxyDoor() })
  t.after(async () => await app.close())
  await app.ready()
  return { app, asked }
}

interface Items<K extends string> { items: Array<Record<K, string>> }

const as = (token: string) => ({ authorization: `Bearer ${token}` })

test('each scope may what it is for, and nothing else', async t => {
  const { app, asked } = await build(t)
  const cases: Array<[method: 'GET' | 'POST' | 'DELETE', url: string, allowed: string[]]> = [
    ['GET', '/v1/workers', ['admin', 'client', 'read']],
    ['GET', '/v1/workers/c', ['admin', 'client', 'read']],
    ['GET', '/v1/pools', ['admin', 'client', 'read']],
    ['GET', '/v1/gateway', ['admin', 'client', 'read']],
    ['GET', '/metrics', ['admin', 'client', 'read']],
    ['POST', '/v1/workers/c/drain', ['admin']],
    ['DELETE', '/v1/workers/c', ['admin']],
    ['GET', '/v1/tokens', ['admin']],
    ['DELETE', '/v1/tokens/tok_00000000000000000000', ['admin']],
  ]
  for (const [method, url, allowed] of cases) {
    for (const scope of ['admin', 'client', 'read', 'worker']) {
      const { statusCode } = await app.inject({ method, url, headers: as(scope) })
      assert.equal(statusCode < 300, allowed.includes(scope), `${scope}: ${method} ${url} is answered ${statusCode}`)
      if (!allowed.includes(scope)) assert.equal(statusCode, 403)
    }
    assert.equal((await app.inject({ method, url })).statusCode, 401)
    assert.equal((await app.inject({ method, url, headers: as('nobody') })).statusCode, 401)
  }
  assert.deepEqual(asked, ['drain c', 'remove c'], 'what was refused was not done')
})

test('a token of some pools sees these alone', async t => {
  const { app } = await build(t)
  const ids = async (url: string, token: string): Promise<string[]> => (await app.inject({ url, headers: as(token) })).json<Items<'id'>>().items.map(({ id }) => id)
  assert.deepEqual(await ids('/v1/workers', 'blue'), ['a'])
  assert.deepEqual(await ids('/v1/workers', 'client'), ['a', 'b', 'c'])
  assert.deepEqual(await ids('/v1/workers?status=lost,draining&pool=red', 'client'), ['b', 'c'])
  assert.deepEqual(await ids('/v1/workers?label=zone%3Dx', 'client'), ['c'])
  assert.equal((await app.inject({ url: '/v1/workers/c', headers: as('blue') })).statusCode, 404)
  const pools = async (token: string): Promise<string[]> => (await app.inject({ url: '/v1/pools', headers: as(token) })).json<Items<'pool'>>().items.map(({ pool }) => pool)
  assert.deepEqual(await pools('client'), ['blue', 'green', 'red'])
  assert.deepEqual(await pools('blue'), ['blue'])
})

test('a list of workers is read on by its cursor, and a cursor of somebody else is refused', async t => {
  const { app } = await build(t)
  const found: string[] = []
  let cursor = ''
  do {
    const page = (await app.inject({ url: `/v1/workers?limit=1${cursor}`, headers: as('read') })).json<{ items: Array<{ id: string }>, nextCursor?: string }>()
    found.push(...page.items.map(({ id }) => id))
    cursor = page.nextCursor === undefined ? '' : `&cursor=${page.nextCursor}`
  } while (cursor !== '')
  assert.deepEqual(found, ['a', 'b', 'c'])
  assert.equal((await app.inject({ url: '/v1/workers?cursor=AAAA', headers: as('read') })).json<{ code: string }>().code, 'invalid_cursor')
})

test('errors look as those of a host, and what is unknown is refused', async t => {
  const { app } = await build(t)
  const made = await app.inject({ method: 'POST', url: '/v1/tokens', headers: as('admin'), payload: { name: 'a', scope: 'client', extra: 1 } })
  assert.equal(made.statusCode, 400)
  assert.deepEqual(Object.keys(made.json<object>()).slice(0, 4), ['code', 'kind', 'message', 'requestId'])
  assert.equal((await app.inject({ url: '/v1/nothing', headers: as('read') })).json<{ code: string }>().code, 'route_not_found')
  assert.equal((await app.inject({ method: 'PUT', url: '/v1/workers', headers: as('admin') })).statusCode, 405)
})

test('without Redis probes answer whatever token comes along, and tokens that nobody can judge are answered 503', async t => {
  const { app } = await build(t)
  assert.equal((await app.inject({ url: '/healthz', headers: as('away') })).statusCode, 200)
  assert.equal((await app.inject({ url: '/readyz', headers: as('away') })).statusCode, 503)
  assert.equal((await app.inject({ url: '/openapi.json', headers: as('away') })).statusCode, 200)
  const refused = await app.inject({ url: '/v1/gateway', headers: as('away') })
  assert.equal(refused.statusCode, 503)
  assert.equal(refused.json<{ code: string }>().code, 'redis_unavailable')
  assert.equal((await app.inject({ url: '/v1/gateway', headers: as('admin') })).statusCode, 200)
})
