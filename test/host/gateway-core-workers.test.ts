/** The register of workers on a real Redis, and gRPC of gateways over TLS. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { SecretSealer } from '../../src/gateway/sealed-secret.ts'
import type { WorkerFacts } from '../../src/gateway/worker-fields.ts'
import { WorkerRegistry } from '../../src/gateway/worker-registry.ts'
import { pollUntil } from '../../src/lib/poll.ts'
import { openRedis } from '../../src/services/redis/redis-connection.ts'
import { GatewayClient } from '../../src/worker/gateway-client.ts'
import { startCluster } from '../support/redis-cluster.ts'
import { RedisServer } from '../support/redis-server.ts'
import { makeCertificates } from '../support/registry.ts'
import type { Teardown } from '../support/test-daemon.ts'
import { TestGateway } from '../support/test-gateway.ts'

const run = promisify(execFile)
const room = { cpuMillis: 8000, memoryBytes: 16 * 1024 ** 3 }
const facts: WorkerFacts = {
  hostname: 'one', pool: 'default', version: '1', status: 'available', labels: {}, capacity: room, free: room, apiUrl: 'http://10.0.0.1:7070/', apiCa: '', apiToken: 'berth_of_the_host',
}

async function connect (t: Teardown, url: string) {
  const redis = await openRedis({ url, prefix: 'test', passwordFile: '', caFile: '', certFile: '', keyFile: '' })
  t.after(async () => await redis.close())
  const registry = (options: { adminToken?: string, lostAfterMs?: number, keepMs?: number } = {}): WorkerRegistry =>
    new WorkerRegistry({ redis, sealer: new SecretSealer(options.adminToken ?? 'berth_admin'), ...options })
  return registry
}

test('a worker that says nothing is lost, comes back by a word, may be forgotten, and is in time', { timeout: 60_000 }, async t => {
  const server = await RedisServer.start(t)
  const registry = await connect(t, server.url)
  const workers = registry({ lostAfterMs: 20 })
  await workers.register('hst_1', facts)
  assert.ok(await pollUntil(async () => (await workers.get('hst_1')).isLost, 10_000))
  assert.deepEqual(await workers.heartbeat('hst_1', {}), { wish: '', number: 0 })
  assert.equal((await registry().get('hst_1')).isLost, false)
  await assert.rejects(registry().remove('hst_1'), { code: 'invalid_state' })
  assert.ok(await pollUntil(async () => await workers.remove('hst_1').then(() => true, () => false), 10_000))
  assert.equal(await workers.heartbeat('hst_1', {}), undefined, 'it is to register again')
  await assert.rejects(workers.remove('hst_1'), { code: 'worker_not_found' })

  const forgetful = registry({ keepMs: 50 })
  await forgetful.register('hst_2', { ...facts, pool: 'blue' })
  assert.ok(await pollUntil(async () => await forgetful.heartbeat('hst_none', {}) === undefined && (await forgetful.list()).length === 0, 10_000))
  assert.equal(await forgetful.heartbeat('hst_2', {}), undefined)
  assert.deepEqual(await forgetful.pools(), [], 'nothing is left of it')
})

test('what was placed on a worker counts until it says itself what it has', { timeout: 60_000 }, async t => {
  const server = await RedisServer.start(t)
  const [one, other] = [await connect(t, server.url), await connect(t, server.url)].map(registry => registry()) as [WorkerRegistry, WorkerRegistry]
  await one.register('hst_1', facts)
  assert.equal((await one.listLately())[0]?.free.cpuMillis, 8000)
  await one.reserve('hst_1', { cpuMillis: 2000, memoryBytes: 1024 })
  await one.reserve('hst_1', { cpuMillis: 500, memoryBytes: 1024 })
  assert.equal((await one.listLately())[0]?.free.cpuMillis, 5500, 'at once where it was placed')
  assert.deepEqual((await other.get('hst_1')).free, { cpuMillis: 5500, memoryBytes: room.memoryBytes - 2048 })
  await other.heartbeat('hst_1', { free: { cpuMillis: 7000, memoryBytes: 5 } })
  assert.deepEqual((await one.get('hst_1')).free, { cpuMillis: 7000, memoryBytes: 5 })
})

test('a token that was sealed under another key is asked for again', { timeout: 60_000 }, async t => {
  const server = await RedisServer.start(t)
  const registry = await connect(t, server.url)
  const [before, after] = [registry(), registry({ adminToken: 'berth_other' })]
  await before.register('hst_1', facts)
  const { url, token } = await before.access('hst_1')
  assert.deepEqual({ url, token }, { url: 'http://10.0.0.1:7070', token: 'berth_of_the_host' })
  await assert.rejects(after.access('hst_1'), { code: 'worker_unreachable' })
  assert.equal(await after.heartbeat('hst_1', {}), undefined)
  assert.equal((await after.list()).length, 1, 'it is still there')
  await after.register('hst_1', facts)
  assert.ok(await after.heartbeat('hst_1', {}))
  assert.equal((await after.access('hst_1')).token, 'berth_of_the_host')
})

test('a cluster keeps workers, tokens and addresses as one server does', { timeout: 120_000 }, async t => {
  const { url } = await startCluster(t)
  const gateway = await TestGateway.start(t, { redisUrl: url, env: { BERTH_GATEWAY_IPV4_POOL: '10.64.0.0/24' } })
  await gateway.ready()
  const client = await openClient(t, gateway, {})
  await client.register(joining)
  assert.equal((await client.allocate('a')).ipv4, '10.64.0.2')
  assert.deepEqual((await gateway.request<{ items: Array<{ id: string }> }>('GET', '/v1/workers')).body.items.map(({ id }) => id), ['hst_1'])
  const task = await gateway.request('POST', '/v1/tasks', { image: 'berth/base' }, { 'idempotency-key': 'a' })
  assert.equal(task.status, 201, task.text)
  assert.equal((await gateway.request('GET', '/v1/pools')).status, 200)
  assert.equal(gateway.errors(), '')
})

test('over TLS a gateway lets in hosts with a certificate alone, where it asks for one', { timeout: 120_000 }, async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-gateway-tls-'))
  t.after(async () => await rm(dir, { recursive: true, force: true }))
  const at = (name: string): string => join(dir, name)
  await makeCertificates(dir)
  await run('openssl', ['req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=host', '-keyout', at('host.key'), '-out', at('host.csr')])
  await run('openssl', ['x509', '-req', '-days', '2', '-in', at('host.csr'), '-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-out', at('host.pem')])
  for (const key of ['server.key', 'host.key']) await chmod(at(key), 0o600)
  const redis = await RedisServer.start(t)
  const env = { BERTH_GATEWAY_TLS_CERT_FILE: at('server.pem'), BERTH_GATEWAY_TLS_KEY_FILE: at('server.key'), BERTH_GATEWAY_TLS_CLIENT_CA_FILE: at('ca.pem') }
  const gateway = await TestGateway.start(t, { redisUrl: redis.url, env })
  assert.match(gateway.url, /^https:/)
  const { stdout } = await run('curl', ['-sS', '--cacert', at('ca.pem'), '-H', `authorization: Bearer ${gateway.token}`, `${gateway.url}/v1/gateway`])
  assert.match(stdout, /"isRedisConnected":true/)

  const known = await openClient(t, gateway, { caFile: at('ca.pem'), certFile: at('host.pem'), keyFile: at('host.key') })
  assert.equal((await known.register(joining)).workerId, 'hst_1')
  for (const files of [{ caFile: at('ca.pem') }, {}]) {
    await assert.rejects((await openClient(t, gateway, files)).register(joining, { timeoutMs: 3000 }), { kind: 'unavailable' })
  }
})

const joining = { hostId: 'hst_1', status: 'available' as const, facts: { ...facts, sandboxes: 0, tasks: 0 } }

/** A host's end of a gateway, with the admin token. */
async function openClient (t: Teardown, gateway: TestGateway, files: { caFile?: string, certFile?: string, keyFile?: string }): Promise<GatewayClient> {
  const tokenFile = join(gateway.dir, 'host.token')
  await writeFile(tokenFile, gateway.token, { mode: 0o600 })
  const client = await GatewayClient.open({ target: gateway.grpcTarget, workerId: 'hst_1', tokenFile, ...files })
  t.after(async () => client.close())
  return client
}
