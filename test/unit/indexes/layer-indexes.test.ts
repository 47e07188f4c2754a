/** Indexes of layers on one host. */
import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { contentOf, makeLayer, startHost, tempDir, type IndexedLayer } from '../../support/index-fixture.ts'

const context = { sources: [] }
const hexOf = ({ layer }: IndexedLayer) => layer.digest.slice('sha256:'.length)

test('an index outlives the layer that it was made of, and the process', async t => {
  const made = makeLayer(t)
  const { indexes, dir } = await startHost(t)
  assert.equal(await indexes.find(made.layer, context), undefined)
  await indexes.add(made.layer, made.files, context)
  const content = contentOf(made.files)
  for (const path of Object.values(made.files) as string[]) rmSync(path)
  const found = await indexes.find(made.layer, context)
  assert.ok(found)
  assert.deepEqual(contentOf(found), content)
  const later = await startHost(t, { dir })
  const foundLater = await later.indexes.find(made.layer, context)
  assert.ok(foundLater)
  assert.deepEqual(contentOf(foundLater), content)
})

test('an index takes no space of its own while its layer is here', async t => {
  const made = makeLayer(t)
  const { indexes } = await startHost(t)
  await indexes.add(made.layer, made.files, context)
  const found = await indexes.find(made.layer, context)
  assert.equal(statSync(found!.metaPath).ino, statSync(made.files.metaPath).ino)
})

test('the indexes that were not used for the longest time go when there are too many', async t => {
  const [first, second, third] = [makeLayer(t, 30_000), makeLayer(t, 30_000), makeLayer(t, 30_000)]
  const { indexes, dir } = await startHost(t, { maxBytes: 70_000 })
  for (const [i, made] of [first, second].entries()) {
    await indexes.add(made.layer, made.files, context)
    utimesSync(join(dir, hexOf(made)), i + 1, i + 1)
  }
  // The times are those on disk: what another process of this host used counts.
  const later = await startHost(t, { dir, maxBytes: 70_000 })
  assert.ok(await later.indexes.find(first.layer, context))
  await later.indexes.add(third.layer, third.files, context)
  assert.deepEqual(readdirSync(dir).sort(), [hexOf(first), hexOf(third)].sort())
  assert.equal(await later.indexes.find(second.layer, context), undefined)
  const smaller = await startHost(t, { dir, maxBytes: 40_000 })
  assert.equal(await smaller.indexes.find(first.layer, context), undefined)
  assert.ok(await smaller.indexes.find(third.layer, context))
})

test('what a crash left half-made is cleared, and nothing of others', async t => {
  const made = makeLayer(t)
  const dir = tempDir(t)
  for (const name of [`.making-${hexOf(made)}-1`, `.removing-${hexOf(made)}-2`]) {
    mkdirSync(join(dir, name))
    writeFileSync(join(dir, name, 'meta.erofs'), 'half')
  }
  writeFileSync(join(dir, 'notes.txt'), 'of the operator')
  const { indexes } = await startHost(t, { dir })
  assert.deepEqual(readdirSync(dir), ['notes.txt'])
  assert.equal(await indexes.find(made.layer, context), undefined)
})

test('a damaged index is removed, and can be made again', async t => {
  const made = makeLayer(t)
  const { indexes, dir, warnings } = await startHost(t)
  const other = makeLayer(t)
  await indexes.add(other.layer, other.files, context)
  await indexes.add(made.layer, made.files, context)
  truncateSync(join(dir, hexOf(made), 'spans'), 200)
  assert.equal(await indexes.find(made.layer, context), undefined)
  assert.match(warnings[0]?.err?.message ?? '', /damaged|cut off/)
  assert.deepEqual(readdirSync(dir), [hexOf(other)])
})

test('an image that says something else of the same blob gets no index, and costs nobody theirs', async t => {
  const made = makeLayer(t)
  const { indexes } = await startHost(t)
  await indexes.add(made.layer, made.files, context)
  for (const lie of [{ diffId: `sha256:${'0'.repeat(64)}` }, { sizeBytes: 5 }, { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip' }]) {
    assert.equal(await indexes.find({ ...made.layer, ...lie }, context), undefined, JSON.stringify(lie))
  }
  assert.ok(await indexes.find(made.layer, context))
})

test('an index of another layer is not kept', async t => {
  const [made, other] = [makeLayer(t), makeLayer(t)]
  const { indexes, dir, warnings } = await startHost(t)
  await indexes.add(made.layer, other.files, context)
  assert.equal(warnings.length, 1)
  assert.deepEqual(readdirSync(dir), [])
})

test('layers that cannot be read in parts have no index', async t => {
  const { layer, files } = makeLayer(t)
  const { indexes, dir, warnings } = await startHost(t)
  for (const mediaType of ['application/vnd.oci.image.layer.v1.tar+zstd', 'text/plain']) {
    await indexes.add({ ...layer, mediaType }, files, context)
    assert.equal(await indexes.find({ ...layer, mediaType }, context), undefined)
  }
  assert.deepEqual([readdirSync(dir), warnings], [[], []])
})

test('a boot profile is kept, the last one counts, and garbage is none', async t => {
  const { layer: { digest } } = makeLayer(t)
  const { indexes, dir } = await startHost(t)
  assert.equal(await indexes.findProfile(digest, context), undefined)
  await indexes.addProfile(digest, [{ digest, spans: [2] }], context)
  const profile = [{ digest, spans: [2, 0, 1] }, { digest: `sha256:${'1'.repeat(64)}`, spans: [] }]
  await indexes.addProfile(digest, profile, context)
  assert.deepEqual(await indexes.findProfile(digest, context), profile)
  writeFileSync(join(dir, `profile-${digest.slice(7)}`, 'profile.json'), '{"version":1,"layers":[{"digest":"/etc/passwd","spans":[-1]}]}')
  assert.equal(await indexes.findProfile(digest, context), undefined)
})
