import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { appendFileSync, copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { pino } from 'pino'
import { ImageManager, type PreparedImage } from '../../src/services/images/image-manager.ts'
import { hostPlatform } from '../../src/services/images/oci-manifest.ts'
import { LayoutWriter, sha256, tarOf } from '../support/layout-writer.ts'
import { tempDir } from '../unit/images/temp-dir.ts'

const invalid = { kind: 'invalid_argument', code: 'image_invalid' }
const notFound = { kind: 'invalid_argument', code: 'image_not_found' }

interface Parts {
  dir: string
  images: ImageManager
  writer: LayoutWriter
  layer: (name: string, script?: string) => Buffer
  prepare: (reference: string) => Promise<PreparedImage>
  /** Refuses, tells no path of the host's own, and leaves nothing behind. */
  refuses: (reference: string, expected: object, what?: string) => Promise<void>
}

function build (t: TestContext): Parts {
  const dir = tempDir(t)
  const imagesDir = join(dir, 'state/images')
  const images = new ImageManager({ imagesDir, busyboxPath: '/usr/bin/busybox', logger: pino({ level: 'silent' }), dirRoots: [dir] })
  let count = 0
  const prepare = async (reference: string) => images.prepareRootfs(reference, `sbx_${++count}`)
  const leftovers = () => existsSync(join(imagesDir, 'tmp')) ? readdirSync(join(imagesDir, 'tmp')) : []
  t.after(async () => {
    await images.settled()
    assert.deepEqual(leftovers(), [])
  })
  return {
    dir,
    images,
    writer: new LayoutWriter(join(dir, 'layout')),
    prepare,
    layer (name, script = `echo ${name} > ${name}`) {
      const root = join(dir, 'layers', name)
      mkdirSync(root, { recursive: true })
      execFileSync('sh', ['-euc', script], { cwd: root })
      return tarOf(root)
    },
    async refuses (reference, expected, what = reference) {
      await assert.rejects(prepare(reference), error => {
        const { kind, code, message } = error as Error & { kind: string, code: string }
        assert.deepEqual({ kind, code }, expected, `${what}: ${message}`)
        assert.doesNotMatch(message, new RegExp(imagesDir), what)
        return true
      }, what)
      assert.deepEqual(leftovers(), [], what)
    },
  }
}

/** An image of two layers, the upper of which hides a file of the lower, tagged v1 in the layout. */
function twoLayers (parts: Parts): ReturnType<LayoutWriter['image']> {
  const image = parts.writer.image({ layers: [parts.layer('low', 'echo a > kept; echo b > hidden'), parts.layer('up', 'touch .wh.hidden; echo c > added')], config: { Cmd: ['/added'], User: '5:6' } })
  parts.writer.index([{ ...image, tag: 'v1' }])
  return image
}

function assertTwoLayers (prepared: PreparedImage): void {
  assert.deepEqual(readdirSync(prepared.lowerDirs[0] as string).sort(), ['added', 'kept'])
  assert.deepEqual(prepared.config, { env: {}, cmd: ['/added'], user: '5:6' })
}

function skopeo (...args: string[]): void {
  execFileSync('skopeo', ['--insecure-policy', 'copy', '--quiet', ...args])
}

/** Ends a tar behind its two empty blocks: skopeo 1.9 drops what is more when it writes zstd:chunked, and the diff id with it. */
function withoutPadding (tar: Buffer): Buffer {
  const last = tar.findLastIndex(byte => byte !== 0)
  return tar.subarray(0, Math.ceil((last + 1) / 512) * 512 + 1024)
}

/** Files under their names in the archive, in this order. */
function archive (path: string, files: Array<[name: string, content: Buffer | string | { link: string }]>): void {
  const blocks = files.map(([name, content]) => {
    const isLink = typeof content === 'object' && 'link' in content
    const body = isLink ? Buffer.alloc(0) : Buffer.from(content as Buffer | string)
    const header = Buffer.alloc(512)
    header.write(name, 0, 'latin1')
    header.write('0000644\0' + '0000000\0' + '0000000\0' + body.length.toString(8).padStart(11, '0') + '\0' + '00000000000\0' + '        ' + (isLink ? '2' : '0'), 100, 'latin1')
    if (isLink) header.write(content.link, 157, 'latin1')
    header.write('ustar\x0000', 257, 'latin1')
    header.write(header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, '0') + '\0 ', 148, 'latin1')
    return Buffer.concat([header, body, Buffer.alloc((512 - body.length % 512) % 512)])
  })
  writeFileSync(path, Buffer.concat([...blocks, Buffer.alloc(1024)]))
}

interface DockerImage {
  layers: Array<[name: string, content: Buffer | { link: string }]>
  diffIds: string[]
  tags?: string[]
  user?: string
}

/** An archive as docker save writes it. */
function dockerArchive (path: string, images: DockerImage[], more: Array<[string, string]> = []): void {
  const [os, architecture] = hostPlatform.split('/')
  const configs = images.map(({ diffIds, user }) => JSON.stringify({ os, architecture, config: user === undefined ? {} : { User: user }, rootfs: { type: 'layers', diff_ids: diffIds } }))
  const members = new Map(images.flatMap(image => image.layers))
  const list = images.map((image, i) => ({ Config: `${i}.json`, RepoTags: image.tags ?? null, Layers: image.layers.map(([name]) => name) }))
  archive(path, [...members, ...configs.map((config, i): [string, string] => [`${i}.json`, config]), ['manifest.json', JSON.stringify(list)], ...more])
}

test('archives that skopeo makes, plain and compressed, are the image that they were made from', async t => {
  const parts = build(t)
  const image = twoLayers(parts)
  const oci = join(parts.dir, 'oci.tar')
  const docker = join(parts.dir, 'docker.tar')
  skopeo(`oci:${parts.writer.dir}:v1`, `oci-archive:${oci}:v1`)
  skopeo(`oci:${parts.writer.dir}:v1`, `docker-archive:${docker}:team/app:v1`)
  for (const path of [oci, docker]) {
    writeFileSync(`${path}.gz`, gzipSync(readFileSync(path)))
    writeFileSync(`${path}.zst`, zstdCompressSync(readFileSync(path)))
  }
  for (const suffix of [':v1', '', '.gz:v1', '.gz', '.zst']) {
    const prepared = await parts.prepare(`oci-archive:${oci}${suffix}`)
    assert.equal(prepared.digest, image.digest, suffix)
    assertTwoLayers(prepared)
  }
  const digests: Array<string | undefined> = []
  for (const suffix of ['.gz', '', ':team/app:v1', ':docker.io/team/app:v1', '.zst:team/app:v1']) {
    const prepared = await parts.prepare(`docker-archive:${docker}${suffix}`)
    digests.push(prepared.digest)
    assertTwoLayers(prepared)
  }
  assert.equal(new Set(digests).size, 1)
  await parts.refuses(`oci-archive:${oci}:v2`, notFound)
  await parts.refuses(`docker-archive:${docker}:team/app:v2`, notFound)
  await parts.refuses(`docker-archive:${oci}`, notFound)
  await parts.refuses(`oci-archive:${docker}`, notFound)
})

test('a compressed archive is decompressed once for all who need it at the same time', async t => {
  const parts = build(t)
  const image = twoLayers(parts)
  const path = join(parts.dir, 'oci.tar')
  skopeo(`oci:${parts.writer.dir}:v1`, `oci-archive:${path}:v1`)
  writeFileSync(`${path}.gz`, gzipSync(readFileSync(path)))
  const prepared = await Promise.all(Array.from({ length: 6 }, () => parts.prepare(`oci-archive:${path}.gz`)))
  assert.deepEqual(new Set(prepared.map(one => one.digest)), new Set([image.digest]))
})

test('an archive that becomes another is another image', async t => {
  const parts = build(t)
  const path = join(parts.dir, 'x.tar')
  const digests: Array<string | undefined> = []
  for (const name of ['one', 'two']) {
    const layer = parts.layer(name)
    dockerArchive(path, [{ layers: [['layer.tar', layer]], diffIds: [sha256(layer)] }])
    const prepared = await parts.prepare(`docker-archive:${path}`)
    assert.deepEqual(readdirSync(prepared.lowerDirs[0] as string), [name])
    digests.push(prepared.digest)
  }
  assert.notEqual(digests[0], digests[1])
})

test('an archive of several images needs a name, and the error lists the names', async t => {
  const parts = build(t)
  const path = join(parts.dir, 'both.tar')
  const [one, two] = [parts.layer('one'), parts.layer('two')]
  dockerArchive(path, [
    { layers: [['1/layer.tar', one]], diffIds: [sha256(one)], tags: ['app:1', 'app:latest'] },
    { layers: [['1/layer.tar', one], ['2/layer.tar', two]], diffIds: [sha256(one), sha256(two)], tags: ['registry:5000/app:2'] },
  ])
  await assert.rejects(parts.prepare(`docker-archive:${path}`), { ...notFound, message: /several images.*app:1, app:latest, registry:5000\/app:2/ })
  for (const [name, files] of [['app:1', ['one']], ['app', ['one']], ['docker.io/library/app:1', ['one']], ['registry:5000/app:2', ['one', 'two']]] as const) {
    assert.deepEqual(readdirSync((await parts.prepare(`docker-archive:${path}:${name}`)).lowerDirs[0] as string).sort(), files, name)
  }
})

test('layers that docker save links to each other or keeps compressed are found', async t => {
  const parts = build(t)
  const path = join(parts.dir, 'x.tar')
  const [one, two, three] = [parts.layer('one'), parts.layer('two'), parts.layer('three')]
  const packed = gzipSync(two)
  dockerArchive(path, [{
    layers: [['a/layer.tar', one], ['b/layer.tar', { link: '../a/layer.tar' }], [`blobs/sha256/${sha256(packed).slice(7)}`, packed], ['c.tar.zst', zstdCompressSync(three)]],
    diffIds: [sha256(one), sha256(one), sha256(two), sha256(three)],
  }])
  assert.deepEqual(readdirSync((await parts.prepare(`docker-archive:${path}`)).lowerDirs[0] as string).sort(), ['one', 'three', 'two'])
})

test('docker archives that are not what they promise are refused', async t => {
  const parts = build(t)
  const path = join(parts.dir, 'x.tar')
  const layer = parts.layer('x')
  const good = { layers: [['l.tar', layer] as [string, Buffer]], diffIds: [sha256(layer)] }
  const hostile: Record<string, () => void> = {
    'another diff id': () => dockerArchive(path, [{ ...good, diffIds: [sha256(Buffer.from('x'))] }]),
    'a diff id too many': () => dockerArchive(path, [{ ...good, diffIds: [sha256(layer), sha256(layer)] }]),
    'a diff id that is a path': () => dockerArchive(path, [{ ...good, diffIds: [`sha256:../${'a'.repeat(61)}`] }]),
    'another digest than the name': () => dockerArchive(path, [{ layers: [[`blobs/sha256/${'a'.repeat(64)}`, gzipSync(layer)]], diffIds: [sha256(layer)] }]),
    'a missing layer': () => archive(path, [['0.json', '{"rootfs":{"diff_ids":[]}}'], ['manifest.json', '[{"Config":"0.json","Layers":["gone.tar"]}]']]),
    'a missing configuration': () => archive(path, [['manifest.json', '[{"Config":"../../etc/passwd","Layers":[]}]']]),
    'a link out': () => dockerArchive(path, [{ layers: [['l.tar', { link: '../../../etc/passwd' }]], diffIds: good.diffIds }]),
    'an absolute link': () => dockerArchive(path, [{ layers: [['l.tar', { link: '/etc/passwd' }]], diffIds: good.diffIds }]),
    'links in a circle': () => dockerArchive(path, [{ layers: [['a', { link: 'b' }], ['b', { link: 'a' }]], diffIds: [...good.diffIds, ...good.diffIds] }]),
    'a name that climbs': () => dockerArchive(path, [good], [['../x', 'x']]),
    'an absolute name': () => dockerArchive(path, [good], [['/etc/x', 'x']]),
    'a member twice': () => dockerArchive(path, [good], [['./manifest.json', '[]']]),
    'two images of one name': () => dockerArchive(path, [{ ...good, tags: ['a:1'] }, { ...good, tags: ['a:1'], user: '5' }]),
    'a list that is none': () => archive(path, [['manifest.json', '{}']]),
    'text in place of JSON': () => archive(path, [['manifest.json', 'x'.repeat(100)]]),
    'a list that is too large': () => archive(path, [['manifest.json', `[${' '.repeat(5 * 1024 ** 2)}]`]]),
    'too many members': () => archive(path, Array.from({ length: 10_001 }, (_, i): [string, string] => [`m${i}`, ''])),
    'no archive': () => writeFileSync(path, randomBytes(5000)),
    'an empty file': () => writeFileSync(path, ''),
    'an archive within an archive': () => { dockerArchive(path, [good]); writeFileSync(path, gzipSync(gzipSync(readFileSync(path)))) },
    'an unknown compression': () => { dockerArchive(path, [good]); writeFileSync(path, Buffer.concat([Buffer.from('fd377a585a00', 'hex'), readFileSync(path)])) },
  }
  for (const [what, make] of Object.entries(hostile)) {
    make()
    await parts.refuses(`docker-archive:${path}${what.includes('of one name') ? ':a:1' : ''}`, invalid, what)
  }
  dockerArchive(path, [good])
  assert.deepEqual(readdirSync((await parts.prepare(`docker-archive:${path}`)).lowerDirs[0] as string), ['x'])
})

test('archives that are cut short or damaged are refused, wherever that is', async t => {
  const parts = build(t)
  twoLayers(parts)
  const whole = join(parts.dir, 'oci.tar')
  skopeo(`oci:${parts.writer.dir}:v1`, `oci-archive:${whole}:v1`)
  const path = join(parts.dir, 'cut.tar')
  const { size } = statSync(whole)
  for (const left of [300, 600, size >> 1, size - 1024 * 10]) {
    copyFileSync(whole, path)
    truncateSync(path, left)
    const error = await parts.prepare(`oci-archive:${path}`).then(() => undefined, reason => reason as { code: string })
    assert.ok(['image_invalid', 'image_not_found'].includes(error?.code ?? ''), `${left}: ${String(error)}`)
  }
  for (const packed of [gzipSync(readFileSync(whole)), zstdCompressSync(readFileSync(whole))]) {
    writeFileSync(path, packed.subarray(0, packed.length - 20))
    await parts.refuses(`oci-archive:${path}`, invalid)
  }
  const content = readFileSync(whole)
  // Inside of the content of a blob.
  const at = content.indexOf('"rootfs"')
  content.write('"roots_"', at)
  writeFileSync(path, content)
  await parts.refuses(`oci-archive:${path}`, invalid)
})

test('a blob of an OCI archive that is a link is refused, as in a layout', async t => {
  const parts = build(t)
  const image = twoLayers(parts)
  const path = join(parts.dir, 'x.tar')
  const files = ['index.json', ...readdirSync(join(parts.writer.dir, 'blobs/sha256')).map(name => `blobs/sha256/${name}`)]
  const name = `blobs/sha256/${image.layers[0]!.digest.slice(7)}`
  archive(path, files.map(file => [file, file === name ? { link: 'elsewhere' } : readFileSync(join(parts.writer.dir, file))]))
  await parts.refuses(`oci-archive:${path}`, invalid)
  archive(path, files.map(file => [file, readFileSync(join(parts.writer.dir, file))]))
  assertTwoLayers(await parts.prepare(`oci-archive:${path}`))
})

test('archives lie where clients may name paths, and nothing tells what is elsewhere', async t => {
  const parts = build(t)
  const other = tempDir(t)
  const notAllowed = { kind: 'permission_denied', code: 'image_path_not_allowed' }
  writeFileSync(join(other, 'x.tar'), 'x')
  symlinkSync(join(other, 'x.tar'), join(parts.dir, 'link.tar'))
  for (const kind of ['oci-archive', 'docker-archive']) {
    await parts.refuses(`${kind}:${other}/x.tar`, notAllowed)
    await parts.refuses(`${kind}:${other}/absent.tar`, notAllowed)
    await parts.refuses(`${kind}:${parts.dir}/link.tar`, notAllowed)
    await parts.refuses(`${kind}:${parts.dir}/absent.tar`, notFound)
    await parts.refuses(`${kind}:${parts.dir}/layout`, notFound)
  }
  mkdirSync(join(parts.dir, 'state/images'), { recursive: true })
  writeFileSync(join(parts.dir, 'state/images/x.tar'), 'x')
  await assert.rejects(parts.prepare(`oci-archive:${parts.dir}/state/images/x.tar`), notAllowed)
  execFileSync('mkfifo', [join(parts.dir, 'fifo')])
  await parts.refuses(`oci-archive:${parts.dir}/fifo`, notFound)
  const real = join(parts.dir, 'real.tar')
  const layer = parts.layer('x')
  dockerArchive(real, [{ layers: [['l.tar', layer]], diffIds: [sha256(layer)] }])
  symlinkSync(basename(real), join(dirname(real), 'inside.tar'))
  assert.deepEqual(readdirSync((await parts.prepare(`docker-archive:${parts.dir}/inside.tar`)).lowerDirs[0] as string), ['x'])
})

test('layers that skopeo compressed with zstd are unpacked', async t => {
  const parts = build(t)
  // From plain layers, or skopeo passes the gzip ones through.
  const layers = [parts.layer('low', 'head -c 400000 /dev/urandom > kept; echo b > hidden'), parts.layer('up', 'touch .wh.hidden; echo c > added')].map(withoutPadding)
  const plain = parts.writer.image({ layers, config: { Cmd: ['/added'], User: '5:6' }, compression: 'none' })
  parts.writer.index([plain])
  for (const format of ['zstd', 'zstd:chunked']) {
    const made = new LayoutWriter(join(parts.dir, format.replace(':', '-')))
    skopeo('--dest-compress-format', format, `oci:${parts.writer.dir}`, `oci:${made.dir}:v1`)
    const packed = readdirSync(join(made.dir, 'blobs/sha256')).filter(name => readFileSync(join(made.dir, 'blobs/sha256', name)).readUInt32LE(0) === 0xfd2fb528)
    assert.equal(packed.length, 2, format)
    assertTwoLayers(await parts.prepare(`oci:${made.dir}:v1`))
    skopeo(`oci:${made.dir}:v1`, `oci-archive:${made.dir}.tar:v1`)
    assertTwoLayers(await parts.prepare(`oci-archive:${made.dir}.tar`))
  }
})

test('zstd layers that are damaged, cut short or of another content are refused', async t => {
  const parts = build(t)
  const layer = parts.layer('x', 'head -c 300000 /dev/urandom > x')
  const wrong: Record<string, () => void> = {
    'another diff id': () => parts.writer.index([parts.writer.image({ layers: [layer], compression: 'zstd', diffIds: [sha256(Buffer.from('x'))] })]),
    'changed after it was named': () => {
      const image = parts.writer.image({ layers: [layer], compression: 'zstd' })
      const path = parts.writer.blobPath(image.layers[0]!.digest)
      const content = readFileSync(path)
      content.writeUInt8(content.readUInt8(1000) ^ 1, 1000)
      writeFileSync(path, content)
      parts.writer.index([image])
    },
    longer: () => {
      const image = parts.writer.image({ layers: [layer], compression: 'zstd' })
      appendFileSync(parts.writer.blobPath(image.layers[0]!.digest), 'x')
      parts.writer.index([image])
    },
    'no zstd': () => parts.writer.index([parts.writer.image({ layers: [layer], layerType: 'application/vnd.oci.image.layer.v1.tar+zstd' })]),
  }
  for (const [what, make] of Object.entries(wrong)) {
    make()
    await parts.refuses(`oci:${parts.writer.dir}`, invalid, what)
  }
})
