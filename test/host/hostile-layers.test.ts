import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { test, type TestContext } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { BerthError } from '../../src/errors.ts'
import { buildLayer, type LayerLimits } from '../../src/services/images/layers/layer-builder.ts'
import { isLayerNeedsUnpack } from '../../src/services/images/layers/layer-needs-unpack-error.ts'
import { blobOf, digestOf, layerDirectory, layerOf, mediaTypes, type LayerFixture } from '../support/layer-fixture.ts'
import { directory, entry, gnuLong, pax, tar } from '../support/tar-writer.ts'

type Refusal = readonly [what: string, archive: Buffer, message: RegExp]

const file = entry({ name: 'file' }, 'data')
const upUp = '../../../../../../../../tmp/berth-was-here'

const refused: readonly Refusal[] = [
  ['a name that goes up', tar(entry({ name: upUp }, 'x')), /goes up/],
  ['a name that goes up in its middle', tar(entry({ name: 'a/b/../../../x' }, 'x')), /goes up/],
  ['a pax name that goes up', tar(pax([['path', upUp]]), entry({ name: 'harmless' }, 'x')), /goes up/],
  ['a GNU long name that goes up', tar(gnuLong('L', upUp), entry({ name: 'harmless', magic: 'ustar  \0' }, 'x')), /goes up/],
  ['a prefix that goes up', tar(entry({ name: 'x', prefix: '../..' }, 'x')), /goes up/],
  ['a whiteout of the parent', tar(entry({ name: 'a/.wh...' })), /whiteout/],
  ['a whiteout of the directory itself', tar(entry({ name: 'a/.wh..' })), /whiteout/],
  ['a whiteout below a name that goes up', tar(entry({ name: '../.wh.x' })), /goes up/],
  ['an absolute name', tar(entry({ name: '/tmp/berth-was-here' }, 'x')), /absolute/],
  ['an absolute pax name', tar(pax([['path', '/etc/passwd']]), file), /absolute/],
  ['a path through a symbolic link of its own', tar(entry({ name: 'link', type: '2', linkName: '/tmp' }), entry({ name: 'link/berth-was-here' }, 'x')), /symbolic link/],
  ['a path through a deep symbolic link of its own', tar(entry({ name: 'a/link', type: '2', linkName: '../../..' }), entry({ name: 'a/link/x/y' }, 'x')), /symbolic link/],
  ['a path through a hard link to a symbolic link', tar(entry({ name: 's', type: '2', linkName: '/tmp' }), entry({ name: 'h', type: '1', linkName: 's' }), entry({ name: 'h/x' }, 'x')), /symbolic link/],
  ['a directory over a path that was a symbolic link', tar(directory('a'), entry({ name: 'a/s', type: '2', linkName: '/tmp' }), directory('a/s/x')), /symbolic link/],
  ['an opaque mark through a symbolic link', tar(entry({ name: 's', type: '2', linkName: '/tmp' }), entry({ name: 's/.wh..wh..opq' })), /symbolic link/],
  ['a path through a file', tar(file, entry({ name: 'file/x' }, 'x')), /not a directory/],
  ['a hard link to an absolute name', tar(entry({ name: 'h', type: '1', linkName: '/etc/shadow' })), /absolute/],
  ['a hard link that goes up', tar(entry({ name: 'h', type: '1', linkName: '../../etc/shadow' })), /goes up/],
  ['a pax hard link that goes up', tar(file, pax([['linkpath', '../../etc/shadow']]), entry({ name: 'h', type: '1', linkName: 'file' })), /goes up/],
  ['a GNU long hard link that goes up', tar(file, gnuLong('K', '../../etc/shadow'), entry({ name: 'h', type: '1', linkName: 'file', magic: 'ustar  \0' })), /goes up/],
  ['a hard link through a symbolic link', tar(entry({ name: 's', type: '2', linkName: '/etc' }), entry({ name: 'h', type: '1', linkName: 's/shadow' })), /symbolic link/],
  ['a hard link to nothing', tar(entry({ name: 'h', type: '1', linkName: 'etc/shadow' })), /not in its layer/],
  ['a hard link to something later', tar(entry({ name: 'h', type: '1', linkName: 'file' }), file), /not in its layer/],
  ['a hard link to a directory', tar(directory('d'), entry({ name: 'h', type: '1', linkName: 'd' })), /directory/],
  ['a hard link to itself', tar(file, entry({ name: 'file', type: '1', linkName: 'file' })), /itself/],
  ['a hard link to a whiteout', tar(entry({ name: '.wh.x' }), entry({ name: 'h', type: '1', linkName: 'x' })), /not in its layer/],
  ['a hard link as a whiteout', tar(file, entry({ name: '.wh.x', type: '1', linkName: 'file' })), /whiteout/],
  ['a hard link with data', tar(file, entry({ name: 'h', type: '1', linkName: 'file' }, 'x')), /cannot have data/],
  ['a symbolic link with data', tar(entry({ name: 's', type: '2', linkName: 'x' }, Buffer.alloc(512, 'x'))), /cannot have data/],
  ['a directory with data', tar(entry({ name: 'd/', type: '5' }, Buffer.alloc(512, 'x'))), /cannot have data/],
  ['a symbolic link to nowhere at all', tar(entry({ name: 's', type: '2' })), /target/],
  ['a character device', tar(entry({ name: 'etc/mem', type: '3', major: 1, minor: 1 })), /device node/],
  ['a block device', tar(entry({ name: 'disk', type: '4', major: 8, minor: 0 })), /device node/],
  ['a device called dev', tar(entry({ name: 'dev', type: '3', major: 1, minor: 1 })), /device node/],
  ['a whiteout device', tar(entry({ name: 'etc/passwd', type: '3' })), /0:0/],
  ['a whiteout device below dev', tar(entry({ name: 'dev/x', type: '3' })), /0:0/],
  ['overlayfs: a redirect', tar(pax([['SCHILY.xattr.trusted.overlay.redirect', '/etc']]), directory('d')), /overlayfs/],
  ['overlayfs: an opaque mark', tar(pax([['SCHILY.xattr.trusted.overlay.opaque', 'y']]), directory('d')), /overlayfs/],
  ['overlayfs: a metacopy of a user', tar(pax([['SCHILY.xattr.user.overlay.metacopy', '']]), file), /overlayfs/],
  ['overlayfs: in libarchive\'s way', tar(pax([['LIBARCHIVE.xattr.trusted%2Eoverlay.redirect', 'L2V0Yw==']]), directory('d')), /overlayfs/],
  ['an extended attribute without end', tar(pax([['SCHILY.xattr.user.big', Buffer.alloc(70_000, 'x')]]), file), /too large/],
  ['a NUL in a pax name', tar(pax([['path', 'etc/passwd\0.txt']]), file), /NUL/],
  ['a NUL in a link target', tar(pax([['linkpath', 'a\0b']]), entry({ name: 's', type: '2' })), /target/],
  ['a NUL in a GNU name', tar(gnuLong('L', 'a\0b'), entry({ name: 'x', magic: 'ustar  \0' })), /NUL/],
  ['an entry without a name', tar(entry({ name: '', prefix: 'p' }, 'x')), /no name/],
  ['an empty pax name', tar(pax([['path', '']]), file), /no name/],
  ['a root that is a file', tar(entry({ name: './', type: '6' })), /root/],
  ['a name of 256 bytes', tar(pax([['path', 'n'.repeat(256)]]), file), /too long/],
  ['a path of 4,097 bytes', tar(pax([['path', 'n/'.repeat(2048) + 'x']]), file), /too long/],
  ['a negative size', tar(entry({ name: 'x', size: Buffer.from('ffffffffffffffffffffff00', 'hex').toString('latin1') })), /negative/],
  ['a size with a sign', tar(entry({ name: 'x', size: '-0000000100\0' })), /not a number/],
  ['a size beyond all disks', tar(entry({ name: 'x', size: Buffer.from('8000000000ffffffffffffff', 'hex').toString('latin1') })), /too large|cut off/],
  ['a size beyond the archive', tar(entry({ name: 'x', size: 1_000_000 })), /cut off/],
  ['a pax size that is no number', tar(pax([['size', '0x10']]), file), /size/],
  ['a negative pax size', tar(pax([['size', '-1']]), file), /size/],
  ['an owner beyond all owners', tar(pax([['uid', '4294967295']]), file), /uid/],
  ['a type nobody knows', tar(entry({ name: 'x', type: 'Z' })), /unknown type/],
  ['GNU: a multi-volume part', tar(entry({ name: 'x', type: 'M', magic: 'ustar  \0' })), /unknown type/],
  ['GNU: renamed files', tar(entry({ name: 'x', type: 'N', magic: 'ustar  \0' })), /unknown type/],
  ['a checksum that is wrong', tar(entry({ name: 'x', checksum: 1 })), /checksum/],
  ['an archive that ends inside a header', Buffer.concat([file, file.subarray(0, 100)]), /cut off/],
  ['an archive that ends inside data', tar(entry({ name: 'x' }, Buffer.alloc(5000))).subarray(0, 2048), /cut off/],
  ['an archive that ends after a pax header', tar(pax([['path', 'x']])), /ends after/],
  ['one zero block and then more', Buffer.concat([file, Buffer.alloc(512), file, Buffer.alloc(1024)]), /zero block/],
  ['a name said by pax and by GNU', tar(pax([['path', 'a']]), gnuLong('L', 'b'), file), /twice/],
  ['two pax headers', tar(pax([['path', 'a']]), pax([['path', 'b']]), file), /two pax/],
  ['two GNU names', tar(gnuLong('L', 'a'), gnuLong('L', 'b'), file), /two long/],
  ['a global name', tar(pax([['path', 'etc/passwd']], 'g'), file), /global/],
  ['a global extended attribute', tar(pax([['SCHILY.xattr.security.capability', 'x']], 'g'), file), /global/],
  ['a pax header longer than it says', tar(entry({ name: 'p', type: 'x' }, '5 a=b\n'), file), /malformed/],
  ['a pax header without an end', tar(entry({ name: 'p', type: 'x' }, '99 path=x\n'), file), /malformed/],
  ['a pax header of 2 MiB', tar(entry({ name: 'p', type: 'x' }, Buffer.alloc(2 * 1024 ** 2, 'x')), file), /too large/],
  ['aufs: its own hard link directory', tar(directory('.wh..wh.plnk'), entry({ name: '.wh..wh.plnk/1.2' }, 'x')), /whiteout/],
  ['aufs: its own files', tar(entry({ name: '.wh..wh.aufs' })), /whiteout/],
  ['a whiteout of nothing', tar(entry({ name: 'd/.wh.' })), /whiteout/],
  ['a whiteout as a directory', tar(directory('.wh.x')), /whiteout/],
  ['a whiteout with a child', tar(entry({ name: '.wh.x/y' })), /whiteout/],
  ['a whiteout that is a symbolic link', tar(entry({ name: '.wh.x', type: '2', linkName: '/tmp' })), /whiteout/],
  ['a whiteout with data', tar(entry({ name: '.wh.x' }, 'data')), /whiteout/],
  ['no tar at all', randomBytes(4096), /cannot be used/],
]

for (const [what, archive, message] of refused) {
  test(`a layer is refused that has ${what}`, async t => {
    await assertRefused(t, layerOf(archive), message)
  })
}

test('a hostile layer is refused whatever it is compressed with', async t => {
  const archive = tar(entry({ name: upUp }, 'x'))
  await assertRefused(t, layerOf(archive, 'gzip'), /goes up/)
  await assertRefused(t, layerOf(archive, 'zstd'), /goes up/)
})

const needUnpacking: ReadonlyArray<readonly [what: string, archive: Buffer]> = [
  ['GNU: a sparse file', tar(entry({ name: 'x', type: 'S', magic: 'ustar  \0' }))],
  ['pax: a sparse file', tar(pax([['GNU.sparse.major', '1'], ['GNU.sparse.realsize', '100']]), file)],
  ['entries of the oldest format', tar(entry({ name: 'x', magic: '\0\0\0\0\0\0\0\0' }))],
  ['no end mark', file],
  ['a name both there and hidden', tar(file, entry({ name: '.wh.file' }))],
  ['a name both hidden and there', tar(entry({ name: '.wh.d' }), entry({ name: 'd/x' }))],
  ['a directory replaced by a file', tar(directory('file'), file)],
  ['GNU headers with times in them', tar(entry({ name: 'x', magic: 'ustar  \0', prefix: '14567000000' }))],
  ['a mode that says another type', tar(entry({ name: 'x', mode: 0o040755 }))],
  ['a number without an end', tar(entry({ name: 'x', mode: '00000644' }))],
  ['a file with a slash at its end', tar(entry({ name: 'x/' }))],
  ['an opaque root', tar(entry({ name: '.wh..wh..opq' }))],
]

for (const [what, archive] of needUnpacking) {
  test(`the image of a layer must be unpacked that has ${what}`, async t => {
    const { directory: layers } = await layerDirectory(t)
    await assert.rejects(buildLayer({ ...layerOf(archive), directory: layers }), error => isLayerNeedsUnpack(error))
    assert.deepEqual(readdirSync(layers.dir), [])
  })
}

const good = tar(entry({ name: 'noise' }, randomBytes(300_000)), entry({ name: 'text' }, 'all work and no play '.repeat(50_000)))
const goodGzip = gzipSync(good)

const brokenGzip: ReadonlyArray<readonly [what: string, blob: Buffer, message: RegExp]> = [
  ['cut off', goodGzip.subarray(0, 200_000), /whole gzip/],
  ['cut off in its trailer', goodGzip.subarray(0, -4), /whole gzip/],
  ['with a wrong CRC', flipped(goodGzip, goodGzip.length - 6), /whole gzip/],
  ['with a wrong length', flipped(goodGzip, goodGzip.length - 1), /whole gzip/],
  ['with a flipped bit', flipped(goodGzip, 150_000), /whole gzip/],
  ['with garbage behind it', Buffer.concat([goodGzip, Buffer.from('garbage behind the end')]), /whole gzip/],
  ['with half a member behind it', Buffer.concat([goodGzip, goodGzip.subarray(0, 5)]), /whole gzip/],
  ['no gzip', Buffer.from('this is no gzip'.repeat(1000)), /whole gzip/],
  ['empty', Buffer.alloc(0), /whole gzip/],
]

for (const [what, blob, message] of brokenGzip) {
  test(`a gzip layer is refused that is ${what}`, async t => {
    await assertRefused(t, blobOf(blob, { diffId: digestOf(good), mediaType: mediaTypes.gzip }), message)
  })
}

test('a zstd layer is refused that is cut off or no zstd', async t => {
  const blob = zstdCompressSync(good)
  const facts = { diffId: digestOf(good), mediaType: mediaTypes.zstd }
  await assertRefused(t, blobOf(blob.subarray(0, 100_000), facts), /zstd/)
  await assertRefused(t, blobOf(Buffer.from('this is no zstd'.repeat(1000)), facts), /zstd/)
  await assertRefused(t, blobOf(Buffer.concat([blob, Buffer.from('garbage')]), facts), /zstd/)
  await assertRefused(t, blobOf(flipped(blob, 100_000), facts), /zstd|configuration/)
})

test('a layer that grows beyond the limit is refused, however small its blob', async t => {
  const bomb = tar(entry({ name: 'zeros' }, Buffer.alloc(64 * 1024 ** 2)))
  const limits = { maxTarBytes: 8 * 1024 ** 2 }
  for (const compression of ['gzip', 'zstd', 'plain'] as const) await assertRefused(t, layerOf(bomb, compression), /larger than 8388608 bytes/, limits)
})

test('a layer whose blob is not what its digest says is refused', async t => {
  const fixture = layerOf(good, 'gzip')
  const other = layerOf(tar(file), 'gzip')
  await assertRefused(t, { ...fixture, layer: { ...fixture.layer, digest: other.layer.digest } }, /digest/)
})

test('a layer whose tar is not what the configuration says is refused', async t => {
  for (const compression of ['gzip', 'zstd', 'plain'] as const) {
    const fixture = layerOf(good, compression)
    await assertRefused(t, { ...fixture, layer: { ...fixture.layer, diffId: digestOf(Buffer.from('other')) } }, /configuration/)
  }
})

test('a layer whose blob is larger or smaller than its manifest says is refused', async t => {
  const fixture = layerOf(good, 'gzip')
  await assertRefused(t, { ...fixture, layer: { ...fixture.layer, sizeBytes: fixture.blob.length - 1 } }, /larger/)
  await assertRefused(t, { ...fixture, layer: { ...fixture.layer, sizeBytes: fixture.blob.length + 1 } }, /smaller/)
})

test('a layer of a media type that is no tar is refused', async t => {
  for (const mediaType of ['application/vnd.oci.image.config.v1+json', 'application/vnd.oci.image.layer.v1.tar+xz', 'text/plain', '']) {
    await assertRefused(t, blobOf(good, { diffId: digestOf(good), mediaType }), /type/)
  }
})

async function assertRefused (t: TestContext, fixture: LayerFixture, message: RegExp, limits?: LayerLimits): Promise<void> {
  const { directory: layers, root } = await layerDirectory(t)
  await assert.rejects(buildLayer({ ...fixture, directory: layers, limits }), error => {
    assert.ok(error instanceof BerthError, String(error))
    assert.equal(error.code, 'image_invalid')
    assert.match(error.message, message)
    assert.ok(!error.message.includes(root), 'the message names no path of the host')
    return true
  })
  assert.deepEqual(readdirSync(layers.dir), [])
  assert.deepEqual(readdirSync(root), ['layers'])
  assert.ok(!readdirSync('/tmp').includes('berth-was-here'))
}

function flipped (bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at] = (copy[at] ?? 0) ^ 0x55
  return copy
}
