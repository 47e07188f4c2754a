/** Images that are fetched while they are read: how little is fetched, how often, for whom, and for how long it stays. */
import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test, type TestContext } from 'node:test'
import type { Image, PruneResult } from '../../src/schemas/image.ts'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { eventually, simulateReboot } from '../support/host-surgery.ts'
import { eventsOf, hashOf, imageOf, imageProcesses, leaveIndexes, MiB, neverFills, publish, pull, randomFiles, rootLayer, sumLines, type Published } from '../support/image-host.ts'
import { FaultyProxy, TestRegistry } from '../support/registry.ts'
import { findLeftovers } from '../support/leftovers.ts'
import { TestDaemon } from '../support/test-daemon.ts'

const big = randomFiles({ big: 12 * MiB })
const small = randomFiles(Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`small/${index}`, 1 + index * 300])))
const another = randomFiles({ another: 3 * MiB })

let registry: TestRegistry
let image: Published
let other: Published

const releases: Array<() => void | Promise<void>> = []
after(async () => { for (const release of releases.toReversed()) await release() })
// node:test's own `after` would belong to the hook that calls it.
const teardown = { after: (release: () => void | Promise<void>) => { releases.push(release) } }

before(async () => {
  registry = await TestRegistry.start(teardown)
  image = await publish(teardown, registry, { layers: [rootLayer, { files: big }, { files: small }] }, { name: 'large' })
  other = await publish(teardown, registry, { layers: [rootLayer, { files: another }] }, { name: 'other' })
})

interface Parts {
  proxy: FaultyProxy
  daemon: TestDaemon
  reference: string
  otherReference: string
}

async function build (t: TestContext, env: Record<string, string> = neverFills): Promise<Parts> {
  const proxy = await FaultyProxy.start(t, registry.host)
  const daemon = await TestDaemon.start(t, { env })
  return { proxy, daemon, reference: `${proxy.host}/large:latest`, otherReference: `${proxy.host}/other:latest` }
}

const layerRequests = (proxy: FaultyProxy) => image.blobs.map(digest => proxy.requestsOf(new RegExp(digest)))

async function sums (daemon: TestDaemon, id: string, files: Record<string, Buffer>): Promise<void> {
  const { stdout, stderr } = await daemon.exec(id, ['sha256sum', ...Object.keys(files).map(path => `/${path}`)])
  assert.equal(stdout + stderr, sumLines(files))
}

/** Names of the layers that are mounted; those with a dot are served by the image server. */
async function mountedLayers (daemon: TestDaemon): Promise<string[]> {
  const prefix = `mount ${join(daemon.runDir, 'layers')}/`
  return (await findLeftovers({ dir: daemon.dir, hostId: '' })).filter(line => line.startsWith(prefix)).map(line => line.slice(prefix.length))
}

const hexOf = (digest: string) => digest.replace('sha256:', '')

test('a sandbox starts with a small part of its image, and reads all of it right', async t => {
  const { proxy, daemon, reference } = await build(t)
  await leaveIndexes(daemon, reference)
  const fetched = () => proxy.bytesOf(/\/blobs\//)
  const before = fetched()
  const { id } = await daemon.create({ image: reference })
  const content = big['data/big']!
  assert.ok(fetched() - before < content.length / 8, `${fetched() - before} bytes were fetched for the start`)
  for (const [skip, count] of [[11_000, 1], [3, 7], [7_345, 2], [12_287, 5]] as const) {
    const { stdout } = await daemon.exec(id, ['sh', '-c', `dd if=/data/big bs=1024 skip=${skip} count=${count} 2>/dev/null | sha256sum`])
    assert.equal(stdout.split(' ')[0], hashOf(content.subarray(skip * 1024, (skip + count) * 1024)))
  }
  assert.ok(fetched() - before < content.length, 'what is not read is not fetched')
  assert.equal((await imageOf(daemon, image.digest)).state, 'partial')
  await sums(daemon, id, small)
  await sums(daemon, id, big)
  const seen = proxy.seen.length
  await sums(daemon, id, { ...small, ...big })
  const second = await daemon.create({ image: reference })
  await sums(daemon, second.id, { ...big, ...small })
  assert.equal(proxy.seen.length, seen, 'what was read is here, for every sandbox')
})

test('ten sandboxes at once of an image that nobody has prepare it once', async t => {
  const { proxy, daemon, reference } = await build(t)
  const sandboxes = await Promise.all(Array.from({ length: 10 }, () => daemon.create({ image: reference })))
  assert.deepEqual(layerRequests(proxy), [1, 1, 1])
  await Promise.all(sandboxes.slice(0, 3).map(({ id }) => sums(daemon, id, small)))
  assert.equal((await mountedLayers(daemon)).length, image.blobs.length)
  const seen = proxy.seen.length
  await daemon.create({ image: reference })
  assert.equal(proxy.seen.length, seen, 'one more asks nobody')
  assert.equal((await imageOf(daemon, image.digest)).leases, 11)
})

test('ten sandboxes at once on an index fetch each part once', async t => {
  const { proxy, daemon, otherReference } = await build(t)
  await leaveIndexes(daemon, otherReference)
  const before = proxy.bytesOf(/\/blobs\//)
  const sandboxes = await Promise.all(Array.from({ length: 10 }, () => daemon.create({ image: otherReference })))
  await Promise.all(sandboxes.slice(0, 4).map(({ id }) => sums(daemon, id, another)))
  const size = (await imageOf(daemon, other.digest)).layers.reduce((sum, layer) => sum + layer.sizeBytes, 0)
  // Each sandbox may have asked for the manifest and the configuration; neither has a KiB.
  assert.ok(proxy.bytesOf(/\/blobs\//) - before < size + 10 * 1024)
})

test('two daemons have nothing of each other\'s images', async t => {
  const one = await build(t)
  const two = await build(t)
  await leaveIndexes(one.daemon, one.reference)
  const lazy = await one.daemon.create({ image: one.reference })
  assert.deepEqual((await two.daemon.request<{ items: Image[] }>('GET', '/v1/images')).body.items, [])
  const whole = await two.daemon.create({ image: two.reference })
  assert.deepEqual(layerRequests(two.proxy), [1, 1, 1])
  assert.deepEqual([(await imageOf(one.daemon, image.digest)).state, (await imageOf(two.daemon, image.digest)).state], ['partial', 'complete'])
  await two.daemon.remove(whole.id)
  assert.equal((await two.daemon.request('DELETE', `/v1/images/${image.digest}`)).status, 200)
  await sums(one.daemon, lazy.id, big)
})

test('what a sandbox holds is not removed, and what nobody holds is', async t => {
  const { daemon, reference, otherReference } = await build(t)
  await leaveIndexes(daemon, reference)
  const { id } = await daemon.create({ image: reference })
  const stopped = await daemon.create({ image: reference })
  await daemon.request('POST', `/v1/sandboxes/${stopped.id}/stop`, { force: true })
  assert.equal((await pull(daemon, otherReference)).status, 200)

  const refused = await daemon.request<ErrorBody>('DELETE', `/v1/images/${image.digest}`)
  assert.deepEqual([refused.status, refused.body.code], [409, 'image_in_use'])
  assert.deepEqual([...refused.body.details?.['leases'] as string[]].sort(), [id, stopped.id].sort())
  const pruned = await daemon.request<PruneResult>('POST', '/v1/images/prune')
  assert.deepEqual(pruned.body.digests, [other.digest])
  assert.ok(pruned.body.freedBytes >= another['data/another']!.length)
  assert.equal((await daemon.request<ErrorBody>('DELETE', `/v1/images/${other.digest}`)).body.code, 'image_not_found')
  await sums(daemon, id, big)

  await daemon.remove(id)
  assert.equal((await daemon.request('DELETE', `/v1/images/${image.digest}`)).status, 409)
  await daemon.remove(stopped.id)
  assert.equal((await daemon.request('DELETE', `/v1/images/${image.digest}`)).status, 200)
  assert.deepEqual(await readdir(join(daemon.stateDir, 'images/layers')), [])
  assert.deepEqual(await mountedLayers(daemon), [])
})

test('the disk budget takes what nobody holds, with its layers and mounts', async t => {
  // Chores of a minute are done every second.
  const hurry = `data:text/javascript,${encodeURIComponent('const wait = setInterval; globalThis.setInterval = (work, ms, ...rest) => wait(work, Math.min(ms, 1000), ...rest)')}`
  const { daemon, reference, otherReference } = await build(t, { ...neverFills, BERTH_IMAGE_DISK_BYTES: String(MiB), NODE_OPTIONS: `--import=${hurry}` })
  const held = await daemon.create({ image: otherReference })
  await daemon.request('POST', `/v1/sandboxes/${held.id}/stop`, { force: true })
  const isGone = async (digest: string) => (await daemon.request('GET', `/v1/images/${digest}`)).status === 404
  const running = await daemon.create({ image: reference })
  await daemon.remove(running.id)
  await eventually(() => isGone(image.digest), 'an image that nobody holds goes')
  const [root, ...rest] = other.blobs.map(hexOf)
  assert.ok(root !== undefined && root === hexOf(image.blobs[0]!), 'both images share a layer')
  await eventually(async () => (await readdir(join(daemon.stateDir, 'images/layers'))).length === 2, 'its layers go')
  assert.deepEqual((await readdir(join(daemon.stateDir, 'images/layers'))).sort(), [root, ...rest].sort())
  assert.deepEqual((await mountedLayers(daemon)).map(name => name.split('.')[0]).sort(), [root, ...rest].sort())
  assert.deepEqual((await eventsOf(daemon, 'image.removed')).map(({ data }) => data['digest']), [image.digest])
  const started = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${held.id}/start`)
  assert.equal(started.body.status, 'running', started.text)
  await sums(daemon, held.id, another)
  await daemon.remove(held.id)
  await eventually(() => isGone(other.digest), 'the other image goes when its sandbox is gone')
})

test('a layer is completed in the background, and needs no server from then on', async t => {
  const { proxy, daemon, reference } = await build(t, { ...neverFills, BERTH_IMAGE_FILL_DELAY_MS: '0' })
  await leaveIndexes(daemon, reference)
  const first = await daemon.create({ image: reference })
  await eventually(async () => (await imageOf(daemon, image.digest)).state === 'complete', 'the image is complete')
  await proxy.refuse()
  await sums(daemon, first.id, { ...big, ...small })
  const second = await daemon.create({ image: reference })
  const mounted = await mountedLayers(daemon)
  for (const digest of image.blobs) assert.ok(mounted.includes(hexOf(digest)), `${digest} is mounted from this host's disk`)
  for (const verb of ['stop', 'start']) {
    const answer = await daemon.request('POST', `/v1/sandboxes/${first.id}/${verb}`, verb === 'stop' ? { force: true } : undefined)
    assert.equal(answer.status, 200, answer.text)
  }
  const { keeper, server } = await imageProcesses(daemon)
  for (const pid of [keeper, server]) process.kill(pid, 'SIGKILL')
  await eventually(async () => (await eventsOf(daemon, 'image.lost')).length === 1, 'the daemon has noticed')
  assert.deepEqual((await eventsOf(daemon, 'image.lost'))[0]?.data['sandboxIds'], [])
  for (const { id } of [first, second]) await sums(daemon, id, { ...big, ...small })
})

for (const kept of [{ areMountsKept: false, isRunDirKept: false }, { areMountsKept: true, isRunDirKept: true }]) {
  test(`a sandbox starts again after a restart of the host that ${kept.isRunDirKept ? 'leaves' : 'takes'} the run directory`, async t => {
    const { daemon, reference, otherReference } = await build(t)
    await leaveIndexes(daemon, reference)
    const lazy = await daemon.create({ image: reference })
    await sums(daemon, lazy.id, { 'data/small/99': small['data/small/99']! })
    const stopped = await daemon.create({ image: reference })
    assert.equal((await daemon.exec(stopped.id, ['sh', '-c', 'echo kept > /workspace/own'])).exitCode, 0)
    await daemon.request('POST', `/v1/sandboxes/${stopped.id}/stop`, { force: true })
    const whole = await daemon.create({ image: otherReference })
    await daemon.end('SIGKILL')
    await simulateReboot(daemon, kept)
    await daemon.start()
    for (const { id } of [lazy, stopped, whole]) {
      const started = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/start`)
      assert.equal(started.body.status, 'running', started.text)
    }
    assert.equal((await daemon.exec(stopped.id, ['cat', '/workspace/own'])).stdout, 'kept\n')
    await sums(daemon, stopped.id, small)
    await sums(daemon, lazy.id, big)
    await sums(daemon, whole.id, another)
  })
}
