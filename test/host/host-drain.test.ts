/** A host that is drained, by the real daemon: what runs goes on, what comes waits or is refused, and a restart changes nothing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pollUntil } from '../../src/lib/poll.ts'
import type { Host } from '../../src/schemas/host.ts'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { Task } from '../../src/schemas/task.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const shell = (script: string) => ({ image: 'berth/base', entrypoint: ['sh', '-c', script], resources: { cpuMillis: 100, memoryBytes: 128 * 1024 ** 2 } })

async function queue (daemon: TestDaemon, script: string): Promise<string> {
  const { status, body, text } = await daemon.request<Task>('POST', '/v1/tasks', shell(script))
  assert.equal(status, 201, text)
  return body.id
}

const task = async (daemon: TestDaemon, id: string) => (await daemon.request<Task>('GET', `/v1/tasks/${id}`)).body

async function becomes (daemon: TestDaemon, id: string, status: Task['status']): Promise<Task> {
  assert.ok(await pollUntil(async () => (await task(daemon, id)).status === status, 60_000), `${(await task(daemon, id)).status}, not ${status}`)
  return await task(daemon, id)
}

test('a drained host goes on with what runs and begins nothing, over a restart too, until it is undrained; what outlasts its time is given back', async t => {
  const daemon = await TestDaemon.start(t)
  const { id } = await daemon.create()
  const running = await queue(daemon, 'until [ -e /workspace/go ]; do sleep 0.05; done')
  const { sandboxId } = await becomes(daemon, running, 'running')
  const drained = await daemon.request<Host>('POST', '/v1/host/drain')
  assert.deepEqual([drained.status, drained.body.status], [200, 'draining'])
  const waiting = await queue(daemon, 'true')
  const create = (headers = {}) => daemon.request<Sandbox & { code: string }>('POST', '/v1/sandboxes', { image: 'berth/base' }, headers)
  const key = { 'idempotency-key': 'once' }
  assert.deepEqual([(await create()).body.code, (await create(key)).status], ['host_draining', 503])

  await daemon.restart()
  const host = await daemon.request<Host>('GET', '/v1/host')
  assert.deepEqual([host.body.status, host.body.drain], ['draining', drained.body.drain])
  assert.equal((await daemon.request('GET', '/readyz')).status, 200)
  assert.equal((await create()).body.code, 'host_draining')
  assert.equal((await daemon.exec(id, ['echo', 'on'])).stdout, 'on\n')
  assert.equal((await daemon.exec(sandboxId!, ['touch', '/workspace/go'])).exitCode, 0)
  await becomes(daemon, running, 'complete')
  assert.equal((await task(daemon, waiting)).status, 'pending')

  assert.equal((await daemon.request<Host>('POST', '/v1/host/undrain')).body.status, 'ready')
  await becomes(daemon, waiting, 'complete')
  assert.equal((await create(key)).status, 201)
  const events = await daemon.request<{ items: Array<{ type: string }> }>('GET', '/v1/events?limit=1000')
  assert.deepEqual(events.body.items.filter(({ type }) => /^host\.(un)?drain/.test(type)).map(({ type }) => type), ['host.draining', 'host.undrained'])

  const endless = await queue(daemon, 'trap "exit 9" TERM; while :; do sleep 0.05; done')
  await becomes(daemon, endless, 'running')
  await daemon.request('POST', '/v1/host/drain', { stopAfterMs: 0 })
  assert.deepEqual((await becomes(daemon, endless, 'pending')).attempts.map(({ end }) => end?.reason), ['drained'])
  // Not the fault of the task: it has as many attempts left as before.
  await daemon.request('POST', '/v1/host/undrain')
  assert.equal((await becomes(daemon, endless, 'running')).attempt, 1)
})
