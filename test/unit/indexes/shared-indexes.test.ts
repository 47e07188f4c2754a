/** What hosts share of indexes, and what they refuse. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { IndexKey } from '../../../src/services/images/indexes/index-key.ts'
import type { RemoteIndexStore } from '../../../src/services/images/indexes/remote-index-store.ts'
import { contentOf, fleetKey, FolderStore, makeLayer, refusal, startHost, tempDir } from '../../support/index-fixture.ts'

const context = { sources: [] }

/** A layer whose index one host has shared. */
async function share (t: TestContext, metaBytes?: number) {
  const made = makeLayer(t, metaBytes)
  const store = new FolderStore(tempDir(t))
  const { indexes } = await startHost(t, { store })
  await indexes.add(made.layer, made.files, context)
  await indexes.settled()
  assert.equal(store.puts, 1)
  return { ...made, store }
}

interface Header {
  parts: Array<{ name: string, bytes: number, sha256: string, storedBytes: number }>
  mac: string
  digest: string
}

/** Takes a bundle apart, lets it be changed, and puts it together again. */
function change (path: string, edit: (header: Header, parts: Buffer[]) => void): void {
  const content = readFileSync(path)
  const end = content.indexOf('\n')
  const header = JSON.parse(content.toString('utf8', 0, end)) as Header
  let at = end + 1
  const parts = header.parts.map(({ storedBytes }) => content.subarray(at, at += storedBytes))
  edit(header, parts)
  header.parts.forEach((part, i) => { part.storedBytes = parts[i]!.length })
  writeFileSync(path, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), ...parts]))
}

function flipped (bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at]! ^= 1
  return copy
}

test('what one host has made another uses, and keeps', async t => {
  const { layer, files, store } = await share(t)
  const { indexes, warnings } = await startHost(t, { store })
  const found = await indexes.find(layer, context)
  assert.ok(found)
  assert.deepEqual(contentOf(found), contentOf(files))
  rmSync(store.path)
  assert.ok(await indexes.find(layer, context))
  assert.deepEqual(warnings, [])
})

test('boot profiles are shared like indexes', async t => {
  const { layer: { digest } } = makeLayer(t)
  const store = new FolderStore(tempDir(t))
  const first = await startHost(t, { store })
  await first.indexes.addProfile(digest, [{ digest, spans: [1, 0] }], context)
  await first.indexes.settled()
  const second = await startHost(t, { store })
  assert.deepEqual(await second.indexes.findProfile(digest, context), [{ digest, spans: [1, 0] }])
})

const manipulations: Array<[what: string, reason: RegExp, manipulate: (path: string) => void]> = [
  ['changed metadata', /meta\.erofs is (?:not what was sealed|no gzip stream)/, path => change(path, (_, parts) => { parts[1] = flipped(parts[1]!, 100) })],
  ['other metadata', /meta\.erofs is not what was sealed/, path => change(path, (_, parts) => { parts[1] = gzipSync(Buffer.alloc(4096)) })],
  ['other metadata with its digest', /not sealed/, path => change(path, (header, parts) => {
    header.parts[1]!.sha256 = createHash('sha256').update(Buffer.alloc(4096)).digest('hex')
    parts[1] = gzipSync(Buffer.alloc(4096))
  })],
  ['a changed table of spans', /spans is not what was sealed/, path => change(path, (_, parts) => { parts[2] = flipped(parts[2]!, 110) })],
  ['another digest', /not sealed/, path => change(path, header => { header.digest = `sha256:${'0'.repeat(64)}` })],
  ['another seal', /not sealed/, path => change(path, header => { header.mac = '0'.repeat(64) })],
  ['a seal that is none', /not sealed/, path => change(path, header => { header.mac = 'x' })],
  ['no seal', /no bundle/, path => change(path, header => { delete (header as Partial<Header>).mac })],
  ['metadata that inflates without end', /meta\.erofs is larger than what was sealed/, path => change(path, (_, parts) => { parts[1] = gzipSync(Buffer.alloc(64 * 1024 ** 2)) })],
  ['a part that claims to be huge', /too large/, path => {
    const text = readFileSync(path).toString('latin1').replace(/"storedBytes":\d+/, '"storedBytes":99999999999')
    writeFileSync(path, Buffer.from(text, 'latin1'))
  }],
  ['a file less', /not sealed/, path => change(path, (header, parts) => { header.parts.pop(); parts.pop() })],
  ['an end that is missing', /spans is not what was sealed/, path => writeFileSync(path, readFileSync(path).subarray(0, -10))],
  ['more behind its end', /goes on behind its end/, path => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.from('x')]))],
  ['nothing', /no bundle/, path => writeFileSync(path, '')],
  ['garbage', /no bundle/, path => writeFileSync(path, Buffer.alloc(1_000_000, 'x'))],
  ['garbage in lines', /no bundle/, path => writeFileSync(path, 'null\n[]\n')],
]

for (const [what, reason, manipulate] of manipulations) {
  test(`a stored index with ${what} is refused, said, and replaced by one that is made here`, async t => {
    const { layer, files, store } = await share(t)
    manipulate(store.path)
    const host = await startHost(t, { store })
    assert.equal(await host.indexes.find(layer, context), undefined)
    assert.deepEqual(readdirSync(host.dir), [])
    assert.equal(host.warnings.length, 1)
    assert.match(host.warnings[0]!.msg, /refused/)
    assert.match(host.warnings[0]!.err?.message ?? '', reason)
    await host.indexes.add(layer, files, context)
    await host.indexes.settled()
    const other = await startHost(t, { store })
    assert.ok(await other.indexes.find(layer, context))
  })
}

test('the index of another layer under this layer\'s name is refused', async t => {
  const [wanted, other] = [await share(t), await share(t)]
  renameSync(other.store.path, wanted.store.path)
  const host = await startHost(t, { store: wanted.store })
  assert.equal(await host.indexes.find(wanted.layer, context), undefined)
  assert.match(host.warnings[0]?.err?.message ?? '', /of something else/)
})

test('what a host with another key has made is not even looked at, and refused where it is put under this key\'s name', async t => {
  const { layer, files, store } = await share(t)
  const [stolen] = readdirSync(store.dir)
  const stranger = await startHost(t, { store, key: new IndexKey(Buffer.alloc(32, 8)) })
  assert.equal(await stranger.indexes.find(layer, context), undefined)
  assert.deepEqual(stranger.warnings, [])
  await stranger.indexes.add(layer, files, context)
  await stranger.indexes.settled()
  const strange = readdirSync(store.dir).find(name => name !== stolen)
  renameSync(join(store.dir, strange!), join(store.dir, stolen!))
  const host = await startHost(t, { store })
  assert.equal(await host.indexes.find(layer, context), undefined)
  assert.match(host.warnings[0]?.err?.message ?? '', /not sealed/)
})

test('however often an index is added, it is stored once', async t => {
  const { layer, files, store } = await share(t)
  const host = await startHost(t, { store })
  await Promise.all([host.indexes.add(layer, files, context), host.indexes.add(layer, files, context)])
  await host.indexes.settled()
  await host.indexes.add(layer, files, context)
  await host.indexes.settled()
  assert.equal(store.puts, 1)
  const fresh = makeLayer(t)
  await Promise.all([1, 2, 3].map(() => host.indexes.add(fresh.layer, fresh.files, context)))
  await host.indexes.settled()
  assert.equal(store.puts, 2)
})

test('many who look for an index at once fetch it once', async t => {
  const { layer, store } = await share(t)
  const host = await startHost(t, { store })
  const before = store.finds
  const found = await Promise.all([1, 2, 3].map(() => host.indexes.find(layer, context)))
  assert.equal(found.filter(Boolean).length, 3)
  assert.equal(store.finds, before + 1)
})

for (const [what, failure, puts] of [['fails is tried again, and then left alone', new Error('it is full'), 3], ['refuses is left alone', refusal(), 1]] as const) {
  test(`a store that ${what}`, async t => {
    const [one, two] = [makeLayer(t), makeLayer(t)]
    const store = new FolderStore(tempDir(t))
    store.failure = failure
    const host = await startHost(t, { store })
    for (const made of [one, two, one]) {
      await host.indexes.add(made.layer, made.files, context)
      await host.indexes.settled()
    }
    assert.equal(store.puts, puts)
    assert.equal(host.warnings.length, puts)
    const credentials = { token: 'of somebody else' }
    store.failure = undefined
    await host.indexes.add(two.layer, two.files, { ...context, credentials })
    await host.indexes.settled()
    assert.equal(store.puts, puts + 1)
  })
}

/** Says nothing until the question is given up. */
const silentStore: RemoteIndexStore = {
  placeOf: () => 'the silence',
  find: async (_name, _context, signal) => {
    await once(signal, 'abort')
    throw signal.reason
  },
  put: async () => undefined,
  close: async () => undefined,
}

test('a store that does not answer holds nobody up for long, and is left alone for a while', async t => {
  const [one, two] = [makeLayer(t), makeLayer(t)]
  const host = await startHost(t, { store: silentStore, lookupMs: 50 })
  assert.equal(await host.indexes.find(one.layer, context), undefined)
  assert.equal(await host.indexes.find(two.layer, context), undefined)
  assert.deepEqual(host.warnings.map(({ msg }) => msg), ['image index store not usable; going on without it'])
  await host.indexes.add(one.layer, one.files, context)
  assert.ok(await host.indexes.find(one.layer, context))
})

test('a caller that gives up waits no longer, and closing gives up what is under way', async t => {
  const { layer } = makeLayer(t)
  const host = await startHost(t, { store: silentStore, lookupMs: 600_000 })
  const reason = new Error('nobody wants it any more')
  const controller = new AbortController()
  const finding = host.indexes.find(layer, { ...context, signal: controller.signal })
  controller.abort(reason)
  await assert.rejects(finding, reason)
  await host.indexes.close()
  assert.deepEqual([host.warnings, readdirSync(host.dir)], [[], []])
})

test('the key itself is in nothing that is stored', async t => {
  const { store } = await share(t)
  const content = readFileSync(store.path)
  assert.equal(content.includes(Buffer.alloc(32, 7)), false)
  assert.equal(content.includes('07'.repeat(32)), false)
  assert.match(readdirSync(store.dir)[0] ?? '', new RegExp(`^index-v1-${fleetKey.id}-[0-9a-f]{64}$`))
})
