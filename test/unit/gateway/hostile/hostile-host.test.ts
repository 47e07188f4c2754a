/** Hosts that lie: what they answer is believed as far as it makes sense, and costs nobody but themselves. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fetch } from 'undici'
import { FleetOutputBuffer } from '../../../../src/gateway/logs/fleet-output-buffer.ts'
import { HostGoneError } from '../../../../src/gateway/logs/host-log-client.ts'
import type { FleetLogEntry } from '../../../../src/services/fleet-wire/fleet-log-entry.ts'
import { hostLogReader } from '../host-log-rig.ts'
import { as, FakeHost } from '../proxy/proxy-rig.ts'
import { SandboxHost, startFleet } from '../sandboxes/sandbox-rig.ts'
import { makeRecord } from '../tasks/fleet-record.ts'

const sandboxes = { method: 'POST', headers: as('client', { 'content-type': 'application/json' }) }
const id = 'sbx_00000000000000000000'
const sandbox = { id, status: 'running', createdAt: '2026-01-01T00:00:00.000Z', labels: {} }

test('a host cannot draw requests for the sandbox of another to itself', async t => {
  const [honest, liar] = [await SandboxHost.start(t), await FakeHost.start(t, (_request, response) => response.writeHead(201).end(JSON.stringify(sandbox)))]
  const fleet = await startFleet(t)
  fleet.workers.add('honest', honest.host.url, { pool: 'a' })
  fleet.workers.add('liar', liar.url, { pool: 'b' })
  const mine = { id, workerId: 'honest', pool: 'a', createdAt: sandbox.createdAt, labels: {} }
  fleet.index.entries.set(id, mine)
  const answer = await fetch(`${fleet.url}/v1/sandboxes`, { ...sandboxes, body: JSON.stringify({ image: 'a/b', pool: 'b' }) })
  assert.deepEqual([answer.status, (await answer.json() as { code: string }).code], [503, 'worker_unreachable'])
  assert.deepEqual(fleet.index.entries.get(id), mine)
})

test('what is no sandbox is neither given out nor written down, and spoils no list', async t => {
  const nonsense = ['', 'null', '5', '[]', '{}', '{"id":', JSON.stringify({ ...sandbox, id: '../x' }), JSON.stringify({ ...sandbox, createdAt: 'soon' }),
    JSON.stringify({ ...sandbox, labels: null }), JSON.stringify({ ...sandbox, labels: { a: 1 } }), JSON.stringify({ ...sandbox, createdAt: '-271821-04-20T00:00:00Z' })]
  let said = ''
  const honest = await SandboxHost.start(t)
  const liar = await FakeHost.start(t, (request, response) => response.writeHead(request.method === 'POST' ? 201 : 200).end(said))
  const fleet = await startFleet(t)
  fleet.workers.add('liar', liar.url, { pool: 'b' })
  fleet.workers.add('honest', honest.host.url, { pool: 'a' })
  const made = await (await fetch(`${fleet.url}/v1/sandboxes`, { ...sandboxes, body: JSON.stringify({ image: 'a/b', pool: 'a', labels: { of: 'me' } }) })).json() as { id: string }
  for (said of nonsense) {
    const answer = await fetch(`${fleet.url}/v1/sandboxes`, { ...sandboxes, body: JSON.stringify({ image: 'a/b', pool: 'b' }) })
    assert.equal(answer.status, 503, `${said}: ${await answer.text()}`)
    assert.deepEqual([...fleet.index.entries.keys()], [made.id], said)
  }
  fleet.index.entries.set(id, { id, workerId: 'liar', pool: 'b', createdAt: sandbox.createdAt, labels: {} })
  for (said of [...nonsense, JSON.stringify({ ...sandbox, id: made.id })]) {
    const list = await fetch(`${fleet.url}/v1/sandboxes?label=of%3Dme`, { headers: as('client') })
    const { items, unreachable } = await list.json() as { items: { id: string }[], unreachable: string[] }
    assert.deepEqual([items.map(one => one.id), unreachable], [[made.id], ['liar']], said)
  }
})

test('records of a host that are none end the reading of it, and change nothing else', async t => {
  const line = { type: 'line', cursor: '0:1', at: '', stream: 'stdout', text: 'a', partial: false }
  const nonsense: unknown[] = [null, 5, 'a', [], {}, { ...line, stream: '__proto__' }, { ...line, stream: 'constructor' }, { ...line, text: {} }, { ...line, cursor: 'x' }, { ...line, cursor: 5 },
    { ...line, encoding: 'hex' }, { ...line, partial: 'no' }, { type: '__proto__', cursor: '0:1' }, { type: 'gap', cursor: '0:1' }]
  let said: unknown
  const host = await FakeHost.start(t, (_request, response) => response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`data: ${JSON.stringify(said)}\n\nevent: end\ndata: {}\n\n`))
  const read = hostLogReader(t, host.url)
  for (said of nonsense) await assert.rejects(read(), HostGoneError, JSON.stringify(said))
  said = line
  assert.deepEqual(await read(), [line])
})

test('entries in Redis that make no sense are left out', async () => {
  const entry = { task_id: 'a', timestamp: 1, stream: 'stdout', data: 'yes', attempt: 1, fence: 1, seq: 0, cursor: '0:1' } as const
  const nonsense = [{ fence: '1' }, { fence: 1.5 }, { seq: {} }, { cursor: 'x' }, { cursor: 5 }, { cursor: null }] as unknown as Partial<FleetLogEntry>[]
  const odd = [{ timestamp: 8.64e15 + 1 }, { timestamp: 'soon' }, { encoding: 'nonsense' }, { gap: true, message: 5 }] as unknown as Partial<FleetLogEntry>[]
  const entries = [...nonsense, ...odd].map(fields => ({ ...entry, ...fields }))
  const buffer = new FleetOutputBuffer({ read: async () => ({ entries, endedFences: [] }), follow: async function * () {} })
  assert.deepEqual((await buffer.read(makeRecord({}))).entries.map(({ data }) => String(data)), ['yes', 'yes', 'yes', '5'])
})
