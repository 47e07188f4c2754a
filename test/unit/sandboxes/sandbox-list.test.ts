/** Paging through a list that changes meanwhile. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { SandboxManager, type SandboxFilter } from '../../../src/services/sandboxes/sandbox-manager.ts'
import { HostPlaces } from '../../../src/services/sandboxes/sandbox-places.ts'
import { writeRecord, type SandboxRecord } from '../../../src/services/sandboxes/sandbox-record.ts'

const firstMs = Date.parse('2026-03-01T09:30:00.000Z')

function makeRecord (index: number, more: Partial<SandboxRecord> = {}): SandboxRecord {
  return {
    version: 1,
    id: `sbx_${String(index).padStart(20, '0')}`,
    status: 'stopped',
    image: { reference: 'berth/base' },
    request: { env: {} },
    resources: { cpuMillis: 1000, memoryBytes: 2 ** 30, pids: 100 },
    labels: { parity: index % 2 === 0 ? 'even' : 'odd' },
    runtime: 'runsc',
    hostname: 'h',
    // Three at a time were made in the same millisecond: the id decides between them.
    createdAt: new Date(firstMs + Math.floor(index / 3)).toISOString(),
    timings: [],
    leaks: [],
    ...more,
  }
}

async function build (t: TestContext, records: SandboxRecord[]) {
  const dir = await mkdtemp(join(tmpdir(), 'berth-list-'))
  t.after(() => rm(dir, { recursive: true }))
  const places = new HostPlaces({ stateDir: join(dir, 'state'), runDir: join(dir, 'run') })
  for (const record of records) {
    await mkdir(places.sandbox(record.id).dir, { recursive: true })
    await writeRecord(places.sandbox(record.id).recordPath, record)
  }
  const unused = new Proxy({}, { get () { throw new Error('a list touches nothing on the host') } })
  const manager = new SandboxManager({
    places,
    cgroups: unused as never,
    network: unused as never,
    runtimes: new Map(),
    steps: [],
    logger: pino({ level: 'silent' }),
    defaultRuntime: 'runsc',
    maxConcurrentStarts: 1,
    events: { append () {} },
    onEnded () {},
    onRemoved () {},
    onSetUp () {},
  })
  await manager.open()
  const indexes = (filter: SandboxFilter) => {
    const page = manager.list(filter)
    return { indexes: page.items.map(({ id }) => Number(id.slice(4))), nextCursor: page.nextCursor }
  }
  return { manager, indexes, idOf: (index: number) => makeRecord(index).id }
}

const ten = Array.from({ length: 10 }, (_value, index) => makeRecord(index))

test('a list is newest first, page by page, each sandbox once', async t => {
  const { indexes } = await build(t, ten)
  const first = indexes({ limit: 4 })
  assert.deepEqual(first.indexes, [9, 8, 7, 6])
  const second = indexes({ limit: 4, cursor: first.nextCursor ?? '' })
  assert.deepEqual(second.indexes, [5, 4, 3, 2])
  const third = indexes({ limit: 4, cursor: second.nextCursor ?? '' })
  assert.deepEqual(third, { indexes: [1, 0], nextCursor: undefined })
})

test('a page that ends exactly at the end has no next', async t => {
  const { indexes } = await build(t, ten)
  assert.equal(indexes({ limit: 10 }).nextCursor, undefined)
})

test('a sandbox that vanishes between two pages, even the last one seen, moves no other', async t => {
  const { manager, indexes, idOf } = await build(t, ten)
  const { nextCursor = '' } = indexes({ limit: 4 })
  await manager.forget(idOf(6))
  await manager.forget(idOf(4))
  assert.deepEqual(indexes({ limit: 4, cursor: nextCursor }).indexes, [5, 3, 2, 1])
})

test('filters hold on every page', async t => {
  const { indexes } = await build(t, ten)
  const first = indexes({ limit: 2, labels: { parity: 'odd' } })
  assert.deepEqual(first.indexes, [9, 7])
  assert.deepEqual(indexes({ limit: 10, labels: { parity: 'odd' }, cursor: first.nextCursor ?? '' }).indexes, [5, 3, 1])
  assert.deepEqual(indexes({ labels: { parity: 'neither' } }).indexes, [])
  assert.deepEqual(indexes({ status: ['running'] }).indexes, [])
  assert.deepEqual(indexes({ image: 'berth/base', runtime: 'runsc', status: ['running', 'stopped'] }).indexes.length, 10)
})

test('deleted sandboxes are listed only where they are asked for', async t => {
  const { indexes } = await build(t, [makeRecord(0), makeRecord(1, { deletedAt: new Date(firstMs).toISOString() })])
  assert.deepEqual(indexes({}).indexes, [0])
  assert.deepEqual(indexes({ includeDeleted: true }).indexes, [1, 0])
})

test('a cursor that no list answered is refused', async t => {
  const { manager } = await build(t, ten)
  for (const cursor of ['', 'x', Buffer.from('2026-03-01T09:30:00.000Z sbx_../../etc').toString('base64url')]) {
    assert.throws(() => manager.list({ cursor }), { kind: 'invalid_argument', code: 'invalid_cursor' })
  }
})
