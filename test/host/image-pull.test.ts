/** Images of registries as a client of the daemon meets them: pulled, refused, and run as they want to be. */
import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { Image, PullEvent } from '../../src/schemas/image.ts'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import type { ErrorBody } from '../../src/schemas/wire.ts'
import { hostPlatform } from '../../src/services/images/oci-manifest.ts'
import { eventually } from '../support/host-surgery.ts'
import { imageProcesses, leaveIndexes, MiB, neverFills, publish, pull, randomFiles, rootLayer, storedNames, sumLines } from '../support/image-host.ts'
import { makeImage, makeIndex, pushImage, type LayerSource } from '../support/image-maker.ts'
import type { LayerCompression } from '../support/layout-writer.ts'
import { FaultyProxy, TestRegistry } from '../support/registry.ts'
import { directory, entry, pax, tar } from '../support/tar-writer.ts'
import { berth, TestDaemon, type TestDaemonOptions } from '../support/test-daemon.ts'

// cap_net_raw+ep of capability.h's version 2 (linux/capability.h: vfs_cap_data).
const netRaw = Buffer.from('0100000200200000000000000000000000000000', 'hex')
const below: LayerSource = {
  files: { 'data/kept': 'below', 'data/gone': 'x', 'data/over': 'below', 'deep/old': 'x', 'deep/sub/old': 'x', 'was-dir/x': 'x' },
  script: 'echo linked > data/a; ln data/a data/b; echo suid > data/suid; chmod 4755 data/suid; ln -s kept data/link; mkfifo data/fifo; chown 1234:50 data/kept; mkdir data/sticky; chmod 1777 data/sticky',
}
const capable: LayerSource = { tar: tar(directory('data'), pax([['SCHILY.xattr.security.capability', netRaw]]), entry({ name: 'data/ping', mode: 0o755 }, 'ping')) }
const above: LayerSource = { files: { 'data/.wh.gone': '', 'data/over': 'above', 'deep/.wh..wh..opq': '', 'deep/new': 'x', '.wh.was-dir': '', 'data/new': 'above' } }

const lookAround = [
  'ls -A data deep',
  'test ! -e was-dir && echo no dir',
  'cat data/kept data/over data/a data/b data/link; echo',
  'stat -c "%n %a %u:%g %h" data/kept data/a data/suid data/sticky',
  '[ $(stat -c %i data/a) = $(stat -c %i data/b) ] && echo one file',
  '[ -p data/fifo ] && echo fifo',
].join('\n')
const seen = `data:
a
b
fifo
kept
link
new
over
ping
sticky
suid

deep:
new
no dir
belowabovelinked
linked
below
data/kept 644 1234:50 1
data/a 644 0:0 2
data/suid 4755 0:0 1
data/sticky 1777 0:0 2
one file
fifo
`

async function build (t: TestContext, options: TestDaemonOptions = {}): Promise<{ registry: TestRegistry, daemon: TestDaemon }> {
  const registry = await TestRegistry.start(t)
  return { registry, daemon: await TestDaemon.start(t, options) }
}

/** What a shell inside a new sandbox of the image says. */
async function say (daemon: TestDaemon, image: string, script: string, more: object = {}): Promise<string> {
  const { id } = await daemon.create({ image, ...more })
  const { stdout, stderr } = await daemon.exec(id, ['sh', '-c', script], { user: '0:0', cwd: '/' })
  await daemon.remove(id)
  return stdout + stderr
}

/** Status and code of both ways to ask for an image; they leave nothing. */
async function refusals (daemon: TestDaemon, reference: string, more: { pull?: object, create?: object } = {}): Promise<Array<[number, string]>> {
  const before = await storedNames(daemon)
  const pulled = await pull(daemon, reference, more.pull)
  const created = await daemon.request<ErrorBody>('POST', '/v1/sandboxes', { image: reference, ...more.create })
  assert.deepEqual(await storedNames(daemon), before, `nothing is left of ${reference}`)
  for (const { text } of [pulled, created]) assert.ok(!text.includes(daemon.dir), text)
  return [pulled, created].map(({ status, body }) => [status, body.code])
}

const both = (status: number, code: string) => [[status, code], [status, code]]

test('layers of every compression are stacked as they were made', async t => {
  const { registry, daemon } = await build(t)
  const compressions: LayerCompression[] = ['gzip', 'zstd', 'none']
  const images = await Promise.all(compressions.map(compression => publish(t, registry, { layers: [rootLayer, below, capable, above], compression }, { name: compression })))
  for (const { reference } of images) assert.equal(await say(daemon, reference, lookAround), seen, reference)
  const { id } = await daemon.create({ image: images[1]!.reference })
  const archive = execFileSync('tar', ['--format=pax', '--xattrs', '--xattrs-include=*', '-C', join(daemon.stateDir, 'sandboxes', id, 'rootfs'), '-cf', '-', 'data/ping'])
  assert.ok(archive.includes(Buffer.concat([Buffer.from('SCHILY.xattr.security.capability='), netRaw])), 'the capability of a file is kept')
})

test('an index of platforms gives this host its own, and is known by its digest as well', async t => {
  const { registry, daemon } = await build(t)
  const other = hostPlatform === 'linux/arm64' ? 'linux/amd64' : 'linux/arm64'
  const source = (platform: string) => ({ layers: [rootLayer, { files: { platform } }], platform })
  const index = makeIndex(t, [source(other), source(hostPlatform)])
  await pushImage(index, registry, 'many')
  assert.equal(await say(daemon, `${registry.host}/many`, 'cat platform'), hostPlatform)
  const byDigest = `${registry.host}/many@${index.digest}`
  assert.equal(await say(daemon, byDigest, 'cat platform'), hostPlatform)
  await registry.kill()
  assert.equal(await say(daemon, byDigest, 'cat platform', { imagePull: 'never' }), hostPlatform)
  const { body } = await daemon.request<{ items: unknown[] }>('GET', '/v1/images')
  assert.equal(body.items.length, 1)
  await registry.restart()
  const foreign = await publish(t, registry, source(other), { name: 'foreign' })
  await pushImage(makeIndex(t, [source(other)]), registry, 'none-of-this-host')
  assert.deepEqual(await refusals(daemon, `${registry.host}/none-of-this-host`), both(400, 'image_not_found'))
  assert.deepEqual(await refusals(daemon, foreign.reference), both(400, 'image_not_found'))
})

test('what cannot be had is refused by its code, and leaves nothing', async t => {
  const { registry, daemon } = await build(t)
  const { host } = registry
  const good = await publish(t, registry, { layers: [rootLayer, { files: { x: 'x' } }] }, { name: 'good' })
  assert.deepEqual(await refusals(daemon, `${host}/nothing`), both(400, 'image_not_found'))
  assert.deepEqual(await refusals(daemon, `${host}/good:nothing`), both(400, 'image_not_found'))
  assert.deepEqual(await refusals(daemon, `${host}/good@sha256:${'0'.repeat(64)}`), both(400, 'image_not_found'))
  assert.deepEqual(await refusals(daemon, `${host}/Good`), both(400, 'invalid_image_reference'))

  const hostile = await publish(t, registry, { layers: [{ files: randomFiles({ x: 8 * MiB }) }, { tar: tar(entry({ name: '../../../../tmp/berth-was-here' }, 'x')) }] }, { name: 'hostile' })
  assert.deepEqual(await refusals(daemon, hostile.reference), both(400, 'image_invalid'))
  const corrupt = await publish(t, registry, { layers: [rootLayer, { files: randomFiles({ x: MiB }) }] }, { name: 'corrupt' })
  const path = registry.blobPath(corrupt.blobs[1]!)
  const content = await readFile(path)
  content[content.length - 1000]! ^= 1
  writeFileSync(path, content)
  assert.deepEqual(await refusals(daemon, corrupt.reference), both(400, 'image_invalid'))

  await registry.kill()
  assert.deepEqual(await refusals(daemon, good.reference), both(503, 'registry_unavailable'))
  assert.deepEqual((await daemon.request<{ items: unknown[] }>('GET', '/v1/images')).body.items, [])
  assert.deepEqual((await daemon.request<{ items: unknown[] }>('GET', '/v1/sandboxes')).body.items, [])
  await registry.restart()
  assert.equal(await say(daemon, good.reference, 'cat x'), 'x')
})

test('a pull says how far it is', async t => {
  const { registry, daemon } = await build(t)
  const proxy = await FaultyProxy.start(t, registry.host, { bytesPerSecond: 6 * MiB })
  const image = await publish(t, registry, { layers: [rootLayer, { files: randomFiles({ a: 3 * MiB }) }] }, { name: 'slow', host: proxy.host })
  const follow = async (reference: string) => {
    const { text, headers } = await daemon.request('POST', '/v1/images/pull', { reference, mode: 'eager' }, { accept: 'text/event-stream' })
    assert.match(headers.get('content-type') ?? '', /text\/event-stream/)
    return text.split('\n').filter(line => line.startsWith('data: ')).map(line => JSON.parse(line.slice(6)) as PullEvent)
  }
  const events = await follow(image.reference)
  const progress = events.flatMap(event => event.type === 'progress' ? [event] : [])
  assert.equal(progress[0]?.phase, 'resolving')
  const last = progress.at(-1)!
  assert.deepEqual([last.phase, last.digest, last.layers.map(({ digest }) => digest)], ['done', image.digest, image.blobs])
  assert.ok(last.layers.every(({ state, fetchedBytes, sizeBytes }) => state === 'complete' && fetchedBytes === sizeBytes))
  const fetched = progress.map(({ fetchedBytes }) => fetchedBytes)
  assert.deepEqual(fetched, fetched.toSorted((a, b) => a - b))
  assert.ok(fetched.some(bytes => bytes > 0 && bytes < last.sizeBytes), 'it is told while it is under way')
  const end = events.at(-1)
  assert.deepEqual([end?.type, end?.type === 'image' && end.state], ['image', 'complete'])
  const failure = (await follow(`${proxy.host}/nothing`)).at(-1)
  assert.deepEqual([failure?.type, failure?.type === 'error' && failure.code], ['error', 'image_not_found'])
})

test('a client that goes away loses nothing of what was fetched', async t => {
  const { registry, daemon } = await build(t)
  const proxy = await FaultyProxy.start(t, registry.host, { bytesPerSecond: 4 * MiB })
  const image = await publish(t, registry, { layers: [{ files: { x: 'x' } }, { files: randomFiles({ x: 3 * MiB }) }] }, { name: 'left', host: proxy.host })
  const layersDir = join(daemon.stateDir, 'images/layers')
  const leaving = new AbortController()
  const pulling = fetch(`${daemon.url}/v1/images/pull`, {
    method: 'POST',
    headers: { authorization: `Bearer ${daemon.token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ reference: image.reference }),
    signal: leaving.signal,
  })
  await eventually(async () => (await readdir(layersDir)).includes(image.blobs[0]!.replace('sha256:', '')), 'one layer is here')
  leaving.abort()
  await assert.rejects(pulling)
  await eventually(async () => (await daemon.request<Image>('GET', `/v1/images/${image.digest}`)).body.state === 'complete', 'what was begun is finished')
  proxy.set({})
  const { status, body } = await pull(daemon, image.reference)
  assert.deepEqual([status, body.references], [200, [image.reference]])
  assert.deepEqual(image.blobs.map(digest => proxy.requestsOf(new RegExp(digest))), [1, 1])
})

test('an image is run as it says, unless the request says otherwise', async t => {
  const { registry, daemon } = await build(t)
  const program = 'trap "echo stopped by it; exit 9" $TRAPPED; echo "$0 $(id -un) $(id -gn) $(pwd) $COLOUR $HOME"; while :; do sleep 0.05; done'
  const config = { Entrypoint: ['sh', '-c', program], Cmd: ['from-cmd'], Env: ['COLOUR=blue', 'TRAPPED=USR1'], User: 'alice:staff', WorkingDir: '/home/alice', StopSignal: 'SIGUSR1' }
  const named = await publish(t, registry, { layers: [rootLayer], config }, { name: 'named' })
  const numbered = await publish(t, registry, { layers: [rootLayer], config: { ...config, StopSignal: '3' } }, { name: 'numbered' })
  for (const [image, env] of [[named, {}], [numbered, { TRAPPED: 'QUIT', COLOUR: 'red' }]] as const) {
    const { id } = await daemon.create({ image: image.reference, env })
    const log = async () => (await daemon.request('GET', `/v1/sandboxes/${id}/logs?stream=stdout`)).text
    const greeting = `from-cmd alice staff /home/alice ${image === named ? 'blue' : 'red'} /home/alice\n`
    await eventually(async () => await log() !== '', 'the program runs')
    assert.equal(await log(), greeting)
    assert.equal((await daemon.exec(id, ['id', '-un'])).stdout, 'alice\n')
    const { body } = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${id}/stop`, { graceMs: 60_000 })
    assert.deepEqual([body.status, body.end?.reason, body.end?.exitCode], ['stopped', 'requested', 9])
    assert.equal(await log(), `${greeting}stopped by it\n`)
  }
  const { id } = await daemon.create({ image: named.reference, entrypoint: ['sh', '-c', 'id -u; pwd'], user: '7', workingDir: '/tmp' })
  await daemon.wait(id)
  assert.equal((await daemon.request('GET', `/v1/sandboxes/${id}/logs`)).text, '7\n/tmp\n')
  const stranger = await publish(t, registry, { layers: [rootLayer], config: { User: 'nobody-here' } }, { name: 'stranger' })
  const refused = await daemon.request<ErrorBody>('POST', '/v1/sandboxes', { image: stranger.reference })
  assert.deepEqual([refused.status, refused.body.code], [400, 'user_not_found'])
})

test('a tag that has moved is followed when it is asked to be', async t => {
  const { registry, daemon } = await build(t)
  const move = (content: string) => publish(t, registry, { layers: [rootLayer, { files: { content } }] }, { name: 'moving' })
  const first = await move('first')
  const read = (imagePull?: string) => say(daemon, first.reference, 'cat content', imagePull ? { imagePull } : {})
  const refused = await daemon.request<ErrorBody>('POST', '/v1/sandboxes', { image: first.reference, imagePull: 'never' })
  assert.deepEqual([refused.status, refused.body.code], [400, 'image_not_found'])
  assert.equal(await read(), 'first')
  await move('second')
  assert.deepEqual([await read(), await read('missing'), await read('never')], ['first', 'first', 'first'])
  assert.equal(await read('always'), 'second')
  assert.equal(await read(), 'second')
  assert.equal(await say(daemon, `${registry.host}/moving@${first.digest}`, 'cat content'), 'first')
  await registry.kill()
  assert.deepEqual([await read('missing'), await read('never')], ['second', 'second'])
  const unreachable = await daemon.request<ErrorBody>('POST', '/v1/sandboxes', { image: first.reference, imagePull: 'always' })
  assert.deepEqual([unreachable.status, unreachable.body.code], [503, 'registry_unavailable'])
})

test('images of no layer, of one layer twice, and of many are images', async t => {
  const { registry, daemon } = await build(t)
  const note = (text: string): LayerSource => ({ files: { note: text, [`notes/${text}`]: text } })
  const twice = await publish(t, registry, { layers: [rootLayer, note('a'), note('b'), note('a')] }, { name: 'twice' })
  assert.equal(await say(daemon, twice.reference, 'cat note; ls notes'), 'aa\nb\n')
  const many = await publish(t, registry, { layers: [rootLayer, ...Array.from({ length: 62 }, (_, index) => note(String(index)))] }, { name: 'many' })
  assert.equal(await say(daemon, many.reference, 'cat note; ls notes | wc -l'), '6162\n')
  const none = await publish(t, registry, { layers: [] }, { name: 'none' })
  const { id } = await daemon.create({ image: none.reference })
  assert.equal((await daemon.exec(id, ['/.berth/busybox', 'ls', '/'])).stdout, 'dev\netc\nproc\nsys\ntmp\nworkspace\n')
})

test('credentials open a registry from a file or with the request, and stay nowhere', async t => {
  const basicAuth = { username: 'robot', password: 'correct-horse-battery' }
  const registry = await TestRegistry.start(t, { basicAuth })
  const proxy = await FaultyProxy.start(t, registry.host)
  const files = randomFiles({ x: 2 * MiB })
  const image = await publish(t, registry, { layers: [rootLayer, { files }] }, { name: 'private', host: proxy.host })
  const daemon = await TestDaemon.start(t, { env: { ...neverFills, BERTH_LOG_LEVEL: 'trace' } })
  const { reference } = image
  assert.deepEqual(await refusals(daemon, reference), both(403, 'image_auth_required'))
  const wrong = { username: 'robot', password: 'wrong-password' }
  assert.deepEqual(await refusals(daemon, reference, { pull: { credentials: wrong }, create: { registryCredentials: wrong } }), both(403, 'image_auth_required'))
  const pulled = await daemon.request('POST', '/v1/images/pull', { reference, mode: 'eager', credentials: basicAuth }, { 'idempotency-key': 'once' })
  assert.equal(pulled.status, 200, pulled.text)
  assert.equal((await daemon.request('DELETE', `/v1/images/${image.digest}`)).status, 200)
  const { id } = await daemon.create({ image: reference, registryCredentials: basicAuth })
  process.kill((await imageProcesses(daemon)).server, 'SIGKILL')
  assert.equal((await daemon.exec(id, ['sha256sum', '/data/x'])).stdout, sumLines(files), 'the next server has them still')
  const secrets = [basicAuth.password, wrong.password, Buffer.from(`${basicAuth.username}:${basicAuth.password}`).toString('base64')]
  assert.deepEqual(await findInFiles(daemon.dir, secrets), [])

  const dir = mkdtempSync(join(tmpdir(), 'berth-auth-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const authFile = join(dir, 'config.json')
  writeFileSync(authFile, JSON.stringify({ auths: { [proxy.host]: { auth: secrets[2] } } }))
  const other = await TestDaemon.start(t, { env: { ...neverFills, BERTH_REGISTRY_AUTH_FILE: authFile, BERTH_LOG_LEVEL: 'trace' } })
  await leaveIndexes(other, reference)
  const lazy = await other.create({ image: reference })
  assert.equal((await other.exec(lazy.id, ['sha256sum', '/data/x'])).stdout, sumLines(files))
  assert.deepEqual(await findInFiles(other.dir, secrets), [])
})

/** Files below a directory that hold one of the texts; what is mounted there is left out, for a read of it may wait for a registry. */
async function findInFiles (dir: string, texts: string[]): Promise<string[]> {
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').map(line => line.split(' ')[4])
  const found: string[] = []
  for (const item of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, item.name)
    if (item.isDirectory() && !mounts.includes(path)) found.push(...await findInFiles(path, texts))
    if (!item.isFile()) continue
    const content = await readFile(path)
    if (texts.some(text => content.includes(text))) found.push(path)
  }
  return found
}

test('a registry with TLS is believed by the authority that is configured, and by no other', async t => {
  const registry = await TestRegistry.start(t, { tls: true })
  const image = await publish(t, registry, { layers: [rootLayer, { files: { x: 'secure' } }] }, { name: 'tls' })
  // Loopback is excused by default.
  const strict = { BERTH_INSECURE_REGISTRIES: 'nowhere.invalid' }
  const doubting = await TestDaemon.start(t, { env: strict })
  assert.deepEqual(await refusals(doubting, image.reference), both(503, 'registry_unavailable'))
  const believing = await TestDaemon.start(t, { env: { ...strict, BERTH_REGISTRY_CA_FILE: registry.caFile } })
  assert.equal(await say(believing, image.reference, 'cat x'), 'secure')
})

test('a mirror is asked first, and the registry itself for what the mirror lacks', async t => {
  const [origin, mirror] = await Promise.all([TestRegistry.start(t), TestRegistry.start(t)])
  const [toOrigin, toMirror] = await Promise.all([FaultyProxy.start(t, origin.host), FaultyProxy.start(t, mirror.host)])
  const daemon = await TestDaemon.start(t, { env: { BERTH_REGISTRY_MIRRORS: `${toOrigin.host}=http://${toMirror.host}` } })
  const mirrored = makeImage(t, { layers: [rootLayer, { files: { x: 'mirrored' } }] })
  await pushImage(mirrored, mirror, 'mirrored')
  await pushImage(mirrored, origin, 'mirrored')
  assert.equal(await say(daemon, `${toOrigin.host}/mirrored`, 'cat x'), 'mirrored')
  assert.equal(toOrigin.seen.length, 0)
  await publish(t, origin, { layers: [rootLayer, { files: { x: 'lacking' } }] }, { name: 'lacking' })
  assert.equal(await say(daemon, `${toOrigin.host}/lacking`, 'cat x'), 'lacking')
  assert.ok(toMirror.requestsOf(/lacking/) > 0)
  await publish(t, origin, { layers: [rootLayer, { files: { x: 'alone' } }] }, { name: 'alone' })
  await toMirror.refuse()
  assert.equal(await say(daemon, `${toOrigin.host}/alone`, 'cat x'), 'alone')
})

test('berth run takes the image of a registry', async t => {
  const { registry, daemon } = await build(t)
  mkdirSync(join(daemon.dir, 'client'))
  const image = await publish(t, registry, { layers: [rootLayer], config: { Cmd: ['sh', '-c', 'echo own program'] } }, { name: 'tool' })
  const name = image.reference.replace(':latest', '')
  const run = (...args: string[]) => new Promise<{ exitCode: number | null, stdout: string }>(resolve => {
    const child = execFile(berth, ['run', ...args], { env: daemon.clientEnv, cwd: join(daemon.dir, 'client') }, (_error, stdout) => resolve({ exitCode: child.exitCode, stdout }))
  })
  assert.deepEqual(await run('--image', name, '--', 'sh', '-c', 'echo $((6 * 7)); exit 3'), { exitCode: 3, stdout: '42\n' })
  assert.deepEqual(await run('--rm', '--image', name), { exitCode: 0, stdout: 'own program\n' })
})
