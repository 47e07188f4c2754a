import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { BerthError } from '../../src/errors.ts'
import { mountLayer } from '../../src/host/erofs.ts'
import { buildLayer } from '../../src/services/images/layers/layer-builder.ts'
import type { LayerDirectory } from '../../src/services/images/layers/layer-directory.ts'
import { attachIndex, readLayerIndex, type LayerIndex } from '../../src/services/images/layers/layer-index.ts'
import { LazyLayer, type LazyLayerEvent, type LazyLayerOptions } from '../../src/services/images/layers/lazy-layer.ts'
import { decodeSpanTable, encodeSpanTable } from '../../src/services/images/layers/span-table.ts'
import { blobOf, digestOf, layerDirectory, layerOf, mediaTypes, type LayerFixture } from '../support/layer-fixture.ts'
import { directory, entry, tar } from '../support/tar-writer.ts'

// Eight megabytes that compress to about half, in files of all sizes.
const noise = Buffer.concat(Array.from({ length: 64 }, (_, i) => i % 2 === 0 ? randomBytes(128 * 1024) : Buffer.alloc(128 * 1024, `line ${i}\n`)))
const archive = tar(directory('./'), ...[10, 5000, 300_000, 2_000_000, 5_000_000].map(size => entry({ name: `f${size}` }, noise.subarray(0, size))))
const noSignal = new AbortController().signal

for (const [what, blob] of [
  ['gzip', layerOf(archive, 'gzip')],
  ['gzip of many members', blobOf(Buffer.concat(cut(archive, 700_001).map(part => gzipSync(part))), { diffId: digestOf(archive), mediaType: mediaTypes.gzip })],
  ['gzip of members with nothing in them', blobOf(Buffer.concat(cut(archive, 3_000_000).flatMap(part => [gzipSync(''), gzipSync(part)])), { diffId: digestOf(archive), mediaType: mediaTypes.gzip })],
  ['plain', layerOf(archive, 'plain')],
] as const) {
  test(`any part of a lazy layer can be read, and no other is fetched: ${what}`, async t => {
    const lazy = await lazyLayer(t, blob)
    const size = archive.length
    assert.ok(lazy.layer.table.spans.length > 4)
    for (const [start, end] of [[0, 1], [3_000_000, 3_000_100], [size - 10, size], [size - 1, size + 4096], [size + 5, size + 6], [1_048_000, 1_050_000]] as const) {
      await lazy.layer.ensure(start, end)
      assert.ok(readFileSync(lazy.layer.files.tarPath).subarray(start, end).equals(archive.subarray(start, end)), `${start}-${end}`)
    }
    assert.ok(lazy.layer.statistics().fetchedBytes < blob.layer.sizeBytes)
    assert.equal(lazy.layer.touchedSpans()[0], 0)
    for (let start = 0; start < size; start += 100_000) await lazy.layer.ensure(start, start + 100_000)
    assert.ok(readFileSync(lazy.layer.files.tarPath).equals(archive))
    assert.ok(lazy.layer.hasAllSpans)
  })
}

test('many readers of one part fetch it once', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  await Promise.all(Array.from({ length: 20 }, (_, i) => lazy.layer.ensure(3_000_000 + i, 3_000_100 + i)))
  assert.equal(lazy.ranges.length, 1)
})

test('what is filled is complete, and the same as the layer that was built', async t => {
  const blob = layerOf(archive, 'gzip')
  const lazy = await lazyLayer(t, blob)
  await lazy.layer.ensure(3_000_000, 3_000_001)
  assert.equal((await lazy.directory.find(blob.layer.digest))?.isComplete, false)
  await lazy.layer.fill({ signal: noSignal, isIdle: () => true })
  assert.equal((await lazy.directory.find(blob.layer.digest))?.isComplete, true)
  assert.deepEqual(lazy.events, [{ type: 'completed' }])
  assert.ok(readFileSync(lazy.layer.files.tarPath).equals(archive))
  const { metaPath, tarPath } = lazy.layer.files
  const target = join(lazy.root, 'mounted')
  mkdirSync(target)
  await mountLayer({ metaPath, devicePath: tarPath, target })
  lazy.mounted(target)
  assert.ok(readFileSync(join(target, 'f5000000')).equals(noise.subarray(0, 5_000_000)))
  const { fetchedBytes, localBytes, totalBytes } = lazy.layer.statistics()
  assert.equal(localBytes, totalBytes)
  assert.ok(fetchedBytes <= blob.layer.sizeBytes)
})

test('filling waits while somebody says that it should', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  let asked = 0
  const controller = new AbortController()
  const filling = lazy.layer.fill({
    signal: controller.signal,
    isIdle: () => {
      if (++asked === 3) controller.abort(new Error('enough'))
      return false
    },
  })
  await assert.rejects(filling, /enough|abort/i)
  assert.deepEqual(lazy.ranges, [])
})

test('a part with wrong bytes is refused and not written, and the next read gets it', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  for (const place of ['all', 0, 0.5, 0.99] as const) {
    lazy.change = bytes => place === 'all' ? bytes.fill(0) : flip(bytes, Math.floor(place * bytes.length))
    await assert.rejects(lazy.layer.ensure(3_000_000, 3_000_100), { code: 'image_invalid' })
    assert.ok(new Uint8Array(lazy.layer.present).every(byte => byte === 0))
    assert.ok(readFileSync(lazy.layer.files.tarPath).every(byte => byte === 0))
  }
  lazy.change = undefined
  await lazy.layer.ensure(3_000_000, 3_000_100)
  assert.deepEqual(lazy.events.map(event => event.type), ['stalled', 'recovered'])
})

test('a source that answers too little or too much is not believed', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  for (const change of [(bytes: Buffer) => bytes.subarray(1), (bytes: Buffer) => Buffer.concat([bytes, Buffer.alloc(1)]), () => Buffer.alloc(0)]) {
    lazy.change = change
    await assert.rejects(lazy.layer.ensure(0, 1), { code: 'registry_unavailable' })
  }
})

test('a source that stalls fails the read after its time, whatever it makes of the signal, and later reads get theirs', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'), { readTimeoutMs: 50 })
  const stuck = Promise.withResolvers<never>()
  lazy.before = () => stuck.promise
  await Promise.all([0, 1, 2].map(i => assert.rejects(lazy.layer.ensure(i, i + 1), { kind: 'unavailable', code: 'registry_unavailable' })))
  assert.equal(lazy.ranges.length, 1)
  lazy.before = undefined
  await lazy.layer.ensure(0, 1)
  assert.deepEqual(lazy.events.map(event => event.type), ['stalled', 'recovered'])
})

test('an answer that comes too late is not written', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'), { readTimeoutMs: 50 })
  const late = Promise.withResolvers<void>()
  lazy.before = () => late.promise
  await assert.rejects(lazy.layer.ensure(0, 1), { code: 'registry_unavailable' })
  late.resolve()
  await lazy.layer.close()
  assert.ok(readFileSync(lazy.layer.files.tarPath).every(byte => byte === 0))
})

test('an abort ends the wait of one reader and leaves the fetch to the others', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  const gate = Promise.withResolvers<void>()
  lazy.before = () => gate.promise
  const controller = new AbortController()
  const [gone, stays] = [lazy.layer.ensure(0, 1, { signal: controller.signal }), lazy.layer.ensure(0, 1)]
  controller.abort(new Error('gone'))
  await assert.rejects(gone, /gone/)
  gate.resolve()
  await stays
  assert.equal(lazy.ranges.length, 1)
})

test('what was here stays here over a restart, and what was not saved is fetched again', async t => {
  const blob = layerOf(archive, 'gzip')
  const lazy = await lazyLayer(t, blob)
  await lazy.layer.ensure(3_000_000, 3_000_100)
  await lazy.layer.close()
  const again = await LazyLayer.open({ ...lazy.options, fetchRange: async () => { throw new Error('nothing should be fetched') } })
  await again.ensure(3_000_000, 3_000_100)
  await again.close()
  // A crash before the first save: as if nothing had come.
  const crashed = await lazyLayer(t, blob)
  await crashed.layer.ensure(0, 100)
  const successor = await LazyLayer.open(crashed.options)
  assert.equal(successor.statistics().localBytes, 0)
  await successor.ensure(0, 100)
  await successor.close()
})

test('a layer whose spans are right and whose whole is not is condemned when it is filled', async t => {
  const blob = layerOf(archive, 'gzip')
  const otherDiffId = digestOf(Buffer.from('something else'))
  const layer = { ...blob.layer, diffId: otherDiffId }
  const index = await indexOf(t, blob)
  const lying: LayerIndex = { ...index, spans: encodeSpanTable({ ...decodeSpanTable(index.spans), diffId: otherDiffId }) }
  const lazy = await lazyLayer(t, { ...blob, layer }, {}, lying)
  await lazy.layer.ensure(0, 1)
  await assert.rejects(lazy.layer.fill({ signal: noSignal, isIdle: () => true }), { code: 'image_invalid' })
  assert.deepEqual(lazy.events.map(event => event.type), ['damaged'])
  await assert.rejects(lazy.layer.ensure(0, 1), { code: 'image_invalid' })
  assert.deepEqual(readdirSync(lazy.directory.dir), [])
})

test('metadata of another tar is replaced when the layer is filled', async t => {
  const blob = layerOf(archive, 'gzip')
  const other = layerOf(tar(directory('./'), entry({ name: 'shadow', mode: 0o4777 }, noise.subarray(0, 5000))), 'gzip')
  const [own, foreign] = [await indexOf(t, blob), await indexOf(t, other)]
  const lazy = await lazyLayer(t, blob, {}, { meta: foreign.meta, spans: own.spans })
  await lazy.layer.fill({ signal: noSignal, isIdle: () => true })
  assert.ok(readFileSync(lazy.layer.files.metaPath).equals(own.meta))
})

test('filling goes on when its source comes back', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  let failures = 1
  lazy.before = async () => { if (failures-- > 0) throw new BerthError('unavailable', 'registry_unavailable', 'not today') }
  await lazy.layer.fill({ signal: noSignal, isIdle: () => true })
  assert.ok(lazy.layer.hasAllSpans)
})

test('spans are fetched ahead in their order, neighbours in one request', async t => {
  const lazy = await lazyLayer(t, layerOf(archive, 'gzip'))
  await lazy.layer.prefetch([4, 0, 1, 99, -1])
  const { spans } = lazy.layer.table
  assert.deepEqual(lazy.ranges, [[spans[4]?.blobStart, spans[4]?.blobEnd], [spans[0]?.blobStart, spans[1]?.blobEnd]])
})

test('an index is refused that is of another layer or not what mkfs.erofs makes of a tar', async t => {
  const blob = layerOf(archive, 'gzip')
  const { directory: layers } = await layerDirectory(t)
  const index = await indexOf(t, blob)
  const otherSpans = encodeSpanTable({ ...decodeSpanTable(index.spans), digest: digestOf(Buffer.from('other')) })
  const changed = (offset: number, bytes: readonly number[]) => { const copy = Buffer.from(index.meta); Buffer.from(bytes).copy(copy, offset); return copy }
  const wrong: LayerIndex[] = [
    { ...index, spans: otherSpans },
    { ...index, spans: Buffer.from('no table') },
    { ...index, meta: Buffer.alloc(0) },
    { ...index, meta: Buffer.alloc(8192) },
    // Compression, blocks of 4 KiB, two devices, a device slot outside, a device larger than the tar.
    { ...index, meta: changed(1024 + 80, [0x09]) },
    { ...index, meta: changed(1024 + 12, [12]) },
    { ...index, meta: changed(1024 + 86, [2]) },
    { ...index, meta: changed(1024 + 88, [0xff, 0xff]) },
    { ...index, meta: changed(9 * 128 + 64, [0xff, 0xff, 0xff, 0x7f]) },
  ]
  for (const [i, candidate] of wrong.entries()) await assert.rejects(attachIndex({ layer: blob.layer, index: candidate, directory: layers }), { code: 'image_invalid' }, `case ${i}`)
  assert.deepEqual(readdirSync(layers.dir), [])
})

test('a zstd layer has no index', async t => {
  const { directory: layers } = await layerDirectory(t)
  const blob = layerOf(archive, 'zstd')
  await buildLayer({ ...blob, directory: layers })
  assert.equal(await readLayerIndex(layers, blob.layer.digest), undefined)
  assert.ok(!existsSync(layers.files(blob.layer.digest).spansPath))
})

/** A lazy layer of this blob, with a source that the test can hold and change. */
async function lazyLayer (t: TestContext, blob: LayerFixture, options: Partial<LazyLayerOptions> = {}, index?: LayerIndex) {
  const fixture = await layerDirectory(t)
  await attachIndex({ layer: blob.layer, index: index ?? await indexOf(t, blob), directory: fixture.directory })
  const ranges: number[][] = []
  const events: LazyLayerEvent[] = []
  const source: { before?: () => Promise<unknown>, change?: (bytes: Buffer) => Buffer } = {}
  const all: LazyLayerOptions = {
    directory: fixture.directory,
    digest: blob.layer.digest,
    onEvent: event => events.push(event),
    fetchRange: async (start, end) => {
      ranges.push([start, end])
      await source.before?.()
      const bytes = Buffer.from(blob.blob.subarray(start, end))
      return source.change?.(bytes) ?? bytes
    },
    ...options,
  }
  const layer = await LazyLayer.open(all)
  fixture.defer(() => layer.close())
  return Object.assign(source, fixture, { layer, ranges, events, options: all })
}

/** The index that a host makes that builds the layer. */
async function indexOf (t: TestContext, blob: LayerFixture): Promise<LayerIndex> {
  const layers: LayerDirectory = (await layerDirectory(t)).directory
  await buildLayer({ ...blob, directory: layers })
  const index = await readLayerIndex(layers, blob.layer.digest)
  assert.ok(index)
  return index
}

function cut (bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) => bytes.subarray(i * size, (i + 1) * size))
}

function flip (bytes: Buffer, at: number): Buffer {
  bytes[at] = (bytes[at] ?? 0) ^ 1
  return bytes
}
