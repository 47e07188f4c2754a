/** Indexes that hosts share through a real registry and a real S3 server. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { openLayerIndexes } from '../../src/services/images/indexes/open-layer-indexes.ts'
import { RegistryConnections } from '../../src/services/images/registry/registry-connections.ts'
import { defaultRegistrySettings } from '../../src/services/images/registry/registry-settings.ts'
import { FaultyProxy, TestRegistry } from '../support/registry.ts'
import { TestS3Server } from '../support/s3-server.ts'
import { contentOf, makeLayer, recordingLogger, tempDir } from '../support/index-fixture.ts'

interface HostOptions {
  store: string
  secretAccessKey?: string
}

/** The indexes of a host of the fleet, as the image server opens them. */
async function startHost (t: TestContext, { store, secretAccessKey = TestS3Server.secretAccessKey }: HostOptions) {
  const dir = tempDir(t)
  const [keyFile, credentialsFile] = [join(dir, 'key'), join(dir, 'credentials')]
  writeFileSync(keyFile, Buffer.alloc(32, 3), { mode: 0o600 })
  writeFileSync(credentialsFile, `[default]\naws_access_key_id = ${TestS3Server.accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`, { mode: 0o600 })
  const connections = new RegistryConnections({ settings: { ...defaultRegistrySettings, stallTimeoutMs: 5000 } })
  const { logger, warnings } = recordingLogger()
  const indexes = await openLayerIndexes({ dir: join(dir, 'indexes'), store, keyFile, credentialsFile }, { connections, logger })
  t.after(async () => {
    await indexes.close()
    await connections.close()
  })
  return { indexes, warnings }
}

function contextOf (registry: string) {
  return { sources: [{ kind: 'registry' as const, registry, repository: 'team/image' }] }
}

const image = `sha256:${'a'.repeat(64)}`

test('a registry keeps indexes and profiles beside the image, once each', async t => {
  const registry = await TestRegistry.start(t)
  const proxy = await FaultyProxy.start(t, registry.host)
  const context = contextOf(proxy.host)
  const { layer, files } = makeLayer(t, 300_000)
  const [first, second] = [await startHost(t, { store: 'registry' }), await startHost(t, { store: 'registry' })]
  assert.equal(await second.indexes.find(layer, context), undefined)
  await Promise.all([first.indexes.add(layer, files, context), first.indexes.add(layer, files, context)])
  await first.indexes.addProfile(image, [{ digest: layer.digest, spans: [2, 1] }], context)
  await first.indexes.settled()
  assert.deepEqual(first.warnings, [])
  const found = await second.indexes.find(layer, context)
  assert.ok(found)
  assert.deepEqual(contentOf(found), contentOf(files))
  assert.deepEqual(await second.indexes.findProfile(image, context), [{ digest: layer.digest, spans: [2, 1] }])
  await second.indexes.add(layer, files, context)
  await second.indexes.settled()
  const third = await startHost(t, { store: 'registry' })
  await third.indexes.add(layer, files, context)
  await third.indexes.settled()
  assert.equal(proxy.seen.filter(({ method, path }) => method === 'PUT' && path.includes('/manifests/berth-index-v1-')).length, 1)
  assert.deepEqual([first.warnings, second.warnings, third.warnings], [[], [], []])
  const { tags } = await (await fetch(`${registry.url}/v2/team/image/tags/list`)).json() as { tags: string[] }
  assert.deepEqual(tags.map(tag => tag.replace(/-[0-9a-f]{16}-[0-9a-f]{64}$/, '')).sort(), ['berth-index-v1', 'berth-profile-v1'])
})

test('a registry that lets nobody push is not bothered again, and takes it from who may', async t => {
  const basicAuth = { username: 'robot', password: 'secret-word' }
  const registry = await TestRegistry.start(t, { basicAuth })
  const proxy = await FaultyProxy.start(t, registry.host)
  const context = contextOf(proxy.host)
  const [one, two] = [makeLayer(t), makeLayer(t)]
  const host = await startHost(t, { store: 'registry' })
  await host.indexes.add(one.layer, one.files, context)
  await host.indexes.settled()
  assert.equal(host.warnings.length, 1)
  const asked = proxy.seen.length
  await host.indexes.add(two.layer, two.files, context)
  await host.indexes.settled()
  assert.equal(proxy.seen.length, asked)
  const withCredentials = { ...context, credentials: basicAuth }
  await host.indexes.add(one.layer, one.files, withCredentials)
  await host.indexes.settled()
  const other = await startHost(t, { store: 'registry' })
  assert.ok(await other.indexes.find(one.layer, withCredentials))
  assert.doesNotMatch(JSON.stringify([host.warnings, other.warnings]), /secret-word/)
})

test('an S3 store keeps indexes and profiles under its prefix, once each', async t => {
  const server = await TestS3Server.start(t)
  const proxy = await FaultyProxy.start(t, server.host)
  const store = `s3://${server.bucket}/fleet/one?endpoint=http://${proxy.host}&region=eu-central-1`
  const context = { sources: [{ kind: 'file' as const, path: '/nowhere', offsetBytes: 0 }] }
  const { layer, files } = makeLayer(t, 300_000)
  const [first, second] = [await startHost(t, { store }), await startHost(t, { store })]
  assert.equal(await second.indexes.find(layer, context), undefined)
  await Promise.all([first.indexes.add(layer, files, context), first.indexes.add(layer, files, context)])
  await first.indexes.addProfile(image, [{ digest: layer.digest, spans: [0] }], context)
  await first.indexes.settled()
  const found = await second.indexes.find(layer, context)
  assert.ok(found)
  assert.deepEqual(contentOf(found), contentOf(files))
  assert.deepEqual(await second.indexes.findProfile(image, context), [{ digest: layer.digest, spans: [0] }])
  const third = await startHost(t, { store })
  await third.indexes.add(layer, files, context)
  await third.indexes.settled()
  assert.equal(proxy.seen.filter(({ method }) => method === 'PUT').length, 2)
  assert.deepEqual([...server.objects().keys()].map(key => key.replace(/-[0-9a-f]{16}-[0-9a-f]{64}$/, '')).sort(), ['fleet/one/index-v1', 'fleet/one/profile-v1'])
  assert.deepEqual([first.warnings, second.warnings, third.warnings], [[], [], []])
})

test('an S3 store with a wrong secret, or without the bucket, is said and done without', async t => {
  const server = await TestS3Server.start(t)
  const { layer, files } = makeLayer(t)
  const context = { sources: [] }
  const cases = [
    { store: `s3://${server.bucket}?endpoint=http://${server.host}`, secretAccessKey: 'wrong-secret', code: /403 SignatureDoesNotMatch/ },
    { store: `s3://no-such-bucket?endpoint=http://${server.host}`, secretAccessKey: TestS3Server.secretAccessKey, code: /no such bucket/ },
  ]
  for (const { code, ...options } of cases) {
    const host = await startHost(t, options)
    assert.equal(await host.indexes.find(layer, context), undefined)
    assert.match(host.warnings[0]?.err?.message ?? '', code)
    await host.indexes.add(layer, files, context)
    assert.ok(await host.indexes.find(layer, context))
    assert.doesNotMatch(JSON.stringify(host.warnings), /wrong-secret/)
  }
})

test('what somebody changed in the bucket is refused, and replaced by who makes it', async t => {
  const server = await TestS3Server.start(t)
  const store = `s3://${server.bucket}?endpoint=http://${server.host}`
  const context = { sources: [] }
  const { layer, files } = makeLayer(t)
  const maker = await startHost(t, { store })
  await maker.indexes.add(layer, files, context)
  await maker.indexes.settled()
  const [path] = server.objects().values()
  const content = readFileSync(path!)
  content[content.length - 1]! ^= 1
  writeFileSync(path!, content)
  const host = await startHost(t, { store })
  assert.equal(await host.indexes.find(layer, context), undefined)
  assert.match(host.warnings[0]?.msg ?? '', /refused/)
  await host.indexes.add(layer, files, context)
  await host.indexes.settled()
  const other = await startHost(t, { store })
  assert.ok(await other.indexes.find(layer, context))
})

test('a store that is down costs the index and nothing else; storing is tried again', async t => {
  const server = await TestS3Server.start(t)
  const proxy = await FaultyProxy.start(t, server.host)
  const store = `s3://${server.bucket}?endpoint=http://${proxy.host}`
  const context = { sources: [] }
  const { layer, files } = makeLayer(t)
  await proxy.refuse()
  const host = await startHost(t, { store })
  assert.equal(await host.indexes.find(layer, context), undefined)
  assert.match(host.warnings[0]?.msg ?? '', /not usable/)
  await proxy.accept()
  proxy.failNext(1, 503)
  await host.indexes.add(layer, files, context)
  await host.indexes.settled()
  assert.equal(server.objects().size, 1)
})

test('a transfer that breaks off is taken up again; one that stalls is given up', async t => {
  const registry = await TestRegistry.start(t)
  const proxy = await FaultyProxy.start(t, registry.host)
  const context = contextOf(proxy.host)
  const { layer, files } = makeLayer(t, 300_000)
  const maker = await startHost(t, { store: 'registry' })
  await maker.indexes.add(layer, files, context)
  await maker.indexes.settled()
  proxy.set({ stallAfterBytes: 100_000 })
  const unlucky = await startHost(t, { store: 'registry' })
  assert.equal(await unlucky.indexes.find(layer, context), undefined)
  assert.match(unlucky.warnings[0]?.msg ?? '', /not usable/)
  proxy.set({ dropAfterBytes: 100_000, times: 1 })
  const host = await startHost(t, { store: 'registry' })
  const found = await host.indexes.find(layer, context)
  assert.ok(found)
  assert.deepEqual(contentOf(found), contentOf(files))
})
