import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { createReadStream, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { BerthError } from '../../src/errors.ts'
import { runCommand } from '../../src/host/command.ts'
import { makeTarIndex, mountLayer, probeErofs } from '../../src/host/erofs.ts'
import { MS_NODEV, mount } from '../../src/host/libc.ts'
import { buildLayer } from '../../src/services/images/layers/layer-builder.ts'
import { LayerDirectory } from '../../src/services/images/layers/layer-directory.ts'
import { blobOf, digestOf, layerDirectory, layerOf, mediaTypes, type LayerFixture, type LayersFixture } from '../support/layer-fixture.ts'
import { directory, entry, gnuLong, pax, tar } from '../support/tar-writer.ts'

const root = directory('./')
// A version 2 capability set: cap_net_raw, effective (linux/capability.h).
const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex')
const longName = `${'a-long-directory-name/'.repeat(12)}${'n'.repeat(200)}`

const accepted: ReadonlyArray<readonly [what: string, archive: Buffer]> = [
  ['setuid, setgid and sticky modes', tar(root, directory('tmp', { mode: 0o1777 }), entry({ name: 'su', mode: 0o4755 }, 'x'), entry({ name: 'sg', mode: 0o2750, gid: 42 }, 'x'))],
  ['capabilities', tar(root, pax([['SCHILY.xattr.security.capability', capability]]), entry({ name: 'ping', mode: 0o755 }, 'elf'))],
  ['extended attributes of bytes', tar(root, pax([['SCHILY.xattr.user.bytes', Buffer.from([0, 1, 0x80, 0xff, 0x0a, 0x3d])], ['SCHILY.xattr.user.text', 'naïve']]), entry({ name: 'x' }, 'x'))],
  ['hard links', tar(root, directory('d'), entry({ name: 'a' }, 'shared'), entry({ name: 'd/b', type: '1', linkName: 'a' }), entry({ name: 'd/c', type: '1', linkName: './d/b' }))],
  ['a hard link to a symbolic link', tar(root, entry({ name: 's', type: '2', mode: 0o777, linkName: '/nowhere' }), entry({ name: 't', type: '1', linkName: 's' }))],
  ['symbolic links that lead anywhere', tar(root, entry({ name: 'up', type: '2', mode: 0o777, linkName: '../../../etc' }), entry({ name: 'abs', type: '2', mode: 0o777, linkName: '/etc/passwd' }))],
  ['long names by pax', tar(root, pax([['path', longName], ['SCHILY.xattr.user.a', 'b']]), entry({ name: 'short' }, 'long'), pax([['linkpath', longName]]), entry({ name: 'l', type: '2', mode: 0o777, linkName: 'short' }))],
  ['long names by GNU', tar(root, gnuLong('L', longName), entry({ name: 'short', magic: 'ustar  \0' }, 'long'), gnuLong('K', longName), entry({ name: 'l', type: '1', linkName: 'short', magic: 'ustar  \0' }))],
  ['names with a prefix', tar(root, entry({ name: 'name', prefix: 'some/prefix' }, 'x'))],
  ['names that are no UTF-8', tar(root, entry({ name: Buffer.from([0x66, 0xff, 0xfe, 0x0a, 0x5c]) }, 'x'))],
  ['large owners', tar(root, pax([['uid', '100000'], ['gid', '4294967294']]), entry({ name: 'x' }, 'x'), entry({ name: 'y', uid: Buffer.from('800000000001ffff', 'hex').toString('latin1') }, 'x'))],
  ['times before 1970', tar(root, pax([['mtime', '-86400']]), entry({ name: 'x' }, 'x'))],
  ['names with ./ and doubled slashes', tar(root, directory('./a/'), directory('./a//b/'), entry({ name: './a/./b//c' }, 'x'))],
  ['nothing', tar(root)],
  ['a file twice: the later one counts', tar(root, entry({ name: 'x', mode: 0o600 }, 'first'), entry({ name: 'x', mode: 0o644 }, 'second one'))],
  ['a symbolic link replaced by a directory', tar(root, entry({ name: 'x', type: '2', mode: 0o777, linkName: 'elsewhere' }), directory('x'), entry({ name: 'x/y' }, 'inside'))],
  ['a hard link over a file', tar(root, entry({ name: 'a' }, 'a'), entry({ name: 'b' }, 'b'), entry({ name: 'b', type: '1', linkName: 'a' }))],
  ['a directory twice: the later one counts', tar(root, directory('d', { mode: 0o700 }), entry({ name: 'd/x' }, 'x'), directory('d', { mode: 0o711, uid: 7 }))],
  ['fifos', tar(root, entry({ name: 'pipe', type: '6', mode: 0o620 }))],
  ['devices below dev', tar(root, directory('dev'), entry({ name: 'dev/null', type: '3', major: 1, minor: 3, mode: 0o666 }), entry({ name: 'dev/sda', type: '4', major: 8, minor: 300 }))],
  ['a global comment', tar(pax([['comment', 'of git']], 'g'), root, entry({ name: 'x' }, 'x'))],
  ['the mode with its type', tar(root, entry({ name: 'x', mode: 0o100644 }, 'x'), directory('d', { mode: 0o040755 }))],
  ['a contiguous file', tar(root, entry({ name: 'x', type: '7' }, 'x'))],
  ['something behind the end mark', Buffer.concat([tar(root, entry({ name: 'x' }, 'x')), entry({ name: '../../ignored' }, 'x')])],
  ['files of all sizes around a block', tar(root, ...[0, 1, 511, 512, 513, 4095, 4096, 4097, 1024 ** 2 + 1].map(size => entry({ name: `f${size}` }, randomBytes(size))))],
]

for (const [what, archive] of accepted) {
  test(`a layer means to us what it means to tar: ${what}`, async t => {
    await assertAsTarSays(t, layerOf(archive, 'gzip'), archive)
  })
}

test('a layer of a real directory means to us what it means to tar', async t => {
  const { root: dir } = await layerDirectory(t)
  const path = join(dir, 'real.tar')
  const made = await runCommand('tar', ['--numeric-owner', '--xattrs', '--format=posix', '-cf', path, '-C', '/usr/sbin', '.'])
  assert.equal(made.exitCode, 0, made.stderr)
  const archive = readFileSync(path)
  for (const compression of ['gzip', 'zstd', 'plain'] as const) await assertAsTarSays(t, layerOf(archive, compression), archive)
})

test('whiteouts and opaque directories become those of overlayfs', async t => {
  const fixture = await layerDirectory(t)
  const { directory: layers } = fixture
  const archive = tar(root, directory('d'), entry({ name: 'd/.wh.gone' }), entry({ name: '.wh.top', type: '7' }), directory('o'), entry({ name: 'o/.wh..wh..opq' }), entry({ name: 'o/kept' }, 'kept'),
    entry({ name: 'p/.wh..wh..opq' }), directory('p', { mode: 0o700 }), entry({ name: '.wh.twice' }), entry({ name: '.wh.twice' }))
  const { layer, openBlob } = layerOf(archive, 'gzip')
  const facts = await buildLayer({ layer, openBlob, directory: layers })
  const mounted = await mountOf(fixture, layer.digest)
  assert.deepEqual(readdirSync(mounted).sort(), ['d', 'o', 'p', 'top', 'twice'])
  for (const name of ['d/gone', 'top', 'twice']) {
    const stat = lstatSync(join(mounted, name))
    assert.ok(stat.isCharacterDevice() && stat.rdev === 0, name)
  }
  assert.deepEqual(readdirSync(join(mounted, 'o')), ['kept'])
  assert.equal(lstatSync(join(mounted, 'p')).mode & 0o777, 0o700)
  const records = await xattrRecords(mounted)
  assert.deepEqual(records.filter(record => record.includes('overlay.opaque')).length, 2, records.join())
  assert.deepEqual(facts.implicitDirectories, [])
})

test('a layer stacked by overlayfs hides what its whiteouts and opaque directories hide', async t => {
  const fixture = await layerDirectory(t)
  const { directory: layers, root: dir, mounted } = fixture
  const lower = layerOf(tar(root, directory('d'), entry({ name: 'd/gone' }, 'x'), entry({ name: 'd/stays' }, 'x'), directory('o'), entry({ name: 'o/below' }, 'x'), entry({ name: 'su', mode: 0o4755 }, 'x')), 'gzip')
  const upper = layerOf(tar(root, directory('d'), entry({ name: 'd/.wh.gone' }), directory('o'), entry({ name: 'o/.wh..wh..opq' }), entry({ name: 'o/above' }, 'x')), 'zstd')
  for (const blob of [lower, upper]) await buildLayer({ ...blob, directory: layers })
  const [below, above] = [await mountOf(fixture, lower.layer.digest), await mountOf(fixture, upper.layer.digest)]
  const merged = join(dir, 'merged')
  mkdirSync(merged)
  mount('overlay', merged, 'overlay', MS_NODEV, `lowerdir=${above}:${below}`)
  mounted(merged)
  assert.deepEqual(readdirSync(join(merged, 'd')), ['stays'])
  assert.deepEqual(readdirSync(join(merged, 'o')), ['above'])
  assert.equal(lstatSync(join(merged, 'su')).mode & 0o7777, 0o4755)
})

test('directories that a layer only names as part of a path are root\'s with mode 0755, and reported', async t => {
  const fixture = await layerDirectory(t)
  const long = 'n'.repeat(200)
  const archive = tar(directory('a', { mode: 0o700 }), entry({ name: 'a/b/c/file' }, 'content'), pax([['path', `${long}/é/x`]]), entry({}, 'x'), entry({ name: 'w/.wh.x' }), entry({ name: 'tmp/x' }, 'other content'))
  const { layer, openBlob } = layerOf(archive, 'gzip')
  const facts = await buildLayer({ layer, openBlob, directory: fixture.directory })
  assert.deepEqual(facts.implicitDirectories, ['a/b', 'a/b/c', long, `${long}/é`, 'w', 'tmp'])
  assert.equal(facts.entries, 5)
  const mounted = await mountOf(fixture, layer.digest)
  for (const path of facts.implicitDirectories) {
    const { mode, uid, gid, mtimeMs } = lstatSync(join(mounted, path))
    assert.deepEqual([mode & 0o7777, uid, gid, mtimeMs], [0o755, 0, 0, 0], path)
  }
  assert.equal(lstatSync(join(mounted, 'a')).mode & 0o7777, 0o700)
  assert.deepEqual(['a/b/c/file', `${long}/é/x`, 'tmp/x'].map(path => readFileSync(join(mounted, path), 'utf8')), ['content', 'x', 'other content'])
  assert.ok(lstatSync(join(mounted, 'w/x')).isCharacterDevice())
  assert.deepEqual(readdirSync(fixture.directory.files(layer.digest).dir).sort(), ['complete', 'layer.json', 'layer.tar', 'meta.erofs', 'spans'])
})

test('layers of many gzip members and of many zstd frames are whole', async t => {
  const archive = tar(root, entry({ name: 'a' }, randomBytes(700_000)), entry({ name: 'b' }, 'text '.repeat(600_000)))
  const parts = [0, 100_000, 100_001, 900_000, 2_500_000].map((start, i, all) => archive.subarray(start, all[i + 1]))
  const skippable = Buffer.concat([Buffer.from('502a4d1803000000', 'hex'), Buffer.from('toc')])
  const blobs = [
    [Buffer.concat(parts.map(part => gzipSync(part))), mediaTypes.gzip],
    [Buffer.concat([gzipSync(''), ...parts.map(part => gzipSync(part)), gzipSync('')]), mediaTypes.gzip],
    [Buffer.concat([...parts.flatMap(part => [zstdCompressSync(part), skippable])]), mediaTypes.zstd],
    [Buffer.concat([skippable, zstdCompressSync(archive)]), 'application/vnd.docker.image.rootfs.diff.tar.zstd'],
  ] as const
  for (const [blob, mediaType] of blobs) await assertAsTarSays(t, blobOf(blob, { diffId: digestOf(archive), mediaType }), archive)
})

test('the same tar makes the same metadata', async t => {
  const { root: dir } = await layerDirectory(t)
  const path = join(dir, 'tar')
  writeFileSync(path, tar(entry({ name: 'deep/down/x' }, 'x'), entry({ name: 'y' }, 'y')))
  for (const name of ['one', 'two']) assert.equal(await makeTarIndex(path, join(dir, name)), undefined)
  assert.ok(readFileSync(join(dir, 'one')).equals(readFileSync(join(dir, 'two'))))
})

test('a download that breaks off is taken up where it broke off', async t => {
  const { directory: layers } = await layerDirectory(t)
  const { layer, blob } = layerOf(tar(entry({ name: 'x' }, randomBytes(300_000))), 'gzip')
  const offsets: number[] = []
  const fetched: number[] = []
  await buildLayer({
    layer,
    directory: layers,
    onProgress: ({ fetchedBytes }) => fetched.push(fetchedBytes),
    openBlob: async function * (offset) {
      offsets.push(offset)
      yield blob.subarray(offset, offset + 100_000)
      if (offset + 100_000 < blob.length) throw new BerthError('unavailable', 'registry_unavailable', 'the connection broke')
    },
  })
  assert.deepEqual(offsets, [0, 100_000, 200_000, 300_000])
  assert.equal(fetched.at(-1), layer.sizeBytes)
})

test('a source that fails for good fails the build, and nothing is left', async t => {
  const { directory: layers } = await layerDirectory(t)
  const { layer, blob } = layerOf(tar(entry({ name: 'x' }, randomBytes(300_000))), 'gzip')
  const openBlob = async function * () {
    yield blob.subarray(0, 1000)
    throw new BerthError('permission_denied', 'image_auth_required', 'not for you')
  }
  await assert.rejects(buildLayer({ layer, openBlob, directory: layers }), { code: 'image_auth_required' })
  assert.deepEqual(readdirSync(layers.dir), [])
})

test('an abort ends a build at once, and nothing is left', async t => {
  const { directory: layers } = await layerDirectory(t)
  for (const compression of ['gzip', 'zstd', 'plain'] as const) {
    const { layer, blob } = layerOf(tar(entry({ name: 'x' }, randomBytes(300_000))), compression)
    const controller = new AbortController()
    const openBlob = async function * () {
      yield blob.subarray(0, 1000)
      controller.abort(new Error('enough'))
      yield blob.subarray(1000)
    }
    await assert.rejects(buildLayer({ layer, openBlob, directory: layers, signal: controller.signal }), /enough|abort/i)
    assert.deepEqual(readdirSync(layers.dir), [])
  }
})

test('a full disk fails the build with disk_full, and nothing is left', async t => {
  const { root: dir, mounted } = await layerDirectory(t)
  const small = join(dir, 'small')
  mkdirSync(small)
  mount('tmpfs', small, 'tmpfs', MS_NODEV, 'size=4m')
  mounted(small)
  const layers = new LayerDirectory({ dir: join(small, 'layers') })
  await layers.open()
  const archive = tar(entry({ name: 'x' }, randomBytes(8 * 1024 ** 2)))
  for (const compression of ['gzip', 'zstd', 'plain'] as const) {
    await assert.rejects(buildLayer({ ...layerOf(archive, compression), directory: layers }), { kind: 'exhausted', code: 'disk_full' })
    assert.deepEqual(readdirSync(layers.dir), [])
  }
})

test('what a crash left of a build is cleared at the next start, and whole layers stay', async t => {
  const { directory: layers } = await layerDirectory(t)
  const { layer, openBlob } = layerOf(tar(entry({ name: 'x' }, 'x')))
  await buildLayer({ layer, openBlob, directory: layers })
  for (const prefix of ['.making-', '.removing-']) {
    mkdirSync(join(layers.dir, `${prefix}${'0'.repeat(64)}-12345678`))
    writeFileSync(join(layers.dir, `${prefix}${'0'.repeat(64)}-12345678`, 'layer.tar'), 'half')
  }
  await layers.open()
  assert.deepEqual(await layers.list(), [layer.digest])
  assert.equal((await layers.find(layer.digest))?.isComplete, true)
  await layers.remove(layer.digest)
  await layers.remove(layer.digest)
  assert.deepEqual(readdirSync(layers.dir), [])
})

test('a host that can mount layers is found out by mounting one, and nothing is left of it', async t => {
  const { root: dir } = await layerDirectory(t)
  assert.deepEqual(await probeErofs(dir), { ok: true })
  assert.deepEqual(readdirSync(dir), ['layers'])
})

/** Builds a layer, mounts it, and compares it with what tar extracts: names, types, modes, owners, times, links, attributes and data. */
async function assertAsTarSays (t: TestContext, blob: LayerFixture, archive: Buffer): Promise<void> {
  const fixture = await layerDirectory(t)
  const { directory: layers, root: dir } = fixture
  await buildLayer({ ...blob, directory: layers })
  const files = layers.files(blob.layer.digest)
  assert.ok(readFileSync(files.tarPath).equals(archive))
  assert.equal(statSync(files.dir).mode & 0o777, 0o700)
  const mounted = await mountOf(fixture, blob.layer.digest)
  const extracted = join(dir, 'extracted')
  mkdirSync(extracted)
  const result = await runCommand('tar', ['-xpf', files.tarPath, '--same-owner', '--numeric-owner', '--xattrs', '--xattrs-include=*', '-C', extracted])
  assert.equal(result.exitCode, 0, result.stderr)
  assert.deepEqual(await describe(mounted), await describe(extracted))
}

/**
 * Every entry of a tree as `tar` sees it, and a digest of the whole. Times of directories are left out: tar does not set those of which an
 * archive has no entry, and not all of the others.
 */
async function describe (dir: string): Promise<{ names: string, digest: string }> {
  const archives: Buffer[] = []
  let names = ''
  for (const [kinds, options] of [[['!', '-type', 'd'], []], [['-type', 'd'], ['--mtime=@0']]] as const) {
    const [listPath, path] = [`${dir}.list`, `${dir}.described`]
    const found = await runCommand('find', ['.', ...kinds, '-fprint0', listPath], { cwd: dir })
    assert.equal(found.exitCode, 0, found.stderr)
    writeFileSync(listPath, readFileSync(listPath, 'latin1').split('\0').sort().filter(name => name !== '').map(name => `${name}\0`).join(''), 'latin1')
    const made = await runCommand('tar', ['--null', '--no-recursion', '--verbatim-files-from', '--numeric-owner', '--xattrs', '--xattrs-include=*', '--format=posix',
      '--pax-option=exthdr.name=%d/%f,delete=atime,delete=ctime', ...options, '-cf', path, '-C', dir, '-T', listPath])
    assert.equal(made.exitCode, 0, made.stderr)
    names += (await runCommand('tar', ['--numeric-owner', '-tvf', path])).stdout
    archives.push(readFileSync(path))
    for (const temporary of [listPath, path]) rmSync(temporary)
  }
  return { names, digest: digestOf(Buffer.concat(archives)) }
}

async function xattrRecords (dir: string): Promise<string[]> {
  const path = `${dir}.described`
  await runCommand('tar', ['--xattrs', '--xattrs-include=*', '--format=posix', '-cf', path, '-C', dir, '.'])
  const found: string[] = []
  for await (const chunk of createReadStream(path, 'latin1')) found.push(...String(chunk).match(/SCHILY\.xattr\.[^\n]*/g) ?? [])
  return found
}

async function mountOf ({ directory: layers, mounted }: LayersFixture, digest: string): Promise<string> {
  const { metaPath, tarPath } = layers.files(digest)
  const target = join(layers.dir, `../mounted-${digest.slice(7, 19)}`)
  mkdirSync(target, { recursive: true })
  await mountLayer({ metaPath, devicePath: tarPath, target })
  mounted(target)
  return target
}
