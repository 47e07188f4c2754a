import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { hostPlatform } from '../../src/services/images/oci-manifest.ts'
import { RegistryClient, type RegistryClientOptions } from '../../src/services/images/registry/registry-client.ts'
import { RegistryConnections } from '../../src/services/images/registry/registry-connections.ts'
import { resolveRegistryImage } from '../../src/services/images/registry/registry-image.ts'
import { parseRegistryReference } from '../../src/services/images/registry/registry-reference.ts'
import { defaultRegistrySettings, type RegistrySettings } from '../../src/services/images/registry/registry-settings.ts'
import { makeImage, makeIndex, pushImage } from '../support/image-maker.ts'
import { FaultyProxy, makeCertificates, TestRegistry } from '../support/registry.ts'
import { tempDir } from '../unit/images/temp-dir.ts'

const authRequired = { kind: 'permission_denied', code: 'image_auth_required' }
const notFound = { kind: 'invalid_argument', code: 'image_not_found' }
const invalid = { kind: 'invalid_argument', code: 'image_invalid' }
const down = { kind: 'unavailable', code: 'registry_unavailable' }
const blobs = /\/blobs\//
const basicAuth = { username: 'user', password: 'pass:word' }
const manifestType = 'application/vnd.oci.image.manifest.v1+json'

type ClientOverrides = Partial<RegistrySettings> & Pick<RegistryClientOptions, 'credentials'>

function clientOf (t: TestContext, registry: string, repository: string, overrides: ClientOverrides = {}): RegistryClient {
  const { credentials, ...settings } = overrides
  const client = new RegistryClient({ registry, repository, credentials, settings: { ...defaultRegistrySettings, stallTimeoutMs: 1_000, connectTimeoutMs: 3_000, ...settings } })
  t.after(() => client.close())
  return client
}

/** A registry with one image of one incompressible layer, and a proxy in front of it. */
async function build (t: TestContext, overrides: ClientOverrides = {}) {
  const registry = await TestRegistry.start(t)
  const proxy = await FaultyProxy.start(t, registry.host)
  const image = makeImage(t, { layers: [{ files: { 'etc/motd': 'hello', 'bin/x': randomBytes(2_000_000) } }], config: { Cmd: ['sh'], User: 'app' } })
  await pushImage(image, registry, 'team/x:1')
  const [layer] = image.layers as [typeof image.layers[0] & object]
  return { registry, proxy, image, blob: { digest: layer.digest, sizeBytes: layer.size }, client: clientOf(t, proxy.host, 'team/x', overrides) }
}

async function readAll (chunks: AsyncIterable<Buffer>): Promise<Buffer> {
  const list: Buffer[] = []
  for await (const chunk of chunks) list.push(chunk)
  return Buffer.concat(list)
}

function digestOf (content: Buffer | string): string {
  return `sha256:${createHash('sha256').update(content).digest('hex')}`
}

/** A server of the test's own on 127.0.0.1. */
async function serve (t: TestContext, listener: RequestListener, tlsDir?: string): Promise<string> {
  const tls = tlsDir === undefined ? undefined : { cert: readFileSync(join(tlsDir, 'server.pem')), key: readFileSync(join(tlsDir, 'server.key')) }
  const server = tls ? createHttpsServer(tls, listener) : createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    server.close()
    server.closeAllConnections()
  })
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}

test('an image is resolved by tag and by digest, and its layer is streamed whole', async t => {
  const { client, image, proxy, blob } = await build(t)
  const byTag = await resolveRegistryImage(client, parseRegistryReference(`${proxy.host}/team/x:1`))
  assert.equal(byTag.digest, image.digest)
  assert.equal(byTag.indexDigest, undefined)
  assert.deepEqual(byTag.config, { env: {}, cmd: ['sh'], user: 'app' })
  assert.deepEqual(byTag.layers.map(({ digest, diffId }) => [digest, diffId]), [[blob.digest, digestOf(image.tars[0]!)]])
  assert.deepEqual([digestOf(byTag.manifest)], [image.digest])
  assert.deepEqual(await resolveRegistryImage(client, parseRegistryReference(`${proxy.host}/team/x:no@${image.digest}`)), byTag)
  const content = await readAll(client.streamBlob(blob))
  assert.equal(digestOf(content), blob.digest)
  assert.deepEqual(await readAll(client.streamBlob(blob, { offsetBytes: 1_000 })), content.subarray(1_000))
  assert.deepEqual(await client.fetchRange(blob, 5, 70_000), content.subarray(5, 70_000))
  assert.equal((await client.fetchRange(blob, 5, 5)).length, 0)
  assert.equal((await readAll(client.streamBlob(blob, { offsetBytes: blob.sizeBytes }))).length, 0)
})

test('of an index this host\'s platform is taken; without one the error lists what there is', async t => {
  const registry = await TestRegistry.start(t)
  const other = hostPlatform === 'linux/amd64' ? 'linux/arm64' : 'linux/amd64'
  const both = makeIndex(t, [{ platform: other }, { platform: hostPlatform, config: { User: 'mine' } }])
  const client = clientOf(t, registry.host, 'multi')
  const image = await resolveRegistryImage(client, parseRegistryReference(await pushImage(both, registry, 'multi:both')))
  assert.equal(image.indexDigest, both.digest)
  assert.equal(image.config.user, 'mine')
  const foreign = await pushImage(makeIndex(t, [{ platform: other }]), registry, 'multi:foreign')
  await assert.rejects(resolveRegistryImage(client, parseRegistryReference(foreign)), { ...notFound, details: { platforms: [other] } })
})

test('what is not there is image_not_found, where nobody is is registry_unavailable', async t => {
  const { client, registry, blob } = await build(t)
  await assert.rejects(client.getManifest('none'), { ...notFound, message: /has no team\/x:none;/ })
  await assert.rejects(client.getManifest(`sha256:${'0'.repeat(64)}`), notFound)
  await assert.rejects(readAll(client.streamBlob({ ...blob, digest: `sha256:${'0'.repeat(64)}` })), notFound)
  await assert.rejects(clientOf(t, registry.host, 'none').getManifest('latest'), notFound)
  await registry.stop()
  await assert.rejects(clientOf(t, registry.host, 'team/x').getManifest('1'), { ...down, message: /refuses/, details: { registry: registry.host } })
  await assert.rejects(clientOf(t, 'no-such-host.invalid', 'x').getManifest('1'), { ...down, message: /does not resolve/ })
})

test('small artifacts are pushed and found again', async t => {
  const { client, proxy } = await build(t)
  const content = randomBytes(50_000)
  assert.equal(await client.hasBlob(digestOf(content)), false)
  const pushed = await client.pushBlob(content)
  assert.deepEqual(pushed, { digest: digestOf(content), sizeBytes: 50_000 })
  assert.equal(await client.hasBlob(pushed.digest), true)
  proxy.failNext(1, 503)
  await client.pushBlob(content)
  const manifest = Buffer.from(JSON.stringify({
    schemaVersion: 2,
    mediaType: manifestType,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: pushed.digest, size: 50_000 },
    layers: [],
  }))
  assert.equal(await client.pushManifest('lazy', manifestType, manifest), digestOf(manifest))
  assert.deepEqual(await client.getManifest('lazy'), { digest: digestOf(manifest), mediaType: manifestType, body: manifest })
})

test('a stream that breaks or stalls goes on from where it was', async t => {
  const { client, proxy, blob } = await build(t)
  for (const fault of [{ dropAfterBytes: 300_000, times: 4 }, { stallAfterBytes: 300_000, times: 1 }, { dropAfterBytes: 0, times: 2 }]) {
    proxy.set(fault)
    const before = proxy.bytesOf(blobs)
    assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest, JSON.stringify(fault))
    assert.ok(proxy.bytesOf(blobs) - before < blob.sizeBytes * 1.5, 'what had come was not fetched again')
  }
  proxy.set({ dropAfterBytes: 300_000, times: 2, ignoresRange: true })
  assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest)
  assert.equal((await client.fetchRange(blob, 100_000, 200_000)).length, 100_000)
})

test('answers that pass are waited out, those that stay end in registry_unavailable', async t => {
  const { client, proxy, blob } = await build(t)
  for (const status of [429, 500, 502, 503]) {
    proxy.failNext(2, status)
    assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest, String(status))
  }
  proxy.failNext(100, 503)
  await assert.rejects(client.getManifest('1'), { ...down, details: { registry: proxy.host, status: 503 } })
  assert.ok(proxy.requestsOf(/manifests/) <= 5)
})

test('a range is asked for again until the registry is back or the signal ends it', async t => {
  const { client, proxy, blob } = await build(t)
  await proxy.refuse()
  await assert.rejects(client.fetchRange(blob, 0, 10), down)
  const reason = new Error('enough')
  const controller = new AbortController()
  const failing = client.fetchRange(blob, 0, 10, { signal: controller.signal })
  setTimeout(() => controller.abort(reason), 300)
  await assert.rejects(failing, reason)
  const back = client.fetchRange(blob, 0, 10, { signal: new AbortController().signal })
  await proxy.accept()
  assert.equal((await back).length, 10)
})

test('an abort ends a stalled stream with its reason and leaves no connection', async t => {
  const { client, proxy, blob } = await build(t, { stallTimeoutMs: 60_000 })
  proxy.set({ stallAfterBytes: 100_000 })
  const reason = new Error('enough')
  const controller = new AbortController()
  const read = async () => {
    let bytes = 0
    for await (const chunk of client.streamBlob(blob, { signal: controller.signal })) {
      bytes += chunk.length
      if (bytes >= 100_000) controller.abort(reason)
    }
  }
  await assert.rejects(read(), reason)
  await assert.rejects(client.getManifest('1', { signal: AbortSignal.abort(reason) }), reason)
  while (await proxy.connections() > 0) await setImmediate()
  // As does a reader that has had enough.
  for await (const chunk of client.streamBlob(blob)) {
    assert.ok(chunk.length > 0)
    break
  }
  while (await proxy.connections() > 0) await setImmediate()
  const last = client.fetchRange(blob, 0, blob.sizeBytes)
  await client.close()
  await assert.rejects(last, { ...down, message: /was closed/ })
  await assert.rejects(client.getManifest('1'), down)
})

test('content with another digest or size is image_invalid', async t => {
  const { client, proxy, registry, blob, image } = await build(t)
  proxy.set({ corrupts: true })
  await assert.rejects(readAll(client.streamBlob(blob)), { ...invalid, message: /another digest/ })
  proxy.set({})
  await assert.rejects(readAll(client.streamBlob({ ...blob, sizeBytes: blob.sizeBytes - 1 })), invalid)
  await assert.rejects(readAll(client.streamBlob({ ...blob, sizeBytes: blob.sizeBytes + 1 })), invalid)
  await assert.rejects(client.fetchRange({ ...blob, sizeBytes: blob.sizeBytes + 1 }, 0, 10), invalid)
  truncateSync(registry.blobPath(blob.digest), 1_000)
  await assert.rejects(readAll(client.streamBlob(blob)), invalid)
  writeFileSync(registry.blobPath(image.digest), '{}')
  await assert.rejects(client.getManifest(image.digest))
})

test('TLS is verified with the given authority, and the error says how to give one', async t => {
  const registry = await TestRegistry.start(t, { tls: true })
  const reference = await pushImage(makeImage(t, {}), registry, 'x:1')
  const { repository } = parseRegistryReference(reference)
  const client = (settings: Partial<RegistrySettings>) => clientOf(t, registry.host, repository, settings)
  assert.ok(await client({ insecure: [], caFile: registry.caFile }).getManifest('1'))
  await assert.rejects(client({ insecure: [] }).getManifest('1'), { ...down, message: /TLS.*BERTH_REGISTRY_CA_FILE/ })
  await assert.rejects(client({ insecure: [], caFile: join(registry.dir, 'htpasswd') }).getManifest('1'), { ...down, message: /BERTH_REGISTRY_CA_FILE/ })
  assert.ok(await client({ insecure: [registry.host] }).getManifest('1'), 'an insecure host may have any certificate')
  const plain = await TestRegistry.start(t)
  await assert.rejects(clientOf(t, plain.host, 'x', { insecure: [] }).getManifest('1'), { ...down, message: /does not speak TLS.*BERTH_INSECURE_REGISTRIES/ })
})

test('basic credentials come from the request or a file, and their lack is image_auth_required', async t => {
  const registry = await TestRegistry.start(t, { basicAuth })
  await pushImage(makeImage(t, {}), registry, 'x:1')
  const file = join(tempDir(t), 'auth.json')
  const auth = (password: string) => Buffer.from(`user:${password}`).toString('base64')
  writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth: auth(basicAuth.password) } } }))
  await assert.rejects(clientOf(t, registry.host, 'x').getManifest('1'), { ...authRequired, message: /docker login 127.*BERTH_REGISTRY_AUTH_FILE/ })
  const client = clientOf(t, registry.host, 'x', { authFiles: [file] })
  assert.ok(await client.getManifest('1'))
  await client.pushBlob(Buffer.from('x'))
  assert.ok(await clientOf(t, registry.host, 'x', { credentials: basicAuth }).getManifest('1'))
  const wrong = { username: 'user', password: 's3cret' }
  await assert.rejects(clientOf(t, registry.host, 'x', { authFiles: [file], credentials: wrong }).getManifest('1'), (error: Error) => {
    assert.match(error.message, /not accepted/)
    return !error.message.includes('s3cret')
  })
  writeFileSync(file, JSON.stringify({ auths: { [registry.host]: { auth: auth('no') } } }))
  await assert.rejects(client.getManifest('1'), authRequired)
  writeFileSync(file, JSON.stringify({ auths: { [registry.host]: {} }, credsStore: 'desktop' }))
  await assert.rejects(client.getManifest('1'), { ...authRequired, message: /helpers are not run/ })
})

/** A registry that wants tokens, its token service, and a CDN; with what each was sent. */
async function tokenRig (t: TestContext) {
  const content = randomBytes(1000)
  const seen: Array<{ place: string, url: string, authorization: string | undefined, body: string }> = []
  const state = { expiresIn: 300, valid: 'token-1', realm: '', location: '' }
  const note = async (place: string, request: IncomingMessage) => {
    const body = (await readAll(request)).toString()
    seen.push({ place, url: request.url ?? '', authorization: request.headers.authorization, body })
  }
  const cdn = await serve(t, (request, answer) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')
    const [start, last] = [Number(range?.[1] ?? 0), Number(range?.[2] ?? 999)]
    const isGone = request.url !== '/' + state.location.split('/').at(-1)
    void note('cdn', request).then(() => {
      if (isGone) return answer.writeHead(403).end()
      if (range) answer.writeHead(206, { 'content-range': `bytes ${start}-${last}/1000` })
      answer.end(content.subarray(start, last + 1))
    })
  })
  state.location = `http://${cdn}/signed`
  const host = await serve(t, (request, answer) => {
    const url = request.url ?? ''
    if (url.startsWith('/token')) return void note('token', request).then(() => answer.end(JSON.stringify({ token: state.valid, expires_in: state.expiresIn })))
    void note('registry', request).then(() => registryAnswer(request, answer, url))
  })
  const registryAnswer = (request: IncomingMessage, answer: ServerResponse, url: string) => {
    if (request.headers.authorization !== `Bearer ${state.valid}`) {
      return answer.writeHead(401, { 'www-authenticate': `Bearer realm="${state.realm || `http://${host}/token?x=1`}",service="svc"` }).end()
    }
    if (url.includes('/blobs/')) return answer.writeHead(307, { location: state.location }).end()
    return answer.writeHead(200, { 'content-type': manifestType }).end('{}')
  }
  return { host, seen, state, blob: { digest: digestOf(content), sizeBytes: 1000 }, of: (place: string) => seen.filter(found => found.place === place) }
}

test('tokens are fetched with the credentials, kept, and renewed when they are refused', async t => {
  const rig = await tokenRig(t)
  const client = clientOf(t, rig.host, 'a/b', { credentials: { username: 'u', password: 'p' } })
  await Promise.all([client.getManifest('1'), client.getManifest('2'), client.getManifest('3')])
  const [token] = rig.of('token')
  assert.equal(rig.of('token').length, 1)
  assert.equal(token?.authorization, `Basic ${Buffer.from('u:p').toString('base64')}`)
  assert.deepEqual(Object.fromEntries(new URLSearchParams(token.url.split('?')[1])), { x: '1', scope: 'repository:a/b:pull', service: 'svc' })
  rig.state.valid = 'token-2'
  await client.getManifest('1')
  assert.equal(rig.of('token').length, 2)
  rig.state.expiresIn = 1
  rig.state.valid = 'token-3'
  await client.getManifest('1')
  await client.getManifest('1')
  assert.equal(rig.of('token').length, 4)
})

test('anonymous tokens, identity tokens and tokens of the request are used as such', async t => {
  const rig = await tokenRig(t)
  await clientOf(t, rig.host, 'a').getManifest('1')
  assert.equal(rig.of('token')[0]?.authorization, undefined)
  const file = join(tempDir(t), 'auth.json')
  writeFileSync(file, JSON.stringify({ auths: { [rig.host]: { identitytoken: 'refresh-me' } } }))
  await clientOf(t, rig.host, 'a', { authFiles: [file] }).getManifest('1')
  const form = Object.fromEntries(new URLSearchParams(rig.of('token')[1]?.body))
  assert.deepEqual(form, { grant_type: 'refresh_token', client_id: 'berth', refresh_token: 'refresh-me', scope: 'repository:a:pull', service: 'svc' })
  await clientOf(t, rig.host, 'a', { credentials: { token: 'token-1' } }).getManifest('1')
  assert.equal(rig.of('token').length, 2)
  await assert.rejects(clientOf(t, rig.host, 'a', { credentials: { token: 'other' } }).getManifest('1'), authRequired)
})

test('a redirect to another host takes no credentials along', async t => {
  const rig = await tokenRig(t)
  const client = clientOf(t, rig.host, 'a', { credentials: { username: 'u', password: 'p' } })
  assert.equal((await readAll(client.streamBlob(rig.blob))).length, 1000)
  assert.deepEqual(rig.of('cdn').map(({ authorization }) => authorization), [undefined])
})

test('ranges of one blob ask the registry for the way once, and again when it has changed', async t => {
  const rig = await tokenRig(t)
  const client = clientOf(t, rig.host, 'a')
  const whole = await readAll(client.streamBlob(rig.blob))
  const asked = () => rig.of('registry').filter(({ url }) => url.includes('/blobs/')).length
  const before = asked()
  for (let at = 0; at < 1000; at += 100) assert.deepEqual(await client.fetchRange(rig.blob, at, at + 100), whole.subarray(at, at + 100))
  assert.equal(asked() - before, 1)
  rig.state.location = rig.state.location.replace('signed', 'other')
  assert.deepEqual(await client.fetchRange(rig.blob, 5, 10), whole.subarray(5, 10))
  assert.equal(asked() - before, 2)
  assert.ok(rig.of('cdn').every(({ authorization }) => authorization === undefined))
})

test('redirects and token services that lead where nobody should go are refused', async t => {
  const rig = await tokenRig(t)
  for (const location of ['http://169.254.169.254/latest', 'http://[fe80::1]/x', 'file:///etc/passwd', 'http://u:p@127.0.0.1/x', '']) {
    rig.state.location = location
    await assert.rejects(readAll(clientOf(t, rig.host, 'a').streamBlob(rig.blob)), (error: { code?: string }) => error.code === 'image_invalid' || error.code === 'registry_unavailable', location)
  }
  rig.state.location = '/v2/a/blobs/again'
  await assert.rejects(readAll(clientOf(t, rig.host, 'a').streamBlob(rig.blob)), { ...invalid, message: /redirects more than/ })
  for (const realm of ['http://registry.example/token', 'http://169.254.169.254/token', 'x', 'ftp://x/']) {
    rig.state.realm = realm
    await assert.rejects(clientOf(t, rig.host, 'a', { credentials: basicAuth }).getManifest('1'), (error: { code?: string }) => error.code === 'image_invalid' || error.code === 'registry_unavailable', realm)
  }
})

test('from TLS nothing leads to plain HTTP, neither a redirect nor a password', async t => {
  const dir = tempDir(t)
  await makeCertificates(dir)
  let plainRequests = 0
  const plain = await serve(t, (_request, answer) => {
    plainRequests++
    answer.end('{"token":"x"}')
  })
  const host = await serve(t, (request, answer) => {
    if (request.url?.includes('/blobs/')) answer.writeHead(307, { location: `http://${plain}/` }).end()
    else answer.writeHead(401, { 'www-authenticate': `Bearer realm="http://${plain}/token"` }).end()
  }, dir)
  const client = clientOf(t, host, 'x', { insecure: [], caFile: join(dir, 'ca.pem'), credentials: basicAuth })
  await assert.rejects(readAll(client.streamBlob({ digest: digestOf('x'), sizeBytes: 1 })), { ...invalid, message: /from https to http/ })
  await assert.rejects(client.getManifest('1'), { ...down, message: /without TLS/ })
  assert.equal(plainRequests, 0)
})

test('many requests at once share their connections and give no warning', async t => {
  const { client, blob } = await build(t)
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  const signal = new AbortController().signal
  const whole = await readAll(client.streamBlob(blob))
  const starts = Array.from({ length: 60 }, (_, i) => i * 1000)
  const parts = await Promise.all(starts.map((at, i) => client.fetchRange(blob, at, at + 1000, i % 2 === 0 ? { signal } : {})))
  assert.deepEqual(Buffer.concat(parts), whole.subarray(0, 60_000))
  assert.deepEqual(warnings, [])
})

test('a registry elsewhere cannot lead to this host\'s loopback', async t => {
  const connections = new RegistryConnections({ settings: { ...defaultRegistrySettings, insecure: [] } })
  t.after(() => connections.close())
  let requests = 0
  const host = await serve(t, (_request, answer) => {
    requests++
    answer.end('secret')
  })
  const port = host.split(':')[1]
  for (const name of [host, `localhost:${port}`, `0.0.0.0:${port}`, `[::ffff:127.0.0.1]:${port}`, `2130706433:${port}`]) {
    const send = connections.send({ registry: 'r', repository: 'x' }, { url: new URL(`http://${name}/`), method: 'GET', headers: {}, mayBeLoopback: false })
    await assert.rejects(send, { ...down, message: /this host itself/ }, name)
  }
  assert.equal(requests, 0)
})

test('mirrors are asked first, and are passed over when they fail, lie or lack the image', async t => {
  const { registry, proxy, blob, image } = await build(t)
  const empty = await TestRegistry.start(t)
  const locked = await TestRegistry.start(t, { basicAuth })
  const dead = await FaultyProxy.start(t, registry.host)
  await dead.refuse()
  const good = await FaultyProxy.start(t, registry.host)
  const behind = (...mirrors: string[]) => clientOf(t, proxy.host, 'team/x', { mirrors: new Map([[proxy.host, mirrors]]), credentials: basicAuth })
  const client = behind(dead.host, empty.host, locked.host, `http://${good.host}`)
  assert.equal((await client.getManifest('1')).digest, image.digest)
  assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest)
  assert.equal(proxy.seen.length, 0)
  good.set({ dropAfterBytes: 500_000 })
  assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest)
  await good.refuse()
  assert.equal(digestOf(await readAll(client.streamBlob(blob))), blob.digest)
  assert.ok(good.seen.every(({ headers }) => headers.authorization === undefined))
  await good.accept()
  good.set({ corrupts: true })
  const lied = behind(good.host)
  assert.notDeepEqual(await lied.fetchRange(blob, 0, 10), await lied.fetchRange(blob, 0, 10, { skipMirrors: true }))
  await assert.rejects(readAll(lied.streamBlob(blob)), { ...invalid, message: /another digest/ })
  assert.equal(digestOf(await readAll(lied.streamBlob(blob))), blob.digest, 'the next try goes elsewhere')
})

test('manifests that are too large, slow or senseless are refused', async t => {
  let body: Buffer | string = ''
  let type = manifestType
  const host = await serve(t, (_request, answer) => { answer.writeHead(200, { 'content-type': type }).end(body) })
  const client = clientOf(t, host, 'x')
  const resolve = () => resolveRegistryImage(client, parseRegistryReference(`${host}/x`))
  const descriptor = (mediaType: string) => ({ mediaType, digest: `sha256:${'a'.repeat(64)}`, size: 5 })
  const config = descriptor('application/vnd.oci.image.config.v1+json')
  const gzip = 'application/vnd.oci.image.layer.v1.tar+gzip'
  const manifests: Array<[content: object | string, message: RegExp]> = [
    ['', /not a JSON object/],
    ['x'.repeat(4 * 1024 ** 2 + 1), /larger/],
    [[], /not a JSON object/],
    [{ config, layers: [], manifests: [] }, /index and manifest at once/],
    [{ mediaType: 'application/json', config, layers: [] }, /another media type/],
    [{ config, layers: [descriptor('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip')] }, /may be distributed/],
    [{ config, layers: [descriptor(`${gzip}+encrypted`)] }, /unencrypted/],
    [{ config, layers: [descriptor('application/x-evil\nfoo')] }, /unreadable type/],
    [{ config, layers: Array(501).fill(descriptor(gzip)) }, /501 layers/],
    [{ config: descriptor('application/vnd.cncf.helm.config.v1+json'), layers: [] }, /no container image/],
    [{ config: { ...config, size: 5 * 1024 ** 2 }, layers: [] }, /larger/],
    [{ config: { ...config, digest: '../../x' }, layers: [] }, /sha256/],
  ]
  for (const [content, message] of manifests) {
    body = typeof content === 'string' ? content : JSON.stringify(content)
    await assert.rejects(resolve(), { ...invalid, message }, JSON.stringify(content).slice(0, 200))
  }
  type = 'application/vnd.docker.distribution.manifest.v1+prettyjws'
  await assert.rejects(resolve(), { ...invalid, message: /schema 1/ })
  type = 'text/html; charset=utf-8'
  body = '<html>'
  await assert.rejects(resolve(), invalid)
})

test('a registry that drips bytes or never answers is stalled', async t => {
  const timers = new Set<NodeJS.Timeout>()
  t.after(() => timers.forEach(timer => clearInterval(timer)))
  const host = await serve(t, (request, answer) => {
    if (!request.url?.includes('/blobs/')) return
    answer.writeHead(200, { 'content-length': '1000000' })
    timers.add(setInterval(() => answer.write('x'), 100))
  })
  const mirrored = clientOf(t, 'r.invalid', 'x', { mirrors: new Map([['r.invalid', [host]]]) })
  const blob = { digest: `sha256:${'a'.repeat(64)}`, sizeBytes: 1_000_000 }
  await assert.rejects(readAll(mirrored.streamBlob(blob)), down)
  await assert.rejects(mirrored.getManifest('1'), down)
})
