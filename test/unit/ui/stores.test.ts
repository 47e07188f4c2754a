import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Event } from '../../../src/schemas/event.ts'
import type { LogRecord } from '../../../src/schemas/log.ts'
import { ApiClient } from '../../../src/ui/api/api-client.ts'
import { cleanToken, forgetToken, loadToken, saveToken, type TokenStorage } from '../../../src/ui/api/session.ts'
import { makeRunForm, readRunForm } from '../../../src/ui/parts/run-form.ts'
import { LogBuffer } from '../../../src/ui/stores/log-buffer.ts'
import { ResourceStore } from '../../../src/ui/stores/resource-store.ts'
import { addUsage, noUsage } from '../../../src/ui/stores/usage-history.ts'

const line = (text: string, more: Partial<Extract<LogRecord, { type: 'line' }>> = {}): LogRecord => ({ type: 'line', cursor: '0', at: '2026-03-01T00:00:00Z', stream: 'stdout', text, partial: false, ...more })

test('parts of a line are put together, each stream for itself', () => {
  const buffer = new LogBuffer()
  buffer.add([line('one ', { partial: true }), line('err', { stream: 'stderr' }), line('line'), line('aGkg/w==', { encoding: 'base64' })])
  assert.deepEqual(buffer.lines.map(({ text, stream }) => [text, stream]), [['one line', 'stdout'], ['err', 'stderr'], ['hi \ufffd', 'stdout']])
})

test('a log holds a bounded number of lines and characters, and says how many it let go', () => {
  const few = new LogBuffer({ lines: 3, characters: 1000 })
  few.add(['1', '2', '3', '4', '5'].map(text => line(text)))
  assert.deepEqual([few.lines.map(({ text }) => text), few.dropped, few.lines[0]!.number], [['3', '4', '5'], 2, 3])
  const small = new LogBuffer({ lines: 100, characters: 10 })
  small.add([line('12345'), line('67890'), line('abcde')])
  assert.deepEqual(small.lines.map(({ text }) => text), ['67890', 'abcde'])
  const endless = new LogBuffer()
  for (let turn = 0; turn < 40; turn++) endless.add([line('x'.repeat(1000), { partial: true })])
  assert.equal(endless.lines[0]!.text.length, 16 * 1024)
})

test('load is the difference of two looks', () => {
  const look = (at: string, cpuTimeMs: number) => ({ sandboxId: 'sbx_1', at, cpuTimeMs, memoryBytes: 5, peakMemoryBytes: 6, pids: 7 })
  const first = addUsage(noUsage, [look('2026-03-01T00:00:00.000Z', 1000)])
  assert.deepEqual(first.current.get('sbx_1'), { memoryBytes: 5, pids: 7 })
  const second = addUsage(first, [look('2026-03-01T00:00:02.000Z', 2000)])
  assert.equal(second.current.get('sbx_1')!.cpuMillis, 500)
  assert.equal(addUsage(second, [look('2026-03-01T00:00:02.000Z', 2000)]).current.get('sbx_1')!.cpuMillis, 500, 'a look at the same moment')
  assert.equal(addUsage(second, [look('2026-03-01T00:00:04.000Z', 10)]).current.get('sbx_1')!.cpuMillis, undefined, 'started anew')
  assert.equal(addUsage(second, []).current.size, 0)
})

interface Item { id: string, createdAt: string, status: string, deletedAt?: string }

function build () {
  const items = new Map<string, Item>(['a', 'b', 'c'].map(id => [id, { id, createdAt: id, status: 'running' }]))
  const asked: string[] = []
  const client = new ApiClient({
    token: 'secret',
    fetch: async input => {
      const url = new URL(String(input), 'http://berth')
      asked.push(url.pathname)
      const id = url.pathname.split('/')[3]
      if (id === undefined) return Response.json({ items: [...items.values()] })
      const item = items.get(id)
      return item ? Response.json(item) : Response.json({ code: 'not_found', message: 'none' }, { status: 404 })
    },
  })
  const store = new ResourceStore<Item>({ client, path: '/v1/sandboxes', idOf: event => event.sandboxId, isDeletion: ({ type }) => type === 'sandbox.deleted', gatherMs: 1 })
  const tell = (sandboxId: string, type: Event['type'] = 'sandbox.status') => store.receive({ seq: 1, at: '', type, sandboxId, data: {} })
  return { items, asked, store, tell }
}

async function until (isSo: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1000 && !isSo(); turn++) await new Promise(resolve => setTimeout(resolve, 5))
  assert.ok(isSo(), String(isSo))
}

test('only what events speak of is read again, and the rest stays the same object', async () => {
  const { items, asked, store, tell } = build()
  await store.load()
  const before = store.items.value
  items.set('b', { ...items.get('b')!, status: 'stopped' })
  tell('b')
  tell('b')
  await until(() => store.items.value.get('b')!.status === 'stopped')
  assert.deepEqual(asked, ['/v1/sandboxes', '/v1/sandboxes/b'])
  assert.equal(store.items.value.get('a'), before.get('a'))
})

test('what is gone goes: by its event, by an answer of 404, by a record of something deleted', async () => {
  const { items, store, tell } = build()
  await store.load()
  tell('a', 'sandbox.deleted')
  items.delete('b')
  items.set('c', { ...items.get('c')!, deletedAt: 'now' })
  tell('b')
  tell('c')
  await until(() => store.items.value.size === 0)
})

test('many changes are one reading of all', async () => {
  const { asked, store, tell } = build()
  await store.load()
  for (let turn = 0; turn < 100; turn++) tell(`x${turn}`)
  await until(() => asked.length > 1)
  assert.deepEqual(asked, ['/v1/sandboxes', '/v1/sandboxes'])
})

test('nothing is read for events while nobody has asked for the list', async () => {
  const { asked, tell } = build()
  tell('a')
  await new Promise(resolve => setTimeout(resolve, 20))
  assert.deepEqual(asked, [])
})

function storage (): TokenStorage & { size: () => number } {
  const map = new Map<string, string>()
  return { getItem: key => map.get(key) ?? null, setItem: (key, value) => void map.set(key, value), removeItem: key => void map.delete(key), size: () => map.size }
}

test('a token is in one place at most, and in none after signing out', () => {
  const places = { tab: storage(), browser: storage() }
  saveToken(places, 'one', true)
  saveToken(places, 'two', false)
  assert.deepEqual([loadToken(places), places.browser.size()], ['two', 0])
  forgetToken(places)
  assert.deepEqual([loadToken(places), places.tab.size()], [undefined, 0])
  assert.equal(cleanToken(' Bearer abc.def\n'), 'abc.def')
  assert.equal(cleanToken('two words'), undefined)
})

test('a form asks for what was filled in, and for nothing else', () => {
  const form = makeRunForm()
  assert.deepEqual(readRunForm(form), { image: 'berth/base' })
  Object.assign(form.command, { value: 'sleep 5' })
  form.memory.value = '512m'
  form.timeout.value = '10m'
  form.egress.value = 'rules'
  form.allow.value = 'example.com'
  assert.deepEqual(readRunForm(form), { image: 'berth/base', entrypoint: ['sleep', '5'], resources: { memoryBytes: 512 * 1024 ** 2 }, timeoutMs: 600_000, network: { egress: { allow: ['example.com'] } } })
  form.memory.value = 'lots'
  assert.throws(() => readRunForm(form), /^Error: Memory: /)
})
