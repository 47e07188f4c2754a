import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { pino } from 'pino'
import type { ImageDetail } from '../../src/schemas/image.ts'
import { ImageManager } from '../../src/services/images/image-manager.ts'
import { resolveImageUser } from '../../src/services/images/image-user.ts'
import { indexType, LayoutWriter, tarOf } from '../support/layout-writer.ts'
import { tempDir } from '../unit/images/temp-dir.ts'

const busyboxPath = '/usr/bin/busybox'
const invalid = { kind: 'invalid_argument', code: 'image_invalid' }

interface Parts {
  dir: string
  imagesDir: string
  images: ImageManager
  writer: LayoutWriter
  reference: string
  /** How many images were unpacked by `images`. */
  unpacked: () => number
  /** Another daemon on the same directory. */
  next: () => ImageManager
}

function build (t: TestContext): Parts {
  const dir = tempDir(t)
  const imagesDir = join(dir, 'state/images')
  const lines: string[] = []
  const logger = pino({}, { write: (line: string) => { lines.push(line) } })
  const next = () => new ImageManager({ imagesDir, busyboxPath, logger, dirRoots: [dir] })
  const images = next()
  t.after(() => images.settled())
  const writer = new LayoutWriter(join(dir, 'layout'))
  return { dir, imagesDir, images, writer, reference: `oci:${writer.dir}`, unpacked: () => lines.filter(line => line.includes('unpacked an image')).length, next }
}

/** A directory that tar reads a layer from, filled by shell commands. */
function layerOf (parts: Parts, name: string, script: string, members?: string[]): Buffer {
  const dir = join(parts.dir, 'layers', name)
  mkdirSync(dir, { recursive: true })
  execFileSync('sh', ['-euc', script], { cwd: dir })
  return tarOf(dir, members)
}

function smallImage (parts: Parts, text = 'hello'): ReturnType<LayoutWriter['image']> {
  const image = parts.writer.image({ layers: [layerOf(parts, text, `mkdir -p etc; echo ${text} > etc/motd`)] })
  parts.writer.index([image])
  return image
}

function assertNothingHalfDone (parts: Parts): void {
  const temp = join(parts.imagesDir, 'tmp')
  assert.deepEqual(existsSync(temp) ? readdirSync(temp) : [], [])
}

async function listDetails (images: ImageManager): Promise<ImageDetail[]> {
  return Promise.all((await images.list()).map(image => images.get(image.digest)))
}

test('berth/base is made once from busybox and is a usable root', async t => {
  const parts = build(t)
  const [one, two] = await Promise.all([parts.images.prepareRootfs('berth/base', 'sbx_1'), parts.images.prepareRootfs('berth/base', 'sbx_2')])
  assert.equal(parts.unpacked(), 1)
  assert.deepEqual(one, two)
  assert.match(one.digest ?? '', /^sha256:[a-f0-9]{64}$/)
  assert.equal(one.config.user, '1000:1000')
  assert.equal(one.config.workingDir, '/workspace')

  const [root] = one.lowerDirs as [string]
  assert.equal(execFileSync('/usr/sbin/chroot', ['--userspec=1000:1000', root, '/usr/bin/env', 'sh', '-c', 'id -un; pwd; ls -d /workspace; echo x > /workspace/x; rm /workspace/x; awk "BEGIN { print 6 * 7 }"'], { env: { PATH: '/bin' } }).toString(), 'berth\n/\n/workspace\n42\n')
  assert.equal(lstatSync(join(root, 'bin/busybox')).isFile(), true)
  assert.equal(readlinkSync(join(root, 'bin/sh')), 'busybox')
  assert.equal(statSync(join(root, 'tmp')).mode & 0o7777, 0o1777)
  assert.equal(statSync(root).mode & 0o7777, 0o755)
  for (const name of ['etc/hosts', 'etc/hostname', 'etc/resolv.conf']) assert.equal(readFileSync(join(root, name), 'utf8'), '')
  const berth = { uid: 1000, gid: 1000, additionalGids: [], home: '/workspace', name: 'berth' }
  assert.deepEqual(await parts.images.resolveUser(one, 'berth'), berth)
  assert.deepEqual(await parts.images.resolveUser(one, '1000:1000'), berth)
  assertNothingHalfDone(parts)
})

test('a directory is used in place', async t => {
  const parts = build(t)
  mkdirSync(join(parts.dir, 'rootfs'))
  const prepared = await parts.images.prepareRootfs(`dir:${parts.dir}/rootfs`, 'sbx_1')
  assert.deepEqual(prepared, { reference: `dir:${parts.dir}/rootfs`, lowerDirs: [join(parts.dir, 'rootfs')], config: { env: {} } })
  await assert.rejects(parts.images.prepareRootfs(`dir:${parts.imagesDir}`, 'sbx_2'), { code: 'image_path_not_allowed' })
  mkdirSync(join(parts.imagesDir, 'x'))
  await assert.rejects(parts.images.prepareRootfs(`dir:${parts.imagesDir}/x`, 'sbx_2'), { code: 'image_path_not_allowed' })
  assert.deepEqual(readdirSync(join(parts.imagesDir, 'leases')), ['sbx_1.json'])
})

test('layers are applied in order, with whiteouts, opaque directories, links, owners and modes', async t => {
  const parts = build(t)
  const lower = layerOf(parts, 'lower', `
    mkdir -p etc gone opaque/old bin dev
    echo a > etc/kept; echo b > etc/removed; echo c > gone/file; echo d > opaque/old/file; echo one > etc/changed
    ln etc/kept etc/hard; ln -s /etc/kept etc/soft
    cp /bin/true bin/su; chmod 4755 bin/su; chown 12:345 etc/kept; mknod dev/null c 1 3`)
  const upper = layerOf(parts, 'upper', 'mkdir -p etc opaque; touch etc/.wh.removed .wh.gone opaque/.wh..wh..opq; echo e > opaque/young; echo two > etc/changed')
  const image = parts.writer.image({ layers: [lower, upper], config: { Env: ['X=1'], Cmd: ['/bin/su'] } })
  parts.writer.index([{ ...image, tag: 'v1' }])

  const prepared = await parts.images.prepareRootfs(`${parts.reference}:v1`, 'sbx_1')
  assert.equal(prepared.digest, image.digest)
  assert.deepEqual(prepared.config, { env: { X: '1' }, cmd: ['/bin/su'] })
  const [root] = prepared.lowerDirs as [string]
  assert.equal(root, join(parts.imagesDir, 'unpacked', image.digest.slice('sha256:'.length), 'rootfs'))
  assert.deepEqual(readdirSync(root).sort(), ['bin', 'dev', 'etc', 'opaque'])
  assert.deepEqual(readdirSync(join(root, 'etc')).sort(), ['changed', 'hard', 'kept', 'soft'])
  assert.deepEqual(readdirSync(join(root, 'opaque')), ['young'])
  assert.deepEqual(readdirSync(join(root, 'dev')), [], 'device nodes are left out')
  assert.equal(readFileSync(join(root, 'etc/changed'), 'utf8'), 'two\n')
  const kept = statSync(join(root, 'etc/kept'))
  assert.deepEqual([kept.uid, kept.gid, kept.nlink, kept.ino], [12, 345, 2, statSync(join(root, 'etc/hard')).ino])
  assert.equal(readlinkSync(join(root, 'etc/soft')), '/etc/kept')
  assert.equal(statSync(join(root, 'bin/su')).mode & 0o7777, 0o4755)
  assertNothingHalfDone(parts)
})

test('an image is unpacked once, however many ask for it at first and later', async t => {
  const parts = build(t)
  smallImage(parts)
  const ids = Array.from({ length: 8 }, (_, i) => `sbx_${i}`)
  const prepared = await Promise.all(ids.map(id => parts.images.prepareRootfs(parts.reference, id)))
  assert.equal(new Set(prepared.map(image => image.lowerDirs[0])).size, 1)
  await parts.images.prepareRootfs(parts.reference, 'sbx_later')
  assert.equal(parts.unpacked(), 1)
  const [image] = await listDetails(parts.images)
  assert.deepEqual(image?.leaseIds.sort(), [...ids, 'sbx_later'].sort())
  assert.ok((image?.sizeBytes ?? 0) > 0)
})

test('a failing preparation fails all who wait and leaves nothing; the next call tries again', async t => {
  const parts = build(t)
  const image = smallImage(parts)
  const [layer] = image.layers as [typeof image.layers[0]]
  const content = readFileSync(parts.writer.blobPath(layer!.digest))
  rmSync(parts.writer.blobPath(layer!.digest))
  const outcomes = await Promise.allSettled(['sbx_1', 'sbx_2', 'sbx_3'].map(id => parts.images.prepareRootfs(parts.reference, id)))
  for (const outcome of outcomes) {
    assert.equal(outcome.status, 'rejected')
    assert.equal(outcome.reason.code, 'image_invalid')
    assert.doesNotMatch(outcome.reason.message, new RegExp(parts.imagesDir))
  }
  assertNothingHalfDone(parts)
  assert.deepEqual(await parts.images.list(), [])
  assert.equal(existsSync(join(parts.imagesDir, 'leases')), false)

  writeFileSync(parts.writer.blobPath(layer!.digest), content)
  assert.equal((await parts.images.prepareRootfs(parts.reference, 'sbx_1')).digest, image.digest)
})

test('an abort ends one wait, not the preparation, and leaves no lease', async t => {
  const parts = build(t)
  const image = smallImage(parts)
  const controller = new AbortController()
  const other = parts.images.prepareRootfs(parts.reference, 'sbx_1')
  const aborted = parts.images.prepareRootfs(parts.reference, 'sbx_2', { signal: controller.signal })
  controller.abort(new Error('caller left'))
  await assert.rejects(aborted, /caller left/)
  assert.equal((await other).digest, image.digest)
  const [listed] = await listDetails(parts.images)
  assert.deepEqual(listed?.leaseIds, ['sbx_1'])
  assert.deepEqual(readdirSync(join(parts.imagesDir, 'leases')), ['sbx_1.json'])
})

test('layers that are not what their image promises are refused', async t => {
  const parts = build(t)
  const tar = layerOf(parts, 'x', 'echo x > x')
  const images: Record<string, () => { mediaType: string, digest: string, size: number }> = {
    'another diff id': () => parts.writer.image({ layers: [tar], diffIds: [`sha256:${'0'.repeat(64)}`] }),
    'no archive': () => parts.writer.image({ layers: [Buffer.alloc(2048, 'x')] }),
    'cut short': () => parts.writer.image({ layers: [layerOf(parts, 'cut', 'head -c 20000 /dev/zero > x', ['x']).subarray(0, 8000)] }),
    'unknown layer type': () => parts.writer.image({ layers: [tar], layerType: 'application/vnd.oci.image.layer.v1.tar+xz' }),
    'gzip that is called zstd': () => parts.writer.image({ layers: [tar], layerType: 'application/vnd.oci.image.layer.v1.tar+zstd' }),
    'changed blob': () => {
      const image = parts.writer.image({ layers: [layerOf(parts, 'y', 'echo y > y')] })
      const path = parts.writer.blobPath(image.layers[0]!.digest)
      writeFileSync(path, Buffer.alloc(statSync(path).size, 'z'))
      return image
    },
    'linked blob': () => {
      const image = parts.writer.image({ layers: [layerOf(parts, 'z', 'echo z > z')] })
      const path = parts.writer.blobPath(image.layers[0]!.digest)
      linkSync(path, `${path}.real`)
      rmSync(path)
      symlinkSync(`${path}.real`, path)
      return image
    },
    'a device outside /dev': () => parts.writer.image({ layers: [layerOf(parts, 'device', 'mkdir a; mknod a/sda b 8 0')] }),
    'an overlay whiteout': () => parts.writer.image({ layers: [layerOf(parts, 'whiteout', 'mknod hidden c 0 0')] }),
  }
  for (const [name, make] of Object.entries(images)) {
    parts.writer.index([make()])
    await assert.rejects(parts.images.prepareRootfs(parts.reference, 'sbx_1'), error => {
      assert.deepEqual({ kind: (error as any).kind, code: (error as any).code }, invalid, `${name}: ${String(error)}`)
      assert.doesNotMatch((error as Error).message, new RegExp(parts.imagesDir))
      return true
    }, name)
  }
  assertNothingHalfDone(parts)
})

test('archives that try to write outside the image do not', async t => {
  const parts = build(t)
  const victim = join(parts.dir, 'victim')
  mkdirSync(victim)
  // A link first, then a file through it, in one layer and across two; then names that climb.
  const link = layerOf(parts, 'link', `ln -s ${victim} out`, ['out'])
  const through = layerOf(parts, 'through', 'mkdir out; echo x > out/one', ['out/one'])
  const climbing = layerOf(parts, 'climbing', 'mkdir -p in; echo x > two')
  const climb = execFileSync('tar', ['-C', join(parts.dir, 'layers/climbing'), '-P', '--transform', `s,^two$,../../../../../../../../..${victim}/two,`, '-cf', '-', 'two'])
  const absolute = execFileSync('tar', ['-C', join(parts.dir, 'layers/climbing'), '-P', '--transform', `s,^two$,${victim}/three,`, '-cf', '-', 'two'])
  assert.ok(climbing.length > 0)
  for (const layers of [[link, through], [climb], [absolute]]) {
    parts.writer.index([parts.writer.image({ layers })])
    // Whether such an image is refused or confined is umoci's choice.
    await parts.images.prepareRootfs(parts.reference, 'sbx_1').catch(error => assert.equal(error.code, 'image_invalid'))
    assert.deepEqual(readdirSync(victim), [])
  }
})

test('an image without layers is an empty root', async t => {
  const parts = build(t)
  parts.writer.index([parts.writer.image()])
  const { lowerDirs } = await parts.images.prepareRootfs(parts.reference, 'sbx_1')
  assert.deepEqual(readdirSync(lowerDirs[0]!), [])
})

test('a daemon killed while it unpacks leaves nothing that the next one does not clear', async t => {
  const parts = build(t)
  const layer = layerOf(parts, 'large', 'i=0; while [ $i -lt 100 ]; do i=$((i + 1)); mkdir d$i; head -c 16384 /dev/urandom > d$i/f; done')
  const image = parts.writer.image({ layers: [layer] })
  parts.writer.index([image])
  const script = `
    import { setTimeout } from 'node:timers/promises'
import { pino } from 'pino'
    import { ImageManager } from ${JSON.stringify(join(import.meta.dirname, '../../src/services/images/image-manager.ts'))}
    const images = new ImageManager({ imagesDir: ${JSON.stringify(parts.imagesDir)}, busyboxPath: ${JSON.stringify(busyboxPath)}, logger: pino({ level: 'silent' }) })
    console.log('ready')
    await images.prepareRootfs(${JSON.stringify(parts.reference)}, 'sbx_1')
    console.log('done')`
  // Spread over the some 100 ms that the work takes; whatever moment is hit must be a good one.
  for (const delayMs of [10, 30, 60, 90, 140]) {
    const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script], { cwd: join(import.meta.dirname, '../..'), stdio: ['ignore', 'pipe', 'inherit'] })
    // Before anything is waited for: it may be done, and gone, before it is killed.
    const closed = once(child, 'close')
    await once(child.stdout, 'data')
    await setTimeout(delayMs)
    child.kill('SIGKILL')
    await closed
    const next = parts.next()
    await next.adopt(new Set())
    assertNothingHalfDone(parts)
    assert.deepEqual(await next.list().then(list => list.map(found => found.digest).filter(digest => digest !== image.digest)), [])
    const { lowerDirs } = await next.prepareRootfs(parts.reference, 'sbx_2')
    assert.equal(readdirSync(lowerDirs[0]!).length, 100)
    await next.release('sbx_2')
    assert.deepEqual((await next.prune()).digests, [image.digest])
    assertNothingHalfDone(parts)
  }
})

test('a moved tag is another image; the first stays as it is for whoever holds it', async t => {
  const parts = build(t)
  const first = smallImage(parts, 'one')
  const one = await parts.images.prepareRootfs(parts.reference, 'sbx_1')
  const second = smallImage(parts, 'two')
  const two = await parts.images.prepareRootfs(parts.reference, 'sbx_2')
  assert.deepEqual([one.digest, two.digest], [first.digest, second.digest])
  assert.equal(readFileSync(join(one.lowerDirs[0]!, 'etc/motd'), 'utf8'), 'one\n')
  assert.equal(readFileSync(join(two.lowerDirs[0]!, 'etc/motd'), 'utf8'), 'two\n')
})

test('layouts made by umoci and by skopeo, also with an index of platforms, are usable', async t => {
  const parts = build(t)
  const made = join(parts.dir, 'made')
  const layer = join(parts.dir, 'layer.tar')
  writeFileSync(layer, layerOf(parts, 'made', 'echo made > made'))
  execFileSync('umoci', ['init', '--layout', made])
  execFileSync('umoci', ['new', '--image', `${made}:v1`])
  execFileSync('umoci', ['raw', 'add-layer', '--image', `${made}:v1`, layer], { stdio: 'ignore' })
  execFileSync('umoci', ['config', '--image', `${made}:v1`, '--config.user', '5:6', '--config.entrypoint', '/made'])
  const prepared = await parts.images.prepareRootfs(`oci:${made}:v1`, 'sbx_1')
  assert.equal(readFileSync(join(prepared.lowerDirs[0]!, 'made'), 'utf8'), 'made\n')
  assert.deepEqual(prepared.config.entrypoint, ['/made'])
  assert.equal(prepared.config.user, '5:6')

  const image = parts.writer.image({ layers: [readFileSync(layer)] })
  const [os, architecture] = ['linux', process.arch === 'arm64' ? 'arm64' : 'amd64']
  const { mediaType, digest, size } = image
  parts.writer.index([parts.writer.blob({ schemaVersion: 2, manifests: [{ mediaType, digest, size, platform: { os, architecture } }] }, indexType)])
  assert.equal((await parts.images.prepareRootfs(parts.reference, 'sbx_2')).digest, digest)
})

test('eviction takes what no lease holds, the longest unused first, down to the budget', async t => {
  const parts = build(t)
  const digests: string[] = []
  for (const name of ['one', 'two', 'three']) {
    const { digest, lowerDirs } = await (smallImage(parts, name), parts.images.prepareRootfs(parts.reference, `sbx_${name}`))
    digests.push(digest!)
    utimesSync(join(lowerDirs[0]!, '..'), digests.length, digests.length)
  }
  assert.deepEqual(await parts.images.prune(), { digests: [], freedBytes: 0 })
  const [held, , young] = digests as [string, string, string]
  await parts.images.release('sbx_two')
  await parts.images.release('sbx_three')
  const [image] = await parts.images.list()
  assert.deepEqual((await parts.images.prune({ keepBytes: image!.sizeBytes * 2 })).digests, [digests[1]])
  assert.deepEqual((await parts.images.prune()).digests, [young])
  assert.deepEqual((await parts.images.list()).map(image => image.digest), [held])
  assertNothingHalfDone(parts)
})

test('eviction does not take an image that is being asked for', async t => {
  const parts = build(t)
  smallImage(parts)
  await parts.images.prepareRootfs(parts.reference, 'sbx_1')
  await parts.images.release('sbx_1')
  for (let round = 0; round < 8; round++) {
    const [prepared] = await Promise.all([parts.images.prepareRootfs(parts.reference, 'sbx_1'), parts.images.prune()])
    assert.equal(readFileSync(join(prepared.lowerDirs[0]!, 'etc/motd'), 'utf8'), 'hello\n')
    await parts.images.release('sbx_1')
  }
})

test('the next daemon keeps held images, drops leases without holder and clears what was half done', async t => {
  const parts = build(t)
  const image = smallImage(parts)
  await parts.images.prepareRootfs(parts.reference, 'sbx_alive')
  await parts.images.prepareRootfs('berth/base', 'sbx_gone')
  // As a daemon killed while it unpacked and while it evicted leaves them.
  mkdirSync(join(parts.imagesDir, 'tmp/building/layout/blobs'), { recursive: true })
  mkdirSync(join(parts.imagesDir, 'tmp/removing/rootfs/etc'), { recursive: true })

  const next = parts.next()
  await next.adopt(new Set(['sbx_alive']))
  assertNothingHalfDone(parts)
  assert.deepEqual(readdirSync(join(parts.imagesDir, 'leases')), ['sbx_alive.json'])
  assert.equal((await next.prune()).digests.length, 1)
  assert.deepEqual((await listDetails(next)).map(found => [found.digest, found.leaseIds]), [[image.digest, ['sbx_alive']]])
  await next.adopt(new Set())
  assert.deepEqual((await next.prune()).digests, [image.digest])
})

test('an image whose description is damaged is made anew', async t => {
  const parts = build(t)
  smallImage(parts)
  const { lowerDirs } = await parts.images.prepareRootfs(parts.reference, 'sbx_1')
  writeFileSync(join(lowerDirs[0]!, '../image.json'), '{')
  rmSync(join(lowerDirs[0]!, 'etc/motd'))
  await parts.images.prepareRootfs(parts.reference, 'sbx_1')
  assert.equal(readFileSync(join(lowerDirs[0]!, 'etc/motd'), 'utf8'), 'hello\n')
})

test('a whiteout in an upper layer hides the file below it from the lookup of users', async t => {
  const parts = build(t)
  const lower = join(parts.dir, 'low')
  const upper = join(parts.dir, 'up')
  execFileSync('sh', ['-euc', 'mkdir -p low/etc up/etc; echo "app:x:5:5::/:" > low/etc/passwd; mknod up/etc/passwd c 0 0'], { cwd: parts.dir })
  assert.equal((await resolveImageUser([lower], 'app')).uid, 5)
  await assert.rejects(resolveImageUser([upper, lower], 'app'), { code: 'user_not_found' })
})

test('the digest of berth/base follows the busybox it is made from', async t => {
  const parts = build(t)
  const copy = join(parts.dir, 'busybox')
  execFileSync('cp', [busyboxPath, copy])
  const images = new ImageManager({ imagesDir: parts.imagesDir, busyboxPath: copy, logger: pino({ level: 'silent' }) })
  const before = await images.prepareRootfs('berth/base', 'sbx_1')
  writeFileSync(copy, 'more', { flag: 'a' })
  const after = await images.prepareRootfs('berth/base', 'sbx_2')
  assert.notEqual(after.digest, before.digest)
  const hash = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex')
  assert.equal(hash(join(before.lowerDirs[0]!, 'bin/busybox')), hash(busyboxPath))
  rmSync(copy)
  await assert.rejects(images.prepareRootfs('berth/base', 'sbx_3'), { kind: 'unavailable', code: 'program_not_found' })
})
