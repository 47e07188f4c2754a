/** The real daemon as a worker of a gateway. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Host } from '../../src/schemas/host.ts'
import { FakeGateway, gatewayToken } from '../support/fake-gateway.ts'
import { TestDaemon } from '../support/test-daemon.ts'

test('a host joins its gateway, drains when that wishes it, once, and is the same worker after a crash', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'berth-membership-'))
  const tokenFile = join(dir, 'token')
  writeFileSync(tokenFile, gatewayToken, { mode: 0o600 })
  const gateway = new FakeGateway()
  gateway.heartbeatIntervalMs = 1000
  const port = await gateway.listen()
  const daemon = await TestDaemon.start(t, {
    env: { BERTH_GATEWAY: `127.0.0.1:${port}`, BERTH_GATEWAY_TOKEN_FILE: tokenFile, BERTH_POOL: 'gpu', BERTH_WORKER_LABELS: 'zone=a', BERTH_ADVERTISE: 'http://10.0.0.7:7070' },
  })
  t.after(() => {
    gateway.close()
    rmSync(dir, { recursive: true })
  })
  const { hostId } = daemon
  const worker = () => gateway.workers.get(hostId)
  const until = async (isSo: () => Promise<boolean> | boolean) => {
    assert.ok(await pollUntil(async () => await isSo(), 60_000), JSON.stringify([gateway.calls.slice(-5), await host()]))
  }
  const host = async () => (await daemon.request<Host>('GET', '/v1/host')).body

  await until(async () => (await host()).gateway?.lastHeartbeatAt !== undefined)
  const { registration } = worker()!
  assert.deepEqual([registration.hostId, registration.poolName, registration.labels, registration.status], [hostId, 'gpu', { zone: 'a' }, 'available'])
  assert.ok(registration.cpu > 0 && registration.memory >= registration.free.memory && registration.free.memory > 0, JSON.stringify(registration))
  const asGateway = { authorization: `Bearer ${registration.apiToken}` }
  assert.equal((await daemon.request('GET', '/v1/sandboxes', undefined, asGateway)).status, 200)

  gateway.wish = { wish: 'drain', wishNumber: 41 }
  await until(() => worker()?.status === 'draining')
  assert.equal((await host()).status, 'draining')
  await daemon.request('POST', '/v1/host/undrain')
  await until(() => worker()?.status === 'available')
  await daemon.end('SIGKILL')
  gateway.workers.get(hostId)!.heartbeats = 0
  await daemon.start()
  await until(() => worker()?.registration !== registration && worker()!.heartbeats >= 2)
  // The wish was repeated by each heartbeat, and had been carried out before.
  assert.deepEqual([(await host()).status, worker()!.status, (await host()).gateway?.workerId], ['ready', 'available', hostId])
  assert.equal((await daemon.request('GET', '/v1/sandboxes', undefined, asGateway)).status, 401)
})
