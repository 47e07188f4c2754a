import assert from 'node:assert/strict'
import { appendFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { DirectoryFiles } from '../../../src/services/images/image-files.ts'
import { OciLayout } from '../../../src/services/images/oci-layout.ts'
import { hostPlatform } from '../../../src/services/images/oci-manifest.ts'
import { indexType, LayoutWriter, manifestType } from '../../support/layout-writer.ts'
import { tempDir } from './temp-dir.ts'

const notFound = { kind: 'invalid_argument', code: 'image_not_found' }
const invalid = { kind: 'invalid_argument', code: 'image_invalid' }
const otherPlatform = hostPlatform === 'linux/amd64' ? 'linux/arm64' : 'linux/amd64'

function build (t: TestContext) {
  const writer = new LayoutWriter(join(tempDir(t), 'layout'))
  return { writer, layout: new OciLayout({ files: new DirectoryFiles(writer.dir), name: '/given', transport: 'oci' }) }
}

test('the only image needs no tag, and its configuration is read', async t => {
  const { writer, layout } = build(t)
  const config = { Env: ['A=1', 'B=x=y', 'C'], Cmd: ['sh'], Entrypoint: [], User: 'app', WorkingDir: '/srv', StopSignal: 'SIGINT' }
  const image = writer.image({ config })
  writer.index([{ ...image, tag: 'one' }])
  const resolved = await layout.resolve(undefined)
  assert.equal(resolved.digest, image.digest)
  assert.deepEqual(resolved.config, { env: { A: '1', B: 'x=y', C: '' }, cmd: ['sh'], user: 'app', workingDir: '/srv', stopSignal: 'SIGINT' })
  assert.deepEqual(await layout.resolve('one'), resolved)
})

test('several images need a tag, and the error lists the tags', async t => {
  const { writer, layout } = build(t)
  const one = writer.image({ config: { User: '1' } })
  const two = writer.image({ config: { User: '2' } })
  writer.index([{ ...two, tag: 'two' }, { ...one, tag: 'one' }])
  await assert.rejects(layout.resolve(undefined), { ...notFound, details: { tags: ['one', 'two'] }, message: /one, two/ })
  await assert.rejects(layout.resolve('three'), { ...notFound, message: /three.*one, two/ })
  assert.equal((await layout.resolve('two')).digest, two.digest)
})

test('one image under two tags is one image', async t => {
  const { writer, layout } = build(t)
  const image = writer.image()
  writer.index([{ ...image, tag: 'a' }, { ...image, tag: 'b' }])
  assert.equal((await layout.resolve(undefined)).digest, image.digest)
})

test('of an index for several platforms the one of this host is taken', async t => {
  const { writer, layout } = build(t)
  const mine = writer.image({ config: { User: 'mine' } })
  const other = writer.image({ platform: otherPlatform })
  const manifests = [other, mine].map(({ mediaType, digest, size }, i) => {
    const [os, architecture] = (i === 0 ? otherPlatform : hostPlatform).split('/')
    return { mediaType, digest, size, platform: { os, architecture } }
  })
  writer.index([{ ...writer.blob({ schemaVersion: 2, manifests }, indexType), tag: 'multi' }, { ...writer.blob({ schemaVersion: 2, manifests: manifests.slice(0, 1) }, indexType), tag: 'foreign' }])
  assert.equal((await layout.resolve('multi')).digest, mine.digest)
  await assert.rejects(layout.resolve('foreign'), { ...notFound, message: new RegExp(`${hostPlatform}.*${otherPlatform}`) })
})

test('an image for another platform is refused', async t => {
  const { writer, layout } = build(t)
  writer.index([writer.image({ platform: otherPlatform })])
  await assert.rejects(layout.resolve(undefined), notFound)
})

test('a directory without index is no layout, an empty one has no image', async t => {
  const { writer, layout } = build(t)
  await assert.rejects(layout.resolve(undefined), { ...notFound, message: /\/given is not an OCI layout/ })
  writer.index([])
  await assert.rejects(layout.resolve(undefined), { ...notFound, message: /it has no tags/ })
})

test('indexes that lead to themselves or too deep are refused', async t => {
  const { writer, layout } = build(t)
  let inner = writer.blob({ manifests: [] }, indexType)
  for (let i = 0; i < 5; i++) inner = writer.blob({ manifests: [inner] }, indexType)
  writer.index([inner])
  await assert.rejects(layout.resolve(undefined), { ...invalid, message: /nested/ })
})

test('descriptors that are malformed, or whose digest is a path, are refused', async t => {
  const { writer, layout } = build(t)
  const good = writer.image()
  const bad: object[] = [
    { ...good, digest: '../../../../etc/passwd' },
    { ...good, digest: `sha256:${'A'.repeat(64)}` },
    { ...good, digest: `sha256:../${'a'.repeat(61)}` },
    { ...good, digest: `sha512:${'a'.repeat(128)}` },
    { ...good, size: -1 },
    { ...good, size: '5' },
    { ...good, mediaType: 5 },
    { ...good, mediaType: 'application/json' },
  ]
  for (const descriptor of bad) {
    writeFileSync(join(writer.dir, 'index.json'), JSON.stringify({ manifests: [descriptor] }))
    await assert.rejects(layout.resolve(undefined), invalid, JSON.stringify(descriptor))
  }
  for (const content of ['', 'null', '[]', '{}', '{"manifests":{}}', '{"manifests":[null]}', 'x'.repeat(100)]) {
    writeFileSync(join(writer.dir, 'index.json'), content)
    await assert.rejects(layout.resolve(undefined), invalid, content)
  }
})

test('blobs that are missing, changed, links or too large are refused', async t => {
  const damage: Record<string, (path: string) => void> = {
    missing: path => rmSync(path),
    longer: path => appendFileSync(path, ' '),
    changed: path => writeFileSync(path, Buffer.alloc(0)),
    link: path => { renameSync(path, `${path}x`); symlinkSync(`${path}x`, path) },
  }
  for (const [name, apply] of Object.entries(damage)) {
    const { writer, layout } = build(t)
    const image = writer.image()
    writer.index([image])
    apply(writer.blobPath(image.digest))
    await assert.rejects(layout.resolve(undefined), invalid, name)
  }
  const { writer, layout } = build(t)
  writer.index([{ mediaType: manifestType, digest: writer.image().digest, size: 5 * 1024 ** 2 }])
  await assert.rejects(layout.resolve(undefined), { ...invalid, message: /larger/ })
})

test('content of the right size and the wrong digest is refused', async t => {
  const { writer, layout } = build(t)
  const image = writer.image()
  writer.index([image])
  writeFileSync(writer.blobPath(image.digest), Buffer.alloc(image.size, ' '))
  await assert.rejects(layout.resolve(undefined), { ...invalid, message: /another digest/ })
})

test('a layout whose blobs directory or index is a link is refused', async t => {
  for (const name of ['blobs', 'index.json']) {
    const { writer, layout } = build(t)
    writer.index([writer.image()])
    renameSync(join(writer.dir, name), join(writer.dir, 'elsewhere'))
    symlinkSync('elsewhere', join(writer.dir, name))
    await assert.rejects(layout.resolve(undefined), { ...invalid, message: /symbolic link/ }, name)
  }
})
