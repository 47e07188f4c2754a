/** The gRPC face of a gateway over a real socket, without a Redis. */
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { credentials, makeClientConstructor, Metadata, status, type Client, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import { pino } from 'pino'
import { BerthError } from '../../../../src/errors.ts'
import { FleetAddresses } from '../../../../src/gateway/fleet-addresses.ts'
import { FleetTokens } from '../../../../src/gateway/fleet-tokens.ts'
import { WorkerMethods } from '../../../../src/gateway/worker-methods.ts'
import type { FleetPrincipal } from '../../../../src/gateway/worker-record.ts'
import type { WorkerRegistry } from '../../../../src/gateway/worker-registry.ts'
import { WorkerService } from '../../../../src/gateway/worker-service.ts'
import { absentRedis } from './absent-redis.ts'

const protoPath = new URL('../../../../proto/worker.proto', import.meta.url).pathname

const principals: Record<string, FleetPrincipal> = {
  worker: { id: 'tok_w', scope: 'worker' },
  poolWorker: { id: 'tok_p', scope: 'worker', pools: ['blue'] },
  client: { id: 'tok_c', scope: 'client' },
}

type Done = (error: ServiceError | null, response: Record<string, unknown>) => void
type Stub = Client & Record<string, (request: object, metadata: Metadata, options: { deadline: number }, done: Done) => void>

interface Options { tokens?: Pick<FleetTokens, 'verify'>, workers?: Partial<WorkerRegistry> }

/** A service whose workers are in a map, and how to call it. */
async function serve (t: TestContext, { tokens, workers = {} }: Options = {}) {
  const pools = new Map<string, string>([['hst_red', 'red'], ['hst_blue', 'blue']])
  const answered: string[] = []
  const registry = {
    register: async (id: string, { pool }: { pool: string }) => { pools.set(id, pool) },
    findPool: async (id: string) => pools.get(id),
    findOwner: async () => undefined,
    heartbeat: async (id: string) => pools.has(id) ? { wish: 'drain', number: 3 } : undefined,
    ...workers,
  } as unknown as WorkerRegistry
  const logger = pino({ level: 'silent' })
  const addresses = new FleetAddresses({ redis: absentRedis(), pool: '' })
  const service = new WorkerService({
    calls: new WorkerMethods({ workers: registry, addresses, tasks: { get: async () => undefined }, tokens: { isGood: async () => true }, logger }),
    tokens: tokens ?? { verify: async token => principals[token] },
    logger,
    onAnswered: (method, statusName) => answered.push(`${method} ${statusName}`),
  })
  const target = await service.listen({ host: '127.0.0.1', port: 0 })
  const Client = makeClientConstructor(loadSync(protoPath, { defaults: true, longs: Number })['worker.WorkerService'] as never, 'WorkerService')
  const client = new Client(target, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 }) as Stub
  t.after(async () => {
    client.close()
    await service.close(1000)
  })
  const call = async (method: string, request: object, token?: string): Promise<Record<string, unknown>> => {
    const metadata = new Metadata()
    if (token !== undefined) metadata.set('authorization', `Bearer ${token}`)
    return await new Promise((resolve, reject) => {
      client[method]!(request, metadata, { deadline: Date.now() + 10_000 }, (error, response) => error ? reject(error) : resolve(response))
    })
  }
  const codeOf = async (method: string, request: object, token?: string): Promise<string> =>
    await call(method, request, token).then(() => 'OK', (error: ServiceError) => status[error.code])
  return { call, codeOf, answered, pools }
}

const registration = { hostname: 'one', poolName: 'blue', cpu: 4000, memory: 8 * 1024 ** 3, version: '1.2.3' }

test('only tokens of hosts and admins are let in, and only to their pools', async t => {
  const { codeOf, answered } = await serve(t)
  assert.equal(await codeOf('registerWorker', registration), 'UNAUTHENTICATED')
  assert.equal(await codeOf('registerWorker', registration, 'nobody'), 'UNAUTHENTICATED')
  assert.equal(await codeOf('registerWorker', registration, 'client'), 'PERMISSION_DENIED')
  assert.equal(await codeOf('registerWorker', { ...registration, poolName: 'red' }, 'poolWorker'), 'PERMISSION_DENIED')
  assert.equal(await codeOf('registerWorker', { ...registration, hostId: 'hst_red' }, 'poolWorker'), 'PERMISSION_DENIED', 'a worker of another pool is not taken over')
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_red' }, 'poolWorker'), 'PERMISSION_DENIED')
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_blue' }, 'poolWorker'), 'OK')
  assert.equal(answered.at(-1), 'heartbeat OK')
})

test('a worker keeps the id of its host, and an old one without is given one', async t => {
  const { call, pools } = await serve(t)
  const known = await call('registerWorker', { ...registration, hostId: 'hst_new' }, 'worker')
  assert.deepEqual(known, { workerId: 'hst_new', heartbeatIntervalMs: 10_000 })
  const { workerId } = await call('registerWorker', registration, 'worker')
  assert.match(String(workerId), /^wrk_[a-z0-9]{20}$/)
  assert.equal(pools.get(String(workerId)), 'blue')
})

test('a wish comes with a heartbeat, and who is not known is told so', async t => {
  const { call, codeOf } = await serve(t)
  assert.deepEqual(await call('heartbeat', { workerId: 'hst_red', free: { cpu: 1, memory: 2 } }, 'worker'), { wish: 'drain', wishNumber: 3 })
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_none' }, 'worker'), 'NOT_FOUND')
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_none' }, 'poolWorker'), 'NOT_FOUND')
  assert.equal(await codeOf('setTaskResult', { taskId: 'tsk_none' }, 'worker'), 'NOT_FOUND')
  assert.equal(await codeOf('allocateIp', { sandboxId: 'a', workerId: 'hst_red' }, 'worker'), 'FAILED_PRECONDITION')
})

test('what makes no sense is refused with what is wrong', async t => {
  const { call } = await serve(t)
  const refused: Array<[object, RegExp]> = [
    [{ poolName: 'Not A Pool' }, /pool_name/],
    [{ hostId: '../etc' }, /host_id/],
    [{ cpu: -1 }, /cpu and memory/],
    [{ memory: Number.MAX_SAFE_INTEGER * 4 }, /cpu and memory/],
    [{ apiUrl: 'file:///etc/passwd' }, /api_url/],
    [{ apiUrl: 'http://user:password@host' }, /api_url/],
    [{ apiCa: 'no pem' }, /api_ca/],
    [{ labels: { 'no good': 'x' } }, /labels/],
    [{ status: 'asleep' }, /status/],
    [{ hostname: 'line\nbreak' }, /hostname/],
  ]
  for (const [wrong, message] of refused) {
    await assert.rejects(call('registerWorker', { ...registration, ...wrong }, 'worker'), (error: ServiceError) => error.code === status.INVALID_ARGUMENT && message.test(error.details), JSON.stringify(wrong))
  }
  await assert.rejects(call('heartbeat', { workerId: '' }, 'worker'), (error: ServiceError) => error.code === status.INVALID_ARGUMENT)
})

test('a message that is too large is refused, and the next one is answered', async t => {
  const { codeOf } = await serve(t)
  assert.equal(await codeOf('registerWorker', { ...registration, apiCa: 'x'.repeat(2 * 1024 ** 2) }, 'worker'), 'RESOURCE_EXHAUSTED')
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_red' }, 'worker'), 'OK')
})

test('without Redis the admin token is known, and of all others nobody can say', async t => {
  const { codeOf } = await serve(t, {
    tokens: new FleetTokens({ redis: absentRedis(), adminToken: 'berth_admin' }),
    workers: { heartbeat: async () => { throw new BerthError('unavailable', 'redis_unavailable', 'Redis does not serve') } },
  })
  assert.equal(await codeOf('heartbeat', { workerId: 'hst_red' }, 'berth_admin'), 'UNAVAILABLE')
  assert.equal(await codeOf('registerWorker', registration, 'berth_admin'), 'OK')
  assert.equal(await codeOf('registerWorker', registration, 'berth_other'), 'UNAVAILABLE')
})

test('an error that nobody foresaw shows nothing of itself', async t => {
  const { call } = await serve(t, { workers: { heartbeat: async () => { throw new Error('the secret of the house') } } })
  await assert.rejects(call('heartbeat', { workerId: 'hst_red' }, 'worker'), (error: ServiceError) => error.code === status.INTERNAL && !error.details.includes('secret'))
})
