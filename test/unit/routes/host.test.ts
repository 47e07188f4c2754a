import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import type { Host } from '../../../src/schemas/host.ts'
import { HostDrain } from '../../../src/services/host/host-drain.ts'
import { HostInfo } from '../../../src/services/host/host-info.ts'
import { asAdmin, asReader, buildTestApp } from './fake-services.ts'

async function build (t: TestContext) {
  const { app, services } = await buildTestApp(t)
  const stateDir = await mkdtemp(join(tmpdir(), 'berth-host-'))
  t.after(() => rm(stateDir, { recursive: true }))
  const drain = await HostDrain.open({ path: join(stateDir, 'drain.json'), events: { append () {} }, logger: pino({ enabled: false }) })
  const host = new HostInfo({
    id: 'hst_4k2m9tq7t1c8v3h5npaa',
    version: '0.1.0',
    stateDir,
    cgroupVersion: 2,
    runtimes: [],
    sandboxes: { all: () => [], countByStatus: () => ({}) } as never,
    drain,
    gateway: () => ({ target: 'gw:9090', isConnected: true, workerId: 'w-1' }),
    queue: () => ({ isConnected: false, pool: 'gpu' }),
  })
  host.setStatus('ready')
  services.host.describe = () => host.describe()
  services.host.drain = request => host.drain(request)
  services.host.undrain = () => host.undrain()
  services.host.readiness = () => host.readiness()
  const call = async (method: 'GET' | 'POST', url: string, { headers = asAdmin, ...rest }: { headers?: object, payload?: object } = {}) => {
    const answer = await app.inject({ method, url, headers: headers as typeof asAdmin, ...rest })
    return { status: answer.statusCode, body: answer.json<Host & { code: string }>() }
  }
  return { call, drain }
}

test('a host is drained and undrained, stays ready, and tells of its fleet', async t => {
  const { call } = await build(t)
  const before = await call('GET', '/v1/host')
  assert.deepEqual([before.body.status, before.body.drain], ['ready', undefined])
  assert.deepEqual([before.body.gateway, before.body.queue], [{ target: 'gw:9090', isConnected: true, workerId: 'w-1' }, { isConnected: false, pool: 'gpu' }])
  const drained = await call('POST', '/v1/host/drain')
  assert.deepEqual([drained.status, drained.body.status, Object.keys(drained.body.drain!)], [200, 'draining', ['since']])
  const again = await call('POST', '/v1/host/drain', { payload: { stopAfterMs: 86_400_000 } })
  assert.equal(again.body.drain!.since, drained.body.drain!.since)
  assert.ok(again.body.drain!.stopAt! > again.body.drain!.since)
  assert.equal((await call('GET', '/readyz')).status, 200)
  const undrained = await call('POST', '/v1/host/undrain')
  assert.deepEqual([undrained.status, undrained.body.status, undrained.body.drain], [200, 'ready', undefined])
})

test('only who may change a host drains it, and only by what makes sense', async t => {
  const { call, drain } = await build(t)
  for (const url of ['/v1/host/drain', '/v1/host/undrain']) {
    assert.deepEqual([(await call('POST', url, { headers: asReader })).status, (await call('POST', url, { headers: {} })).status], [403, 401])
  }
  for (const payload of [{ stopAfterMs: -1 }, { stopAfterMs: 86_400_001 }, { stopAfterMs: 1.5 }, { stopAfterMs: '5' }, { after: 5 }]) {
    assert.equal((await call('POST', '/v1/host/drain', { payload })).status, 400, JSON.stringify(payload))
  }
  assert.equal((await call('POST', '/v1/host/undrain', { payload: { stopAfterMs: 1 } })).body.code, 'body_not_taken')
  assert.equal(drain.isDraining, false)
})
