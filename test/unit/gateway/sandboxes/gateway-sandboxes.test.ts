import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fetch } from 'undici'
import { pollUntil } from '../../../../src/lib/poll.ts'
import { as, FakeHost } from '../proxy/proxy-rig.ts'
import { answer, SandboxHost, startFleet } from './sandbox-rig.ts'

interface Reply { id: string, code: string, message: string, details: Record<string, unknown>, items: { id: string }[], unreachable: string[] }

type Fleet = Awaited<ReturnType<typeof startFleet>>

async function call ({ url }: Pick<Fleet, 'url'>, method: string, path: string, { who = 'client', body, key }: { who?: string, body?: unknown, key?: string } = {}) {
  const headers = as(who, { ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...(key === undefined ? {} : { 'idempotency-key': key }) })
  const response = await fetch(url + path, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) })
  const text = await response.text()
  return { status: response.status, headers: response.headers, body: (text === '' ? {} : JSON.parse(text)) as Reply }
}

const create = (fleet: Fleet, body: object = {}, options: { who?: string, key?: string } = {}) => call(fleet, 'POST', '/v1/sandboxes', { body: { image: 'berth/base', ...body }, ...options })

test('a sandbox is made on a host of the pool, and found again by its id', async t => {
  const [one, two] = [await SandboxHost.start(t), await SandboxHost.start(t)]
  const fleet = await startFleet(t)
  fleet.workers.add('w1', one.host.url, { pool: 'a' })
  fleet.workers.add('w2', two.host.url, { pool: 'b', labels: { zone: 'x' } })
  const made = await create(fleet, { pool: 'b', hostLabels: { zone: 'x' }, labels: { of: 'me' } })
  const { id } = made.body
  assert.deepEqual([made.status, made.headers.get('x-berth-worker'), made.headers.get('location')], [201, 'w2', `/v1/sandboxes/${id}`])
  assert.deepEqual(two.asked, [{ image: 'berth/base', labels: { of: 'me' }, start: true, imagePull: 'missing' }])
  assert.deepEqual({ ...fleet.index.entries.get(id), createdAt: '' }, { id, workerId: 'w2', pool: 'b', createdAt: '', labels: { of: 'me' } })
  assert.deepEqual(fleet.workers.reserved, ['w2'])

  assert.equal((await call(fleet, 'GET', `/v1/sandboxes/${id}`)).body.id, id)
  assert.equal((await call(fleet, 'POST', `/v1/sandboxes/${id}/execs`, { body: { argv: ['true'] } })).status, 200)
  assert.equal((await call(fleet, 'GET', `/v1/sandboxes/${id}`, { who: 'other' })).status, 403)
  const ticket = await call(fleet, 'POST', '/v1/tickets', { body: { scope: 'terminal', sandboxId: id, terminalId: 'trm_00000000000000000000' } })
  assert.deepEqual([ticket.status, ticket.headers.get('x-berth-worker')], [201, 'w2'])
  assert.equal((await call(fleet, 'DELETE', `/v1/sandboxes/${id}`)).status, 204)
  assert.ok(await pollUntil(async () => fleet.index.entries.size === 0, 5000))
  assert.deepEqual([(await call(fleet, 'GET', `/v1/sandboxes/${id}`)).body.code, one.asked.length], ['sandbox_not_found', 0])
})

test('who may not make one is told so, and so is who asks for what is not there', async t => {
  const host = await SandboxHost.start(t)
  const fleet = await startFleet(t)
  for (const who of ['read', 'worker']) assert.equal((await create(fleet, {}, { who })).status, 403)
  assert.equal((await create(fleet, { pool: 'default' }, { who: 'other' })).body.code, 'pool_not_allowed')
  assert.equal((await create(fleet, { nonsense: 1 })).status, 400)
  const missing = async (body: object) => {
    const { status, headers, body: { code, details } } = await create(fleet, body)
    assert.deepEqual([status, headers.get('retry-after'), code], [503, '1', 'no_room'])
    return details
  }
  assert.deepEqual(await missing({}), { pool: 'default', missing: 'workers' })
  fleet.workers.add('w1', host.host.url)
  assert.deepEqual(await missing({ hostLabels: { zone: 'x' } }), { pool: 'default', missing: 'labels' })
  assert.deepEqual(await missing({ resources: { cpuMillis: 9000 } }), { pool: 'default', missing: 'room', largest: { cpuMillis: 8000, memoryBytes: 32 * 1024 ** 3 } })
  assert.equal((await call(fleet, 'GET', '/v1/sandboxes/nonsense/execs')).body.code, 'sandbox_not_found')
  assert.equal(host.asked.length, 0)
})

test('a host that is full, draining or away is passed over, three at most; what is wrong with a request is told at once', async t => {
  const hosts = [await SandboxHost.start(t), await SandboxHost.start(t), await SandboxHost.start(t)]
  const fleet = await startFleet(t)
  for (const [index, { host }] of hosts.entries()) fleet.workers.add(`w${index}`, host.url, { free: { cpuMillis: 2000 + 500 * index, memoryBytes: 8 * 1024 ** 3 } })
  const [full, draining, willing] = hosts as [SandboxHost, SandboxHost, SandboxHost]
  full.refuse = (_, response) => { answer(response, 429, { code: 'disk_full', message: 'full' }); return true }
  draining.refuse = (_, response) => { answer(response, 503, { code: 'host_draining', message: 'leaving' }); return true }
  const made = await create(fleet)
  assert.deepEqual([made.status, made.headers.get('x-berth-worker')], [201, 'w2'])
  willing.refuse = (_, response) => { answer(response, 400, { code: 'image_not_found', message: 'no such image' }); return true }
  assert.deepEqual([(await create(fleet)).body.code, fleet.keys.held.size], ['image_not_found', 0])
  willing.refuse = full.refuse
  const refused = await create(fleet)
  assert.deepEqual([refused.status, refused.body.code], [503, 'no_room'])
  await draining.host.stop()
  await willing.host.stop()
  full.refuse = undefined
  assert.equal((await create(fleet)).headers.get('x-berth-worker'), 'w0')
})

test('a repeat with the same key gets the first sandbox, from wherever it is', async t => {
  const hosts = [await SandboxHost.start(t), await SandboxHost.start(t)]
  const fleet = await startFleet(t)
  for (const [index, { host }] of hosts.entries()) fleet.workers.add(`w${index}`, host.url)
  const first = await create(fleet, {}, { key: 'k' })
  const again = await create(fleet, {}, { key: 'k' })
  assert.deepEqual([again.status, again.body.id, again.headers.get('idempotency-replayed')], [201, first.body.id, 'true'])
  assert.equal((await create(fleet, { labels: { other: 'yes' } }, { key: 'k' })).body.code, 'idempotency_key_reused')
  assert.notEqual((await create(fleet, {}, { key: 'k', who: 'admin' })).body.id, first.body.id)
  assert.equal(hosts.reduce((sum, { made }) => sum + made.size, 0), 2)
})

test('a host that was asked and did not answer is asked again, and no other', async t => {
  const hosts = [await SandboxHost.start(t), await SandboxHost.start(t)]
  const fleet = await startFleet(t)
  for (const [index, { host }] of hosts.entries()) fleet.workers.add(`w${index}`, host.url)
  const cut: string[] = []
  for (const host of hosts) {
    host.refuse = request => {
      cut.push(request.headers['idempotency-key'] as string)
      request.socket.destroy()
      return true
    }
  }
  const lost = await create(fleet)
  assert.deepEqual([lost.status, lost.body.code], [503, 'placement_unsure'])
  const { workerId, idempotencyKey } = lost.body.details as { workerId: string, idempotencyKey: string }
  for (const host of hosts) host.refuse = undefined
  // Wherever a new one would go, this one goes back.
  fleet.workers.access_.get(workerId)!.worker.status = 'draining'
  const found = await create(fleet, {}, { key: idempotencyKey })
  assert.deepEqual([found.status, found.headers.get('x-berth-worker')], [201, workerId])
  assert.equal(new Set(cut).size, 1)
  assert.equal(hosts.reduce((sum, { asked }) => sum + asked.length, 0), 2)
})

test('two requests with one key at the same time are one', async t => {
  const host = await SandboxHost.start(t)
  const fleet = await startFleet(t)
  fleet.workers.add('w1', host.host.url)
  const go = Promise.withResolvers<void>()
  host.refuse = (_, response) => {
    void go.promise.then(() => answer(response, 400, { code: 'later', message: 'x' }))
    return true
  }
  const first = create(fleet, {}, { key: 'k' })
  assert.ok(await pollUntil(async () => host.asked.length === 1, 5000))
  assert.equal((await create(fleet, {}, { key: 'k' })).body.code, 'idempotency_in_progress')
  go.resolve()
  assert.equal((await first).body.code, 'later')
  host.refuse = undefined
  assert.equal((await create(fleet, {}, { key: 'k' })).status, 201)
})

test('a list tells what hosts tell in time, and names those that do not', async t => {
  const [there, silent] = [await SandboxHost.start(t), await SandboxHost.start(t)]
  const fleet = await startFleet(t, { answerMs: 300 })
  fleet.workers.add('w1', there.host.url, { pool: 'a' })
  fleet.workers.add('w2', silent.host.url, { pool: 'elsewhere' })
  const ids: string[] = []
  for (let count = 0; count < 12; count++) ids.unshift((await create(fleet, { pool: 'a', labels: { n: String(count % 2) } })).body.id)
  const { id: hidden } = (await create(fleet, { pool: 'elsewhere' })).body
  silent.refuse = () => true
  const all = await call(fleet, 'GET', '/v1/sandboxes', { who: 'read' })
  assert.deepEqual([all.body.items.map(({ id }) => id), all.body.unreachable], [ids, ['w2']])
  assert.equal((await call(fleet, 'GET', '/v1/sandboxes?label=n=1&pool=a')).body.items.length, 6)
  assert.equal((await call(fleet, 'GET', '/v1/sandboxes?status=stopped&pool=a')).body.items.length, 0)
  assert.equal((await call(fleet, 'GET', '/v1/sandboxes?pool=a', { who: 'other' })).status, 403)
  assert.deepEqual((await call(fleet, 'GET', '/v1/sandboxes', { who: 'other' })).body, { items: [], unreachable: ['w2'] })
  // One that is gone from its host, and one whose host is gone from the fleet.
  there.made.delete(ids[0]!)
  fleet.workers.access_.delete('w2')
  fleet.links.doubt('w2')
  const later = await call(fleet, 'GET', '/v1/sandboxes')
  assert.deepEqual([later.body.items.length, later.body.unreachable, fleet.index.faded, fleet.index.entries.has(ids[0]!)], [11, ['w2'], [hidden], false])
})

test('sockets with a ticket find their sandbox too', async t => {
  const fleet = await startFleet(t)
  const host = await FakeHost.start(t, (request, response) => response.end(request.headers.authorization ?? 'nobody'))
  host.server.on('upgrade', (request, socket) => {
    socket.on('error', () => {}).end(`HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\nConnection: close\r\n\r\n${request.headers.authorization ?? 'nobody'}`)
  })
  fleet.workers.add('w1', host.url)
  const id = 'sbx_00000000000000000000'
  await fleet.index.put({ id, workerId: 'w1', pool: 'default', createdAt: '2026-01-01T00:00:00.000Z', labels: {} })
  const upgrade = async (path: string) => {
    const { request } = await import('node:http')
    return await new Promise<[number, string]>(resolve => {
      request({ port: fleet.port, path, headers: { connection: 'Upgrade', upgrade: 'websocket' } }, answer => {
        answer.on('data', chunk => resolve([answer.statusCode!, String(chunk)]))
      }).end()
    })
  }
  assert.deepEqual(await upgrade(`/v1/sandboxes/${id}/terminals/t/attach?ticket=x`), [403, 'nobody'])
  assert.equal((await upgrade(`/v1/sandboxes/${id}/terminals/t/attach`))[0], 401)
  assert.equal((await upgrade('/v1/sandboxes/sbx_11111111111111111111/terminals/t/attach?ticket=x'))[0], 401)
  // Not a path of a console's.
  assert.equal((await fetch(`${fleet.url}/v1/sandboxes/${id}`)).status, 401)
})
