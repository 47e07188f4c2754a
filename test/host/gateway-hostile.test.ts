/** A fleet as its enemies see it: holders of tokens for something else, hosts that lie, and whoever reaches a port. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { test } from 'node:test'
import { credentials, makeClientConstructor, Metadata, status, type Client, type ServiceError } from '@grpc/grpc-js'
import { loadSync } from '@grpc/proto-loader'
import type { Redis } from 'ioredis'
import { pollUntil } from '../../src/lib/poll.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import { RedisServer } from '../support/redis-server.ts'
import type { Teardown } from '../support/test-daemon.ts'
import { TestGateway } from '../support/test-gateway.ts'

const protoPath = new URL('../../proto/worker.proto', import.meta.url).pathname
const registration = { hostname: 'one', poolName: 'blue', cpu: 4000, memory: 8 * 1024 ** 3, version: '1', apiUrl: 'http://127.0.0.1:1', apiToken: 'berth_of_the_host' }

type Done = (error: ServiceError | null, response: Record<string, unknown>) => void
type Stub = Client & Record<string, (request: object, metadata: Metadata, options: { deadline: number }, done: Done) => void>

async function startFleet (t: Teardown, env: Record<string, string> = {}) {
  const redis = await RedisServer.start(t)
  const gateway = await TestGateway.start(t, { redisUrl: redis.url, env })
  await gateway.ready()
  return { redis, gateway }
}

/** Calls of WorkerService with a token: what it answers, or the name of its status. */
function workerCalls (t: Teardown, { grpcTarget }: TestGateway) {
  const Service = makeClientConstructor(loadSync(protoPath, { defaults: true, longs: Number })['worker.WorkerService'] as never, 'WorkerService')
  const client = new Service(grpcTarget, credentials.createInsecure()) as unknown as Stub
  t.after(async () => client.close())
  return async (method: string, request: object, token: string): Promise<Record<string, unknown> | string> => {
    const metadata = new Metadata()
    metadata.set('authorization', `Bearer ${token}`)
    return await new Promise(resolve => {
      client[method]!(request, metadata, { deadline: Date.now() + 20_000 }, (error, response) => resolve(error ? status[error.code] : response))
    })
  }
}

test('a worker and its addresses are its token\'s alone, until that is revoked or an admin says so', { timeout: 120_000 }, async t => {
  const { gateway } = await startFleet(t, { BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/16' })
  const call = workerCalls(t, gateway)
  const tokens = await Promise.all([1, 2].map(() => gateway.request<{ id: string, token: string }>('POST', '/v1/tokens', { name: 'host', scope: 'worker' })))
  const [mine, theirs] = tokens.map(({ body }) => body.token) as [string, string]
  const stolen = { ...registration, hostId: 'hst_1', apiUrl: 'http://127.0.0.1:2' }
  const apiUrl = async () => (await call('getWorker', { workerId: 'hst_1' }, mine) as { apiUrl: string }).apiUrl

  await call('registerWorker', { ...registration, hostId: 'hst_1' }, mine)
  assert.equal(await call('registerWorker', stolen, theirs), 'PERMISSION_DENIED')
  assert.equal(await call('registerWorker', { ...stolen, poolName: 'red' }, theirs), 'PERMISSION_DENIED')
  assert.equal(await apiUrl(), registration.apiUrl)
  for (const [method, request] of [['heartbeat', {}], ['updateStatus', { status: 'draining' }], ['deregister', {}]] as const) {
    assert.equal(await call(method, { workerId: 'hst_1', ...request }, theirs), 'NOT_FOUND', method)
  }
  assert.equal(await call('allocateIp', { sandboxId: 'one', workerId: 'hst_1' }, mine).then(answer => (answer as { ip: string }).ip), '10.64.0.2')
  assert.equal(await call('releaseIp', { sandboxId: 'one' }, theirs), 'PERMISSION_DENIED')
  assert.equal(await call('allocateIp', { sandboxId: 'one', workerId: 'hst_1' }, theirs), 'PERMISSION_DENIED')
  assert.equal((await call('heartbeat', { workerId: 'hst_1' }, mine) as { wish: string }).wish, '')

  await call('deregister', { workerId: 'hst_1' }, mine)
  assert.equal(await call('registerWorker', stolen, theirs), 'PERMISSION_DENIED', 'it may come back')
  assert.equal(typeof await call('registerWorker', { ...registration, hostId: 'hst_1' }, mine), 'object')
  assert.equal((await gateway.request('DELETE', `/v1/tokens/${tokens[0]!.body.id}`)).status, 204)
  assert.equal(typeof await call('registerWorker', stolen, theirs), 'object', 'a host that was given another token')
  assert.equal(typeof await call('allocateIp', { sandboxId: 'one', workerId: 'hst_1' }, theirs), 'object')
  assert.deepEqual(await call('releaseIp', { sandboxId: 'one' }, theirs), {})
  assert.equal(typeof await call('registerWorker', { ...registration, hostId: 'hst_1' }, gateway.token), 'object')
  assert.equal(gateway.errors(), '')
})

test('one host takes neither all addresses nor all of what is remembered of hosts', { timeout: 60_000 }, async t => {
  const { gateway, redis } = await startFleet(t, { BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/16' })
  const call = workerCalls(t, gateway)
  const { body: { id, token } } = await gateway.request<{ id: string, token: string }>('POST', '/v1/tokens', { name: 'host', scope: 'worker' })
  const other = await gateway.makeToken('worker')
  assert.equal(typeof await call('allocateIp', { sandboxId: 's1', workerId: 'w1' }, token), 'object')
  assert.equal(typeof await call('registerWorker', { ...registration, hostId: 'hst_1' }, token), 'object')
  const connection = await openRedis({ url: redis.url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  t.after(async () => connection.close())
  const { client } = connection
  assert.equal(await client.hget('airstore:{berth}:addresses:10.64.0.0/16:counts', id), '1', 'counted for the token, as there is no such worker')
  await client.hset('airstore:{berth}:addresses:10.64.0.0/16:counts', id, 4096)
  const known = await client.zscore(`airstore:{berth}:workers_of_token:${id}`, 'hst_1')
  await client.zadd(`airstore:{berth}:workers_of_token:${id}`, ...Array.from({ length: 10_000 }, (_, index) => [Number(known), `hst_x${index}`]).flat())

  assert.equal(await call('allocateIp', { sandboxId: 's2', workerId: 'w2' }, token), 'RESOURCE_EXHAUSTED')
  assert.equal(typeof await call('allocateIp', { sandboxId: 's1', workerId: 'w1' }, token), 'object', 'what it has, it keeps')
  assert.equal(typeof await call('allocateIp', { sandboxId: 's2', workerId: 'hst_1' }, token), 'object', 'a worker that is there has its own share')
  assert.equal(typeof await call('allocateIp', { sandboxId: 's3', workerId: '' }, other), 'object')
  assert.equal(await call('registerWorker', { ...registration, hostId: 'hst_2' }, token), 'RESOURCE_EXHAUSTED')
  assert.equal(typeof await call('registerWorker', { ...registration, hostId: 'hst_1' }, token), 'object')
  assert.equal(typeof await call('registerWorker', { ...registration, hostId: 'hst_2' }, other), 'object')
})

test('addresses of hosts that lead elsewhere are refused', { timeout: 60_000 }, async t => {
  const { gateway } = await startFleet(t)
  const call = workerCalls(t, gateway)
  const token = await gateway.makeToken('worker')
  const urls = [
    'http://user:secret@10.0.0.1:80', 'http://:@10.0.0.1', 'http://10.0.0.1/admin', 'http://10.0.0.1/admin?', 'http://10.0.0.1/?', 'http://10.0.0.1/#', 'http://10.0.0.1?a=b',
    'file:///etc/passwd', 'unix:///var/run/docker.sock', 'ftp://10.0.0.1', 'javascript:alert(1)', 'http:\\\\10.0.0.1', '//10.0.0.1', '10.0.0.1:80', 'http://', `http://${'a'.repeat(3000)}`,
  ]
  for (const apiUrl of urls) assert.equal(await call('registerWorker', { ...registration, hostId: 'hst_1', apiUrl }, token), 'INVALID_ARGUMENT', apiUrl)
  const others = [{ hostId: 'a:b' }, { hostId: '{x}' }, { hostId: 'a\r\nb' }, { poolName: 'a:b' }, { poolName: '*' }, { poolName: '../x' }, { labels: { __proto__x: 'a' } },
    { labels: Object.fromEntries(Array.from({ length: 65 }, (_, index) => [`l${index}`, ''])) }, { apiToken: 'a\r\nx: y' }, { cpu: -1 }, { memory: Number.MAX_SAFE_INTEGER + 1 }]
  for (const fields of others) assert.equal(await call('registerWorker', { ...registration, ...fields }, token), 'INVALID_ARGUMENT', JSON.stringify(fields))
  assert.equal(await call('setTaskResult', { taskId: 'tsk_1', error: 'x'.repeat(1024 ** 2 + 1) }, token), 'RESOURCE_EXHAUSTED')
})

test('with its token end the streams and sockets of whoever has it, at every gateway, and those of nobody else', { timeout: 60_000 }, async t => {
  const { redis, gateway } = await startFleet(t)
  const other = await TestGateway.start(t, { redisUrl: redis.url, tokenFile: gateway.tokenFile })
  await other.ready()
  const host = createServer((_request, response) => { response.write('it goes on') })
  host.on('upgrade', (_request, socket) => {
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  })
  host.listen(0, '127.0.0.1')
  await once(host, 'listening')
  t.after(async () => { host.close().closeAllConnections() })
  const call = workerCalls(t, gateway)
  await call('registerWorker', { ...registration, hostId: 'hst_1', apiUrl: `http://127.0.0.1:${(host.address() as AddressInfo).port}` }, gateway.token)
  const { body: task } = await gateway.request<{ id: string }>('POST', '/v1/tasks', { image: 'a/b' })
  const [gone, good] = await Promise.all([1, 2].map(async () => (await gateway.request<{ id: string, token: string }>('POST', '/v1/tokens', { name: 'a', scope: 'client' })).body))

  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n'
  const requests = (token: string) => [
    `GET /v1/tasks/${task.id}/logs?follow=true&format=sse HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n`,
    `GET /v1/tasks/${task.id}/wait?timeoutMs=60000 HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n`,
    `GET /v1/workers/hst_1/api/v1/events HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n`,
    `GET /v1/workers/hst_1/api/v1/tasks/x/logs/ws HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n${upgrade}`,
    `GET /v1/workers/hst_1/api/v1/tasks/x/logs/ws HTTP/1.1\r\nSec-WebSocket-Protocol: berth.v1, bearer.${token}\r\n${upgrade}`,
  ]
  const open = (token: string) => [gateway, other].flatMap(({ url }) => requests(token).map(request => {
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    t.after(async () => socket.destroy())
    const state = { request: request.split(' HTTP')[0]!, text: '', isOpen: true }
    socket.on('error', () => {}).on('data', (chunk: Buffer) => { state.text += String(chunk) }).on('close', () => { state.isOpen = false })
    socket.write(`${request}Host: a\r\n\r\n`)
    return state
  }))
  const [ending, staying] = [open(gone!.token), open(good!.token)]
  const begun = () => [...ending, ...staying].filter(({ request }) => !request.includes('/wait')).every(({ text }) => /^HTTP\/1.1 (200|101)/.test(text))
  assert.ok(await pollUntil(async () => begun(), 20_000), JSON.stringify([...ending, ...staying]))
  assert.equal((await gateway.request('DELETE', `/v1/tokens/${gone!.id}`)).status, 204)
  assert.ok(await pollUntil(async () => ending.every(({ isOpen }) => !isOpen), 20_000), JSON.stringify(ending.filter(({ isOpen }) => isOpen)))
  assert.deepEqual(staying.filter(({ isOpen }) => !isOpen), [])
})

test('no token is in Redis or in a log, and addresses that clients make up help nobody', { timeout: 60_000 }, async t => {
  const { redis, gateway } = await startFleet(t)
  const secrets = [gateway.token, registration.apiToken, ...await Promise.all((['admin', 'client', 'read', 'worker'] as const).map(scope => gateway.makeToken(scope)))]
  const [, , admin, client, , worker] = secrets as [string, string, string, string, string, string]
  const key = { 'idempotency-key': 'a' }
  await workerCalls(t, gateway)('registerWorker', { ...registration, hostId: 'hst_1' }, worker)
  for (const token of [admin, client]) {
    const headers = { authorization: `Bearer ${token}`, ...key }
    await gateway.request('POST', '/v1/tasks', { image: 'a/b' }, headers)
    await gateway.request('POST', '/v1/tokens', { name: 'a', scope: 'read' }, headers).then(({ body }) => { if ('token' in body) secrets.push(String(body['token'])) })
    await gateway.request('GET', '/v1/workers/hst_1/api/v1/host', undefined, headers)
  }
  const connection = await openRedis({ url: redis.url, prefix: 'airstore', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  t.after(async () => connection.close())
  const { client: reader } = connection
  const texts = [await readFile(gateway.logPath, 'utf8')]
  for (const name of await (reader as Redis).keys('*')) {
    const type = await reader.type(name)
    const value = type === 'string' ? await reader.get(name) : type === 'hash' ? await reader.hgetall(name) : type === 'zset' ? await reader.zrange(name, 0, -1) : type === 'set' ? await reader.smembers(name) : await reader.lrange(name, 0, -1)
    texts.push(name, JSON.stringify(value))
  }
  assert.ok(texts.length > 20)
  for (const secret of secrets) assert.ok(texts.every(text => !text.includes(secret)), secret)

  const statuses = new Set<number>()
  for (let index = 0; index < 70; index++) {
    const spoofed = { authorization: `Bearer berth_${index}`, 'x-forwarded-for': `10.0.0.${index}`, forwarded: `for=10.0.0.${index}`, 'x-real-ip': `10.0.0.${index}` }
    statuses.add((await gateway.request('GET', '/v1/gateway', undefined, spoofed)).status)
  }
  assert.deepEqual([...statuses], [401, 429])
  assert.equal((await gateway.request('GET', '/v1/gateway')).status, 200, 'who has a good token is let in all the same')
})
