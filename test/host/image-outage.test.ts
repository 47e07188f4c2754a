/** What sandboxes on images that are fetched while they are read see of outages, on real parts. */
import assert from 'node:assert/strict'
import { after, before, test, type TestContext } from 'node:test'
import type { Sandbox } from '../../src/schemas/sandbox.ts'
import { eventually, isRunning } from '../support/host-surgery.ts'
import { eventsOf, hashOf, imageOf, imageProcesses, leaveIndexes, MiB, neverFills, publish, pull, randomFiles, rootLayer, sumLines } from '../support/image-host.ts'
import { FaultyProxy, TestRegistry } from '../support/registry.ts'
import { TestDaemon } from '../support/test-daemon.ts'

// A layer each: nothing of one comes with what is read of another.
const files = randomFiles({ one: 3 * MiB, two: 3 * MiB, three: 3 * MiB, four: 3 * MiB })
const layers = [rootLayer, ...Object.entries(files).map(([path, content]) => ({ files: { [path]: content } }))]
const otherFiles = randomFiles({ other: 5 * MiB })

let registry: TestRegistry
let image: { digest: string, blobs: string[] }

const releases: Array<() => void | Promise<void>> = []
after(async () => { for (const release of releases.toReversed()) await release() })
// node:test's own `after` would belong to the hook that calls it.
const teardown = { after: (release: () => void | Promise<void>) => { releases.push(release) } }

before(async () => {
  registry = await TestRegistry.start(teardown)
  image = await publish(teardown, registry, { layers }, { name: 'lazy' })
  await publish(teardown, registry, { layers: [rootLayer, { files: otherFiles }] }, { name: 'other' })
  await publish(teardown, registry, { layers: [{ files: otherFiles }, rootLayer, { files: { x: 'x' } }] }, { name: 'another' })
})

interface Parts {
  proxy: FaultyProxy
  daemon: TestDaemon
  reference: string
}

/** A daemon that has only the indexes of the image, and a proxy between it and the registry. */
async function build (t: TestContext): Promise<Parts> {
  const proxy = await FaultyProxy.start(t, registry.host)
  const daemon = await TestDaemon.start(t, { env: neverFills })
  const reference = `${proxy.host}/lazy:latest`
  await leaveIndexes(daemon, reference)
  // What is seen from here on is what is read.
  proxy.seen.splice(0)
  return { proxy, daemon, reference }
}

/** A sandbox that needs nothing more from the registry to run its programs. */
async function createWarm ({ daemon, reference }: Parts): Promise<Sandbox> {
  const sandbox = await daemon.create({ image: reference })
  assert.equal((await daemon.exec(sandbox.id, ['sha256sum', '/bin/busybox'])).exitCode, 0)
  return sandbox
}

function blobPattern (name: 'one' | 'two' | 'three' | 'four'): RegExp {
  const index = layers.findIndex(layer => 'files' in layer && `data/${name}` in layer.files!)
  return new RegExp(image.blobs[index]!)
}

/** The sum of a file inside, or what went wrong. */
async function read (daemon: TestDaemon, id: string, name: string): Promise<string> {
  const { stdout, stderr, exitCode } = await daemon.exec(id, ['sha256sum', `/data/${name}`])
  return exitCode === 0 ? stdout.split(' ')[0]! : stderr
}

function sumOf (name: string): string {
  return hashOf(files[`data/${name}`]!)
}

async function readsRight (daemon: TestDaemon, id: string, ...names: string[]): Promise<void> {
  for (const name of names) assert.equal(await read(daemon, id, name), sumOf(name), name)
}

const ioError = /Input\/output error/

test('a registry that dies in the middle of a read fails that read in bounded time, and nothing else', async t => {
  const parts = await build(t)
  const { proxy, daemon } = parts
  const [reader, other] = await Promise.all([createWarm(parts), createWarm(parts)])
  proxy.set({ stallAfterBytes: 100_000 })
  let hasEnded = false
  const reading = read(daemon, reader.id, 'one').finally(() => { hasEnded = true })
  await eventually(() => proxy.bytesOf(blobPattern('one')) > 0, 'the read is under way')
  await proxy.refuse()
  assert.equal((await daemon.exec(other.id, ['cat', '/etc/group'])).exitCode, 0)
  assert.equal((await daemon.request('GET', '/v1/images')).status, 200)
  assert.equal((await imageOf(daemon, image.digest)).state, 'partial')
  assert.equal(hasEnded, false, 'the read still waited when all that was answered')
  assert.match(await reading, ioError)
  await eventually(async () => (await eventsOf(daemon, 'image.stalled')).length > 0, 'it is told')
  const [stalled] = await eventsOf(daemon, 'image.stalled')
  assert.equal(stalled?.data['digest'], image.digest)
  assert.match(String(stalled?.data['layerDigest']), blobPattern('one'))
  assert.deepEqual(await eventsOf(daemon, 'image.recovered'), [])

  proxy.set({})
  await proxy.accept()
  await readsRight(daemon, reader.id, 'one')
  await eventually(async () => (await eventsOf(daemon, 'image.recovered')).length > 0, 'it is told')
  await readsRight(daemon, other.id, 'one', 'two')
  assert.equal((await daemon.sandbox(reader.id)).status, 'running')
})

test('a registry that stalls in the middle of a range fails the read, and goes on when it goes on', async t => {
  const parts = await build(t)
  const { proxy, daemon } = parts
  const { id } = await createWarm(parts)
  const doomed = await createWarm(parts)
  proxy.set({ stallAfterBytes: 100_000 })
  const hanging = daemon.request('POST', `/v1/sandboxes/${doomed.id}/execs?wait=true`, { argv: ['cat', '/data/one'] })
  await eventually(() => proxy.bytesOf(blobPattern('one')) > 0, 'a read hangs')
  await daemon.remove(doomed.id)
  await hanging
  assert.match(await read(daemon, id, 'two'), ioError)
  await eventually(async () => (await eventsOf(daemon, 'image.stalled')).length === 2, 'it is told of both layers')
  proxy.set({})
  await readsRight(daemon, id, 'two', 'one')
  await eventually(async () => (await eventsOf(daemon, 'image.recovered')).length === 2, 'it is told of both layers')
})

test('what a registry has corrupted is never read', async t => {
  const parts = await build(t)
  const { proxy, daemon } = parts
  const { id } = await createWarm(parts)
  proxy.set({ corrupts: true })
  assert.match(await read(daemon, id, 'three'), ioError)
  const { stdout } = await daemon.exec(id, ['sh', '-c', 'cat /data/three > /tmp/got; wc -c < /tmp/got; sha256sum < /tmp/got'])
  const [length, sum] = stdout.split(/\s+/)
  assert.equal(sum, hashOf(files['data/three']!.subarray(0, Number(length))), 'what was read before the error is right')
  proxy.set({})
  await readsRight(daemon, id, 'three')
})

test('kill -9 of the daemon in the middle of pulls and reads loses none of them', async t => {
  const { proxy, daemon, reference } = await build(t)
  const names = Object.keys(files)
  proxy.set({ bytesPerSecond: 3 * MiB })
  const { id } = await daemon.create({ image: reference, entrypoint: ['sh', '-c', `sha256sum ${names.map(name => `/${name}`).join(' ')}; exit 5`] })
  const others = [{ reference: `${proxy.host}/other`, mode: 'eager' }, { reference: `${proxy.host}/another`, mode: 'lazy' }]
  const pulls = others.map(other => pull(daemon, other.reference, { mode: other.mode }).catch(() => {}))
  await eventually(() => proxy.bytesOf(/other\/blobs/) > MiB, 'the pulls are under way')
  await daemon.end('SIGKILL')
  await Promise.all(pulls)
  proxy.set({})
  await daemon.start()
  const answers = await Promise.all(others.map(other => pull(daemon, other.reference, { mode: other.mode })))
  assert.deepEqual(answers.map(({ status, body }) => [status, body.state]), [[200, 'complete'], [200, 'complete']])
  assert.equal((await daemon.wait(id)).end?.exitCode, 5)
  assert.equal((await daemon.request('GET', `/v1/sandboxes/${id}/logs?stream=stdout`)).text, sumLines(files))
  const second = await daemon.create({ image: others[1]!.reference })
  assert.equal((await daemon.exec(second.id, ['sha256sum', '/data/other'])).stdout, sumLines(otherFiles))
})

test('the image server comes back under readers, with its keeper or without it', async t => {
  const { proxy, daemon, reference } = await build(t)
  proxy.set({ bytesPerSecond: 2 * MiB })
  const { id } = await daemon.create({ image: reference, entrypoint: ['sh', '-c', 'sha256sum /data/one; exec sleep 3600'] })
  const logged = async () => (await daemon.request('GET', `/v1/sandboxes/${id}/logs?stream=stdout`)).text
  await eventually(() => proxy.bytesOf(blobPattern('one')) > 100_000, 'the read is under way')
  const first = await imageProcesses(daemon)
  process.kill(first.server, 'SIGKILL')
  await eventually(async () => (await logged()) !== '', 'the read has ended')
  assert.equal(await logged(), `${sumOf('one')}  /data/one\n`)
  const second = await imageProcesses(daemon)
  assert.equal(second.keeper, first.keeper)
  assert.notEqual(second.server, first.server)
  proxy.set({})

  process.kill(second.keeper, 'SIGKILL')
  await eventually(async () => {
    const { keeper, server } = await imageProcesses(daemon)
    return keeper !== second.keeper && isRunning(keeper) && server !== 0
  }, 'another keeper has a server')
  await readsRight(daemon, id, 'two')
  const third = await imageProcesses(daemon)
  assert.equal(third.generation, first.generation)
  process.kill(third.server, 'SIGKILL')
  await readsRight(daemon, id, 'three')

  const fourth = await imageProcesses(daemon)
  process.kill(fourth.server, 'SIGKILL')
  await daemon.restart('SIGKILL')
  await readsRight(daemon, id, 'four', 'one')
  assert.deepEqual(await eventsOf(daemon, 'image.lost'), [])
  assert.equal((await daemon.sandbox(id)).status, 'running')
})

test('without server and keeper the sandboxes that need them end and say so, and no other', async t => {
  const parts = await build(t)
  const { proxy, daemon } = parts
  assert.equal((await pull(daemon, `${proxy.host}/other`, { mode: 'eager' })).status, 200)
  const local = await daemon.create({ image: `${proxy.host}/other` })
  const lazy = await createWarm(parts)
  assert.equal((await daemon.exec(lazy.id, ['sh', '-c', 'echo kept > /root/own'], { user: '0:0' })).exitCode, 0)
  await readsRight(daemon, lazy.id, 'one')
  const checkLost = async (lives: number) => {
    const { status, end } = await daemon.wait(lazy.id)
    assert.deepEqual([status, end?.reason], ['failed', 'image_lost'])
    await eventually(async () => (await eventsOf(daemon, 'image.lost')).length === lives, 'it is told')
    assert.deepEqual((await eventsOf(daemon, 'image.lost')).at(-1)?.data['sandboxIds'], [lazy.id])
    assert.equal((await daemon.exec(local.id, ['sha256sum', '/data/other'])).stdout, sumLines(otherFiles))
    const started = await daemon.request<Sandbox>('POST', `/v1/sandboxes/${lazy.id}/start`)
    assert.equal(started.body.status, 'running', started.text)
    assert.equal((await daemon.exec(lazy.id, ['cat', '/root/own'])).stdout, 'kept\n')
  }

  const first = await imageProcesses(daemon)
  proxy.set({ stallAfterBytes: 100_000 })
  const hanging = daemon.request('POST', `/v1/sandboxes/${lazy.id}/execs?wait=true`, { argv: ['cat', '/data/two'] })
  await eventually(() => proxy.bytesOf(blobPattern('two')) > 0, 'a read hangs')
  for (const pid of [first.keeper, first.server]) process.kill(pid, 'SIGKILL')
  await hanging
  proxy.set({})
  await checkLost(1)
  await readsRight(daemon, lazy.id, 'one', 'two')
  const second = await imageProcesses(daemon)
  assert.ok(![first.keeper, first.server].includes(second.server))

  await daemon.end('SIGKILL')
  for (const pid of [second.keeper, second.server]) process.kill(pid, 'SIGKILL')
  await daemon.start()
  await checkLost(2)
  await readsRight(daemon, lazy.id, 'one', 'three', 'four')
  assert.equal((await daemon.sandbox(local.id)).status, 'running')
})
