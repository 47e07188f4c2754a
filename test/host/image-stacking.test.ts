/** Layers on each other, and mirrors that lie: what only shows when layers are mounted where others would unpack them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { imageOf, leaveIndexes, MiB, neverFills, publish, pull, randomFiles, rootLayer, sumLines } from '../support/image-host.ts'
import { FaultyProxy, TestRegistry } from '../support/registry.ts'
import { directory, entry, tar } from '../support/tar-writer.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const look = 'stat -c "%n %a %F" /drop /sub; cat /drop/x /real/y'

test('a directory that a layer has no entry for keeps its mode and stays a link', async t => {
  const registry = await TestRegistry.start(t)
  const daemon = await TestDaemon.start(t)
  const below = tar(directory('drop', { mode: 0o1777 }), directory('real'), entry({ name: 'sub', type: '2', linkName: 'real' }))
  const above = tar(entry({ name: 'drop/x' }, 'x'), entry({ name: 'sub/y' }, 'y'))
  const { reference, digest } = await publish(t, registry, { layers: [rootLayer, { tar: below }, { tar: above }] }, { name: 'implicit' })
  // Once at the first start, once as it is kept, once after a pull.
  for (const round of ['first', 'second', 'pulled']) {
    if (round === 'pulled') assert.equal((await pull(daemon, reference)).status, 200)
    const { id } = await daemon.create({ image: reference })
    const { stdout, stderr } = await daemon.exec(id, ['sh', '-c', look])
    assert.equal(stdout + stderr, '/drop 1777 directory\n/sub 777 symbolic link\nxy', round)
    await daemon.remove(id)
  }
  assert.equal((await imageOf(daemon, digest)).kind, 'unpacked')
})

test('directories without an entry that no other layer has are no reason to unpack', async t => {
  const registry = await TestRegistry.start(t)
  const daemon = await TestDaemon.start(t)
  const { reference, digest } = await publish(t, registry, { layers: [rootLayer, { tar: tar(entry({ name: 'a/b/c' }, 'deep')) }, { tar: tar(entry({ name: 'a/b/d' }, 'too')) }] }, { name: 'deep' })
  const { id } = await daemon.create({ image: reference })
  assert.equal((await daemon.exec(id, ['cat', '/a/b/c', '/a/b/d'])).stdout, 'deeptoo')
  assert.equal((await imageOf(daemon, digest)).kind, 'layered')
})

test('a mirror that answers with other bytes is seen through, whole and in parts', async t => {
  const registry = await TestRegistry.start(t)
  const [origin, mirror] = await Promise.all([FaultyProxy.start(t, registry.host), FaultyProxy.start(t, registry.host)])
  const daemon = await TestDaemon.start(t, { env: { ...neverFills, BERTH_REGISTRY_MIRRORS: `${origin.host}=http://${mirror.host}` } })
  const files = randomFiles({ one: 3 * MiB, two: 5 * MiB })
  const { reference } = await publish(t, registry, { layers: [rootLayer, { files }] }, { name: 'lied-about', host: origin.host })
  mirror.set({ corrupts: true })
  await leaveIndexes(daemon, reference)
  const { id } = await daemon.create({ image: reference })
  assert.equal((await daemon.exec(id, ['sha256sum', ...Object.keys(files).map(name => `/${name}`)])).stdout, sumLines(files))
  assert.ok(mirror.requestsOf(/blobs/) > 0 && origin.requestsOf(/blobs/) > 0)
})
