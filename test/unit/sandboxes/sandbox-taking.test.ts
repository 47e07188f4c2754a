/** A host that takes nothing more refuses sandboxes, but neither those of its tasks nor those that it has made already. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { BerthError } from '../../../src/errors.ts'
import { SandboxManager } from '../../../src/services/sandboxes/sandbox-manager.ts'
import { HostPlaces } from '../../../src/services/sandboxes/sandbox-places.ts'
import { writeRecord } from '../../../src/services/sandboxes/sandbox-record.ts'

test('a create is refused, one whose answer was lost is answered, and the sandbox of a task is made', async t => {
  const dir = await mkdtemp(join(tmpdir(), 'berth-taking-'))
  t.after(() => rm(dir, { recursive: true }))
  const places = new HostPlaces({ stateDir: join(dir, 'state'), runDir: join(dir, 'run') })
  const id = `sbx_${'0'.repeat(20)}`
  await mkdir(places.sandbox(id).dir, { recursive: true })
  await writeRecord(places.sandbox(id).recordPath, {
    version: 1,
    id,
    status: 'stopped',
    image: { reference: 'berth/base' },
    request: { env: {} },
    resources: { cpuMillis: 1000, memoryBytes: 2 ** 30, pids: 100 },
    labels: {},
    runtime: 'runsc',
    hostname: 'h',
    createdAt: new Date().toISOString(),
    wasCreated: true,
    idempotencyKey: 'tok/made',
    timings: [],
    leaks: [],
  })
  let isTaking = false
  const reached = () => { throw new Error('reached') }
  const manager = new SandboxManager({
    places,
    cgroups: {} as never,
    // The first that a create asks.
    network: { specOf: reached } as never,
    runtimes: new Map(),
    steps: [],
    logger: pino({ level: 'silent' }),
    defaultRuntime: 'runsc',
    maxConcurrentStarts: 1,
    assertTaking: () => { if (!isTaking) throw new BerthError('unavailable', 'host_draining', 'drained') },
    events: { append () {} },
    onEnded () {},
    onRemoved () {},
    onSetUp () {},
  })
  await manager.open()
  const input = { image: 'berth/base' }
  await assert.rejects(manager.create(input), { code: 'host_draining' })
  await assert.rejects(manager.create(input, { idempotencyKey: 'tok/new' }), { code: 'host_draining' })
  assert.equal((await manager.create(input, { idempotencyKey: 'tok/made' })).id, id)
  await assert.rejects(manager.createForTask(input, { id: 'tsk_1', fence: 1 } as never), { message: 'reached' })
  isTaking = true
  await assert.rejects(manager.create(input, { idempotencyKey: 'tok/new' }), { message: 'reached' })
})
